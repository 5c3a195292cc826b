"""What all connections of one front door share: settings, collaborators, and the counts that are bounded."""

import asyncio
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

from pilothouse.core.units import RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.steering import Steering
from pilothouse.live.timers import Timers
from pilothouse.live.upstream import Upstream
from pilothouse.serving.record import Observe
from pilothouse.serving.settings import FrontSettings
from pilothouse.serving.tracing import Contexts
from pilothouse.wire.usage import response_id

if TYPE_CHECKING:
    from pilothouse.serving.connection import ClientConnection

RESPONSE_ID_BYTES = 4_096  # of the first body bytes, searched for the id of a stored response


class Prompt(Protocol):
    """What is known of a prompt: its size, its full KV blocks, and how that is known."""

    @property
    def tokens(self) -> int: ...
    @property
    def blocks(self) -> list[int]: ...
    @property
    def mode(self) -> str: ...
    @property
    def note(self) -> str: ...


class Describer(Protocol):
    """Describes the prompts of one model. `route` is the path; both may raise ClientError."""

    def describe(self, route: str, body: dict[str, Any]) -> Prompt | None: ...

    async def describe_slowly(self, route: str, body: dict[str, Any]) -> Prompt: ...


class Directory(Protocol):
    """What models there are. Asked on each request, so it answers from memory."""

    def models(self) -> list[dict[str, Any]]:
        """The entries of GET /v1/models, merged over the fleet."""
        ...

    def default_model(self) -> str | None:
        """For requests that name none: the only model, or the one that configuration says."""
        ...

    def tokens(self, model: str) -> Describer | None:
        """Who describes prompts for `model`; None when nobody can."""
        ...

    def engine_key(self, model: str) -> str | None:
        """The API key of the model's engines, sent in place of the client's; None = they ask for none."""
        ...

    def block_size(self, model: str) -> int:
        """Tokens per block of what that describer returns; 0 when unknown."""
        ...


class Keys:
    """The accepted API keys. Only keyed digests are kept and compared, so timing says nothing about a key."""

    def __init__(self, keys: frozenset[str]) -> None:
        self._secret = os.urandom(32)
        self._digests = frozenset(self._digest(key.encode()) for key in keys)

    def admit(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether a request with these header fields holds an accepted key, or none is needed."""
        if not self._digests:
            return True
        scheme, _, token = fields.get(b"authorization", b"").partition(b" ")
        key = token.strip(b" ") if scheme.lower() == b"bearer" else fields.get(b"x-api-key", b"")
        return self._digest(key) in self._digests

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._secret, digest_size=32).digest()


class RequestIds:
    """Ids of requests: the client's own if it is harmless, made otherwise."""

    _HARMLESS = re.compile(rb"[A-Za-z0-9._~:-]{1,128}")
    _BATCH = 256

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0
        self._process = os.urandom(4).hex()  # ids are unique among all workers
        self._count = 0

    def of(self, given: bytes | None) -> tuple[str, RequestId]:
        """(id shown to the client, id unique in the dispatcher)."""
        if given is not None and self._HARMLESS.fullmatch(given):
            shown = given.decode()
            self._count += 1  # never used twice: a client may send one id as often as it likes
            return shown, RequestId(f"{shown}~{self._process}{self._count:x}")
        at = self._at
        if at == len(self._digits):
            self._digits, at = os.urandom(16 * self._BATCH).hex(), 0
        self._at = at + 32
        digits = self._digits
        made = f"{digits[at : at + 12]}4{digits[at + 13 : at + 16]}a{digits[at + 17 : at + 32]}"  # as a random UUID
        return made, RequestId(made)


class StoredResponses:
    """Which engine holds which stored response; the oldest are forgotten."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self.tell: Callable[[str, str], None] = lambda response, endpoint: None  # other workers should know as well
        self._endpoints: OrderedDict[str, str] = OrderedDict()

    def made(self, response: str, endpoint: str) -> None:
        """It was made here: remembers, and lets others know."""
        self.learn(response, endpoint)
        self.tell(response, endpoint)

    def read(self, data: bytes, endpoint: str) -> None:
        """The first bytes of an answer made at `endpoint`, which may be a response that is stored there."""
        response = response_id(data[:RESPONSE_ID_BYTES])
        if response is not None:
            self.made(response, endpoint)

    def learn(self, response: str, endpoint: str) -> None:
        """Remembers where `response` was made."""
        self._endpoints[response] = endpoint
        self._endpoints.move_to_end(response)
        if len(self._endpoints) > self._count_max:
            self._endpoints.popitem(last=False)

    def find(self, response: str) -> str | None:
        """The endpoint that holds it, if known."""
        endpoint = self._endpoints.get(response)
        if endpoint is not None:
            self._endpoints.move_to_end(response)
        return endpoint

    def forget(self, response: str) -> None:
        """It was deleted."""
        self._endpoints.pop(response, None)


class Plane:
    """One per front door."""

    def __init__(
        self, settings: FrontSettings, steering: Steering, directory: Directory, clock: Clock, observe: Observe
    ) -> None:
        self.settings, self.steering, self.directory = settings, steering, directory
        self.clock, self.observe = clock, observe
        self.timers = Timers(clock, settings.timer_tick_us)
        self.upstream = Upstream(settings.upstream, clock, self.timers)
        self.keys, self.ids = Keys(settings.client_keys), RequestIds()
        self.stored = StoredResponses(settings.stored_responses_max)
        self.connections: dict[ClientConnection, None] = {}  # in order of arrival
        self.tasks: set[asyncio.Task[None]] = set()  # prompts being described
        self.arriving_bytes = 0  # bodies announced and not yet complete
        self.contexts: Contexts | None = None  # set when spans are made
        self.draining = False

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task of one request, ended with the front door at the latest."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
