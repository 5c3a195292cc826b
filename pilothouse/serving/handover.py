"""A split request's way to its decode engine: the prefill step, what has to be asked meanwhile, and the claim of the KV.

    prefill engine   ──one token──▶ parameters ─┐
    bootstrap server ──asked meanwhile──────────┤
                                                ▼
    decode engine    streamed: the client's request with the parameters; its first byte shows that the KV was there
                     otherwise: one token with the parameters, which only fetches; then the client's request without

Engines keep KV for whoever may claim it for no longer than a lease, and answer a claim that comes later with another
prompt's tokens. When the lease began is not known, only when the prefill's answer was here. So half of it is ours, and the
other half covers what cannot be seen: the answer's way to us. Parameters live in one object of this kind, which belongs to
one attempt at one request; they are sent once, on a connection that has carried nothing, since a request on a used one may
go out twice.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from pilothouse.core.commands import Route
from pilothouse.core.events import FailureKind, FirstToken, PrefillDone
from pilothouse.core.units import Micros, RequestId
from pilothouse.live.timers import NEVER
from pilothouse.live.upstream import AnswerHead, Receiver
from pilothouse.serving import status as tables
from pilothouse.serving.plane import Plane, Prompt
from pilothouse.serving.step import Step
from pilothouse.wire.transfer.adapter import Fields, Transfer, Unusable
from pilothouse.wire.transfer.answer import Prefilled, read_prefilled
from pilothouse.wire.transfer.bodies import RESPONSES, one_token, with_fields
from pilothouse.wire.transfer.table import ADAPTERS

if TYPE_CHECKING:
    from pilothouse.serving.exchange import Exchange

BLAMING = frozenset([400, 413, 422])  # the request is at fault: no other engine would take it either


@dataclass(frozen=True, slots=True)
class Asked:
    """The client's request, as far as its steps are made of it."""

    request: RequestId
    attempt: int
    path: str
    body: bytes
    stream: bool
    prompt: Prompt | None

    @property
    def tokens(self) -> int | None:
        """Of the prompt, if they are known exactly."""
        return self.prompt.tokens if self.prompt is not None and self.prompt.mode == "exact" else None

    @property
    def name(self) -> str:
        """For both engines, which may remember an earlier attempt by its own."""
        return self.request if self.attempt == 1 else f"{self.request}.{self.attempt}"


class Handover:
    """One attempt. Carries the request for its exchange until the decode step is under way."""

    def __init__(self, exchange: "Exchange", plane: Plane, route: Route, asked: Asked) -> None:
        step = route.prefill
        assert step is not None
        self.slot = NEVER
        self.prefill = step.endpoint
        self.prefill_us: int | None = None
        self.transfer_us: int | None = None
        self._exchange, self._plane, self._asked = exchange, plane, asked
        self._url, self._decode_url = step.url, route.url
        connector = plane.settings.connector(step.url, step.connector)
        self._adapter = ADAPTERS[connector.kind]
        host = urlsplit(step.url).hostname or ""
        self._transfer = Transfer(asked.name, host, connector.port or self._adapter.port)
        self._half_us = connector.lease_us // 2
        self._claims = False  # the decode engine was given parameters, and has not shown that it has the KV
        self._due_us = NEVER
        self._began_us = self._prefilled_us = 0
        self._steps: dict[str, Step] = {}  # under way, by what they are for
        self._prefilled: Prefilled | None = None
        self._told: bytes | None = None
        self._gone = False

    def begin(self) -> None:
        """Sends what can be sent."""
        adapter, transfer = self._adapter, self._transfer
        self._began_us = self._plane.clock.now_us()
        more = adapter.prefill(transfer)
        if adapter.together:  # what one side does is of no use to the client without the other
            self._start("prefill", self._url, with_fields(self._asked.body, more))
            self._send_decode(adapter.decode(transfer, None, b""))
            return
        self._exchange.carried_by(self)
        path = adapter.asks(transfer)
        if path:
            self._ask(path)
        else:
            self._told = b""
        self._start("prefill", self._url, one_token(self._asked.path, self._asked.body, more, transfer.name))

    # -- as the carrier of the exchange

    def abort(self, receiver: Receiver) -> None:
        self.drop()

    def pause(self, receiver: Receiver) -> None:
        """Nothing reaches the client yet."""

    def resume(self, receiver: Receiver) -> None:
        """Nothing reaches the client yet."""

    # -- from the exchange

    def drop(self) -> None:
        """The attempt is over, or its answer has begun: whatever is still under way here is of no use."""
        self._gone, self._prefilled, self._told = True, None, None
        steps, self._steps = self._steps, {}
        for step in steps.values():
            step.drop()

    def is_suspect(self, kind: FailureKind) -> bool:
        """Whether a failure of the decode step may be the prefill engine's: one that is well says the same of a claim
        whose other end is gone."""
        return self._claims and kind is FailureKind.ERROR

    def is_late(self, now_us: int) -> bool:
        """Whether the KV may have been another prompt's when it was claimed."""
        return now_us > self._due_us

    def opened(self, now_us: int) -> None:
        """The decode engine's answer has begun."""
        if self._adapter.together and not self._gone:
            self._tell_done(None, now_us)
        if self.transfer_us is None and self._prefilled_us:
            self.transfer_us = now_us - self._prefilled_us
        self.drop()

    # -- from the timers

    def due(self, now_us: int) -> int:
        if self._gone or self._due_us == NEVER:
            return 0
        if now_us <= self._due_us:
            return self._due_us
        try:
            self._exchange.give_up(FailureKind.EXPIRED, "the KV was not here in time", prefill=not self._claims)
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            self._exchange.crashed(error)
        return 0

    # -- from the steps

    def answered(self, purpose: str, head: AnswerHead, body: bytes, now_us: int) -> None:
        self._steps.pop(purpose, None)
        if purpose == "prefill":
            self._on_prefill(head, body, now_us)
        elif purpose == "question":
            self._told = body
            self._on_known()
        else:
            self._on_fetched(now_us)

    def refused(self, purpose: str, head: AnswerHead, body: bytes, now_us: int) -> None:
        """An answer with a status that is no success."""
        self._steps.pop(purpose, None)
        if purpose == "fetch" and tables.failure_of(head.status) is None:
            self._send_plain()  # it will say the same of the request itself, which claims nothing
        elif purpose == "prefill" and head.status in BLAMING:
            self._exchange.let_go()
            if self._exchange.head(head, len(body), now_us):
                self._exchange.body(body, True, now_us)
        else:
            kind = tables.failure_of(head.status) or FailureKind.ERROR
            self.failed(purpose, kind, f"the {purpose} step was answered {head.status}")

    def failed(self, purpose: str, kind: FailureKind, what: str) -> None:
        if self._gone:
            return
        self._steps.pop(purpose, None)
        self._exchange.give_up(kind, what, prefill=purpose != "fetch")

    def crashed(self, error: Exception) -> None:
        self._exchange.crashed(error)

    # -- parts

    def _on_prefill(self, head: AnswerHead, body: bytes, now_us: int) -> None:
        if self._adapter.together:
            self._tell_done(None, now_us)
            return
        try:
            prefilled = read_prefilled(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.failed("prefill", FailureKind.GARBAGE, f"the prefill engine's answer cannot be read: {error}")
            return
        if not prefilled.end:
            self.failed("prefill", FailureKind.ERROR, "the prefill engine broke off its answer")
            return
        if self._asked.tokens not in (None, prefilled.prompt_tokens):
            what = f"the prefill engine counts {prefilled.prompt_tokens} prompt tokens, not {self._asked.tokens}"
            self.failed("prefill", FailureKind.GARBAGE, what)
            return
        self._prefilled = prefilled
        if self._adapter.leased:
            # Had this process been stopped, the answer would have waited for us since the timers last turned.
            self._due_us = min(now_us, self._plane.timers.awake_us) + self._half_us
            self._plane.timers.watch(self, self._due_us)
        self._on_known()

    def _on_known(self) -> None:
        """Claims the KV, once all is there for that."""
        prefilled, told = self._prefilled, self._told
        if prefilled is None or told is None:
            return
        self._prefilled = self._told = None
        now_us = self._plane.clock.now_us()
        if self.is_late(now_us):
            self.failed("prefill", FailureKind.EXPIRED, "the prefill's answer came too late")
            return
        try:
            more = self._adapter.decode(self._transfer, prefilled, told)
        except Unusable as error:
            self.failed("prefill", FailureKind.GARBAGE if error.kept else FailureKind.EXPIRED, str(error))
            return
        self._tell_done(prefilled, now_us)
        asked, self._claims = self._asked, self._adapter.leased
        if self._claims and (not asked.stream or asked.path == RESPONSES):
            # An answer in one piece shows no first token, and this API's streams begin before theirs.
            self._start("fetch", self._decode_url, one_token(asked.path, asked.body, more, asked.name), once=True)
        else:
            self._send_decode(more)

    def _on_fetched(self, now_us: int) -> None:
        if self.is_late(now_us):
            self.failed("fetch", FailureKind.EXPIRED, "the KV was not here in time")
            return
        self.transfer_us = now_us - self._prefilled_us
        self._plane.steering.tell(FirstToken(Micros(now_us), self._asked.request))
        self._send_plain()

    def _send_plain(self) -> None:
        """The client's request, to an engine that has the KV now, or can compute it."""
        self._claims, self._due_us = False, NEVER
        asked = self._asked
        self._exchange.post(self._exchange, self._decode_url, asked.body, asked.request)

    def _send_decode(self, more: Fields) -> None:
        asked = self._asked
        body = with_fields(asked.body, more)
        self._exchange.post(self._exchange, self._decode_url, body, asked.name, once=bool(more))

    def _start(self, purpose: str, url: str, body: bytes, *, once: bool = False) -> None:
        step = self._steps[purpose] = Step(self, purpose)
        self._exchange.post(step, url, body, self._transfer.name, once=once)

    def _ask(self, path: str) -> None:
        step = self._steps["question"] = Step(self, "question")
        pool = self._plane.upstream.pool(self._transfer.server)
        pool.send(step, b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (path.encode(), pool.authority), b"")

    def _tell_done(self, prefilled: Prefilled | None, now_us: int) -> None:
        if self._prefilled_us:
            return
        self._prefilled_us, self.prefill_us = now_us, now_us - self._began_us
        counts = (None, None) if prefilled is None else (prefilled.prompt_tokens, prefilled.cached_tokens)
        self._plane.steering.tell(PrefillDone(Micros(now_us), self._asked.request, *counts))
