"""Generation requests of one emulated engine: from a body to work on the engine."""

import asyncio
from collections.abc import Callable

import xxhash

from pilothouse.core.random_stream import Random
from pilothouse.core.units import RequestId
from pilothouse.emulate import asked as asking
from pilothouse.emulate.answer import Answer, StreamedAnswer
from pilothouse.emulate.asked import CHAT, Asked
from pilothouse.emulate.bodies import Named
from pilothouse.emulate.connection import Connection, Request
from pilothouse.emulate.errors import Refused
from pilothouse.emulate.faults import NONE, Faults
from pilothouse.emulate.filler import Words
from pilothouse.emulate.kv_blocks import Chain
from pilothouse.emulate.loras import Loras
from pilothouse.emulate.prompts import INLINE_CHARS, Found, Prompt, Prompts, Read, scope_of
from pilothouse.emulate.replica import Replica
from pilothouse.emulate.settings import Settings
from pilothouse.emulate.transfer import engines_name, handed_over
from pilothouse.emulate.work import Work
from pilothouse.live.clock import Clock
from pilothouse.live.tokens.dialect import ID_BYTES, Scope, pack

ID_CHARS_MAX = 128  # of a client's x-request-id


class Generation:
    """Reads requests and starts them."""

    def __init__(
        self, settings: Settings, prompts: Prompts, words: Words, replica: Replica, loras: Loras, luck: Random,
        address: Callable[[], tuple[str, int]], engine_id: str,
    ) -> None:  # fmt: skip
        self.faults: Faults = NONE
        self._settings, self._prompts, self._words, self._loras = settings, prompts, words, loras
        self._replica, self._luck, self._address, self._engine_id = replica, luck, address, engine_id
        self._clock = Clock()
        self._requests = 0
        self._reading: set[asyncio.Task[None]] = set()

    def handle(self, connection: Connection, request: Request) -> None:
        """A POST to one of the two routes. Raises Refused."""
        self._requests += 1
        number = self._requests
        if not request.headers.get("content-type", "application/json").startswith("application/json"):
            what = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise Refused(what, kind="Bad Request")
        body = asking.decode(request.body)
        asked = asking.read(body, request.path == CHAT, self._prompts.max_model_len)
        lora = self._loras.find(asked.model)
        if self.faults.error_rate and self._luck.random() < self.faults.error_rate:
            raise Refused("Internal server error: a fault was asked for", self.faults.error_status)
        self._replica.check_room()
        read, scope = self._prompts.read(request.path, body), scope_of(body, lora)
        named = self._named(request, asked, number)
        prompts, found = self._prompts, None
        if sum(map(len, read.unknown)) <= INLINE_CHARS:
            found = prompts.look_up(prompts.ids(read, prompts.encode(read.unknown)), scope)
            if found.is_short:
                self._start(connection, named, asked, prompts.name(found, prompts.compute(found)))
                return
        task = asyncio.get_running_loop().create_task(
            self._start_slowly(connection, named, asked, read, scope, found), name=f"prompt/{named.id}"
        )
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        connection.gone = task.cancel  # type: ignore[assignment]

    def close(self) -> None:
        for task in list(self._reading):
            task.cancel()

    async def _start_slowly(
        self, connection: Connection, named: Named, asked: Asked, read: Read, scope: Scope, found: Found | None
    ) -> None:
        """A long prompt: it is encoded and hashed in a thread."""
        prompts = self._prompts
        try:
            if found is None:
                encoded = await asyncio.to_thread(prompts.encode, read.unknown)
                found = prompts.look_up(prompts.ids(read, encoded), scope)
            computed = await asyncio.to_thread(prompts.compute, found)
            self._start(connection, named, asked, prompts.name(found, computed))
        except Refused as refused:
            connection.refuse(refused)

    def _named(self, request: Request, asked: Asked, number: int) -> Named:
        given = request.headers.get("x-request-id", "")[:ID_CHARS_MAX]
        name = (
            given if given.isascii() and given.isprintable() and given else f"emulated{self._luck.getrandbits(64):016x}"
        )
        prefix = "chatcmpl" if asked.is_chat else "cmpl"
        model = asked.model or self._settings.served
        return Named(f"{prefix}-{name}", int(self._clock.wall_s()), model, asked.is_chat)

    def _start(self, connection: Connection, named: Named, asked: Asked, prompt: Prompt) -> None:
        settings, replica = self._settings, self._replica
        room = self._prompts.max_model_len - prompt.tokens
        tokens, finish = asked.tokens(room, settings.wanted.output_tokens)
        seed = xxhash.xxh3_64_digest(prompt.digest + prompt.ids[-settings.spec.block_size * ID_BYTES :])
        plan = self._words.plan(seed, tokens)
        kind = StreamedAnswer if asked.stream else Answer
        answer = kind(connection, named, asked, prompt, plan, finish)
        ids = plan.ids(0, tokens - 1)  # the last token's KV is never computed
        chain = Chain(
            prompt.keys + self._prompts.continued(prompt, ids),
            prompt.ids + pack(ids),
            prompt.scope,
            self._loras.number(prompt.scope.lora[0]) if prompt.scope.lora else None,
        )
        work = Work(RequestId(f"{named.id}#{self._requests}"), answer, chain)
        self._hand_over(work, asked)
        if self.faults.disconnect_rate and self._luck.random() < self.faults.disconnect_rate:
            answer.cut_after = self.faults.disconnect_after
        connection.answer, connection.gone = answer, lambda: replica.cancel(work)
        replica.submit(work)
        answer.begin()

    def _hand_over(self, work: Work, asked: Asked) -> None:
        """Whether its KV is kept for somebody or comes from somebody, and what the answer says of that."""
        settings, prompt, answer, given = self._settings, work.answer.prompt, work.answer, asked.transfer
        if given.get("do_remote_decode"):
            host, port = self._address()
            work.kept_as = engines_name(answer.named.id, answer.named.is_chat, self._requests)
            answer.transfer = handed_over(
                work.kept_as,
                prompt.tokens,
                settings.spec.block_size,
                settings.wanted.tp,
                self._engine_id,
                host,
                port,
            )
        if not given.get("do_remote_prefill"):
            return
        claimed = given.get("remote_num_tokens", prompt.tokens)
        if claimed != prompt.tokens:
            raise Refused(f"kv_transfer_params are of a prompt of {claimed} tokens, this one has {prompt.tokens}", 500)
        work.handed_by = str(given.get("remote_engine_id")), str(given.get("remote_request_id"))
        answer.shown_cached = int(given.get("remote_prefill_cached_tokens") or 0)
