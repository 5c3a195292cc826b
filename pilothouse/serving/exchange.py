"""One request's life: read its body, ask the steering for an engine, carry the answer, report one end.

States follow one another: describing, waiting for a route, sent to an engine, opened (the client has seen bytes), ended. Until
it is opened a failed attempt can be repeated elsewhere; the head is therefore held until the first byte of the body. Every
path to the end goes through `_end`, which acts once. If another engine computes the prompt first, `handover.py` leads there.
"""

import asyncio
from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING

from pilothouse.core.commands import Abort, AnyCommand, Reject, Route
from pilothouse.core.errors import ClientError
from pilothouse.core.events import Arrived, Cancelled, Failed, FailureKind, Finished, FirstToken
from pilothouse.core.units import BlockKey, EndpointId, Micros
from pilothouse.live.upstream import AnswerHead, Carrier, Receiver
from pilothouse.serving import status as tables
from pilothouse.serving.answer import AnswerWriter
from pilothouse.serving.body import find_model, find_pinned, find_session, read_body
from pilothouse.serving.handover import Asked, Handover
from pilothouse.serving.head import Head
from pilothouse.serving.headers import engine_head, head_start
from pilothouse.serving.plane import Describer, Plane, Prompt
from pilothouse.serving.record import ITL_BOUNDS_US, Record
from pilothouse.serving.routes import Api, Kind, Path
from pilothouse.serving.status import Refusal
from pilothouse.wire.openai import Inspected
from pilothouse.wire.transfer.bodies import is_splittable
from pilothouse.wire.usage import StreamUsage, Usage, first_status

if TYPE_CHECKING:
    from pilothouse.serving.connection import ClientConnection

BYTES_PER_TOKEN = 4  # estimate for prompts that nobody describes
USAGE_TAIL_BYTES = 65_536  # of a unary answer, searched for its counts
_BUCKETS = len(ITL_BOUNDS_US) + 1
OTHER, RESPONSES, STORED = Api.OTHER, Api.RESPONSES, Kind.STORED  # members are slow to look up


class Exchange:
    """Between one client connection and whatever engine answers. Made when the request is complete."""

    # Values that most requests never change are the class's: forty assignments a request would be felt.
    _arrived = _opened = _ended = _stream = _sse = _constrained = _splittable = False
    _carrier: Carrier | None = None
    _handover: Handover | None = None  # of the present attempt, if it has one
    _task: asyncio.Task[None] | None = None
    _prompt: Prompt | None = None
    _route: Route | None = None
    _pinned: str | None = None
    _answer: AnswerWriter | None = None
    _content_type: bytes | None = None
    _usage: StreamUsage | None = None
    _model, _session, _expected = "", 0, 0
    _attempts = _status = _chunks = _bytes_out = _first_us = _heard_us = 0
    _itl: list[int] = []  # noqa: RUF012 - replaced, never changed in place
    _tail = b""
    _trace = _trace_parent = _failure = ""

    def __init__(self, plane: Plane, client: "ClientConnection", head: Head, path: Path, body: bytes) -> None:
        self._plane, self._client, self._head, self._path, self._body = plane, client, head, path, body
        self._api, self._bytes_in = path.api, len(body)
        self._now = plane.clock.now_us
        self._at_us: int = self._now()
        self._shown, self._request = plane.ids.of(head.fields.get(b"x-request-id"))

    # -- from the client's side

    def begin(self) -> None:
        """Starts it; the answer may be complete before this returns."""
        try:
            self._begin()
        except ClientError as error:
            self._refuse(tables.blamed(error))
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            self.crashed(error)

    def client_gone(self) -> None:
        """Nobody waits for the answer any more: stop the engine."""
        if self._ended:
            return
        if self._task is not None:
            self._task.cancel()
        self.let_go()
        self._end(Cancelled(self._now(), self._request), "cancelled", tables.CLIENT_GONE)

    def pause(self) -> None:
        """The client cannot take more for now."""
        if self._carrier is not None:
            self._carrier.pause(self)

    def resume(self) -> None:
        """It can again."""
        if self._carrier is not None:
            self._carrier.resume(self)

    # -- from the steering

    def answer(self, command: AnyCommand) -> None:
        """Obeys a command."""
        if self._ended:
            return
        try:
            if isinstance(command, Route):
                self._send(command)
            elif isinstance(command, Reject):
                self._arrived = False  # the steering has ended it
                self._refuse(tables.rejected(command))
            elif isinstance(command, Abort) and self._carrier is not None:
                at_prefill = self._handover is not None and self._handover.prefill == command.endpoint
                self.give_up(FailureKind.TIMEOUT, "aborted: the engine hangs", prefill=at_prefill)
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            self.crashed(error)

    # -- from the engine's side

    def carried_by(self, carrier: Carrier) -> None:
        """Where the request is now."""
        self._carrier = carrier

    def head(self, head: AnswerHead, length: int | None, now_us: int) -> bool:
        """Keeps a good head until its body begins; a 5xx or 429 fails the attempt."""
        failure = tables.failure_of(head.status)
        if failure is not None:
            self._carrier = None
            self.failed(failure, f"the engine answered {head.status}")
            return False
        self._status = head.status
        self._answer = writer = AnswerWriter(head, length, self._head.minor)
        self._sse = writer.is_event_stream
        return True

    def body(self, data: bytes, last: bool, now_us: int) -> None:
        """Passes body bytes on. The first ones open the answer."""
        writer = self._answer
        assert writer is not None
        if last:
            self._carrier = None
        if self._opened:
            out = writer.frame(data, last)
            if data and self._sse:
                self._itl[bisect_left(ITL_BOUNDS_US, now_us - self._heard_us)] += 1
        elif self._sse and (failure := tables.failure_of(first_status(data))) is not None:
            self.let_go()
            self.failed(failure, "the engine answered an error as a stream")
            return
        elif self._handover is not None and self._handover.is_late(now_us):
            self.give_up(FailureKind.EXPIRED, "the KV was not here in time")
            return
        else:
            out = self._open(writer, now_us) + writer.frame(data, last)
        self._heard_us = now_us
        self._client.write(out)
        if data:
            self._chunks += 1
            self._bytes_out += len(data)
            if self._usage is not None:
                if self._chunks == 1:
                    self._plane.steering.tell(FirstToken(Micros(now_us), self._request))
                self._usage.feed(data)
            else:
                self._tail = (self._tail + data)[-USAGE_TAIL_BYTES:] if self._tail else data
            if self._chunks == 1 and self._api is RESPONSES and self._route is not None:
                self._plane.stored.read(data, self._route.endpoint)
        if last:
            self._finish(now_us)

    def chunk(self, framed: bytes, start: int, now_us: int) -> None:
        """Passes on one chunk as it came. Called for each token of each stream, so it does the least that has to be done."""
        data = framed[start:-2]
        self._client.write(framed if self._answer.is_chunked else data)  # type: ignore[union-attr]
        if self._usage is not None:
            self._itl[bisect_left(ITL_BOUNDS_US, now_us - self._heard_us)] += 1
            self._usage.feed(data)
        else:
            self._tail = (self._tail + data)[-USAGE_TAIL_BYTES:]
        self._heard_us = now_us
        self._chunks += 1
        self._bytes_out += len(data)

    def failed(self, kind: FailureKind, what: str, *, prefill: bool = False) -> None:
        """The attempt failed: the steering decides what next, unless the client has seen bytes."""
        if self._ended:
            return
        self._carrier, self._failure = None, what
        if not self._opened:
            handover, self._handover, self._answer = self._handover, None, None
            if handover is not None:
                prefill = prefill or handover.is_suspect(kind)
                handover.drop()
            self._plane.steering.tell(Failed(self._now(), self._request, kind, False, prefill))
            return
        if self._sse and self._answer is not None:
            whole = self._usage is None or self._usage.ends_whole()
            self._client.write(self._answer.frame(tables.last_events(kind, self._api, whole), True))
            keep = self._answer.is_delimited
        else:
            keep = False
            self._client.cut()
        self._end(Failed(self._now(), self._request, kind, True), "failed", self._status, kind.value)
        self._client.done(keep)

    def give_up(self, kind: FailureKind, what: str, *, prefill: bool = False) -> None:
        """The attempt is given up by us."""
        self.let_go()
        self.failed(kind, what, prefill=prefill)

    def let_go(self) -> None:
        """Stops whatever is under way at engines."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.abort(self)
        if self._handover is not None:
            self._handover.drop()

    def crashed(self, error: Exception) -> None:
        """A bug of ours, contained here: the request ends, the gateway does not."""
        context = {"message": f"request {self._request} crashed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
        if self._ended:
            self._client.cut()
            return
        self.let_go()
        if self._opened:
            self._client.cut()
            with suppress(Exception):  # the steering itself may be what is broken
                self._end(Failed(self._now(), self._request, FailureKind.ERROR, True), "failed", self._status, "crash")
            self._client.done(False)
        else:
            with suppress(Exception):
                if self._arrived:
                    self._arrived = False
                    self._plane.steering.tell(Cancelled(self._now(), self._request))
            self._refuse(tables.INTERNAL)

    # -- the way to the engine

    def _begin(self) -> None:
        head, plane, api = self._head, self._plane, self._api
        found, self._content_type = read_body(head, self._path, self._body, plane.settings.grants)
        self._model = model = find_model(found, api) or plane.directory.default_model() or ""
        self._stream, self._body, self._constrained = found.stream, found.raw, found.constrained
        if found.previous_response is not None or self._path.kind is STORED:
            self._pinned = find_pinned(plane.stored, head, self._path, found)
        if plane.contexts is not None:
            trace, self._trace_parent = plane.contexts.child(head.fields.get(b"traceparent"))
            self._trace = trace.decode()
        self._session = find_session(head, found, plane.settings.session_field)
        self._splittable = is_splittable(head.path, found.fields, salted=plane.settings.salted_splits)
        huge = plane.settings.is_huge(len(found.raw), found.fields.get("messages"))
        describer = None if api is OTHER or huge else plane.directory.tokens(model)
        if describer is None:
            self._arrive(None, found.output_tokens_max)
            return
        prompt = describer.describe(head.path, found.fields)
        if prompt is not None:
            self._arrive(prompt, found.output_tokens_max)
            return
        self._task = plane.spawn(self._describe_slowly(describer, found), "describe")

    async def _describe_slowly(self, describer: Describer, found: Inspected) -> None:
        try:
            prompt = await describer.describe_slowly(self._head.path, found.fields)
            self._task = None
            if not self._ended:
                self._arrive(prompt, found.output_tokens_max)
        except ClientError as error:
            self._refuse(tables.blamed(error))
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            self.crashed(error)

    def _arrive(self, prompt: Prompt | None, output_tokens_max: int | None) -> None:
        self._prompt = prompt
        if prompt is None:
            tokens, blocks, block_size = len(self._body) // BYTES_PER_TOKEN, list[BlockKey](), 0
        else:
            tokens, blocks = prompt.tokens, prompt.blocks  # type: ignore[assignment]  # keys are ints until here
            block_size = self._plane.directory.block_size(self._model) if blocks else 0
        self._arrived = True
        arrived = Arrived(
            self._now(),
            self._request,
            self._model,
            tokens,
            blocks,
            block_size,
            self._stream,
            output_tokens_max,
            self._session,
            None if self._pinned is None else EndpointId(self._pinned),
            self._constrained,
            self._splittable,
        )
        self._plane.steering.arrive(arrived, self.answer)

    def _send(self, route: Route) -> None:
        self._route, self._attempts, self._expected = route, self._attempts + 1, route.cached_tokens
        if route.prefill is None:
            self.post(self, route.url, self._body, self._request)
            return
        asked = Asked(self._request, self._attempts, self._head.path, self._body, self._stream, self._prompt)
        self._handover = Handover(self, self._plane, route, asked)
        self._handover.begin()

    def post(self, receiver: Receiver, url: str, body: bytes, name: str, *, once: bool = False) -> None:
        """Sends a body to an engine under the client's head; the engine knows the request by `name`."""
        plane, head = self._plane, self._head
        pool = plane.upstream.pool(url)
        key, ours = plane.directory.engine_key(self._model), bool(plane.settings.client_keys)
        start = head_start(head, pool.authority, key, queried=self._api is OTHER, keyed=ours)
        more = (self._content_type, len(body), self._client.peer, self._trace)
        pool.send(receiver, engine_head(head, start, name, *more), body, once=once)

    # -- the way back

    def _open(self, writer: AnswerWriter, now_us: int) -> bytes:
        self._opened, self._first_us = True, now_us
        self._body = b""  # it will not be sent again
        if self._sse:
            self._usage = StreamUsage()
            self._itl = [0] * _BUCKETS
        if self._client.is_write_paused:
            self.pause()
        if self._handover is not None:
            self._handover.opened(now_us)
        assert self._route is not None
        step, keep = self._route.prefill, self._client.may_keep_alive
        prefill = "" if step is None else step.endpoint
        return writer.head(self._shown, self._route.endpoint, self._expected, self._attempts, keep, prefill)

    def _finish(self, now_us: int) -> None:
        usage, output = Usage(), None
        if self._usage is not None:
            usage, output = self._usage.usage, self._usage.output_tokens()
        elif self._status < 300 and self._api is not OTHER:
            usage.read(self._tail)
            output = usage.output_tokens
        event = Finished(Micros(now_us), self._request, usage.prompt_tokens, usage.cached_tokens, output)
        self._end(event, "finished", self._status)
        self._client.done(self._answer is not None and self._answer.is_delimited)

    def _refuse(self, refusal: Refusal) -> None:
        if self._ended:
            return
        more = b"" if self._attempts < 2 else b"x-pilothouse-attempts: %d\r\n" % self._attempts
        self._client.reply_refusal(refusal, self._api, self._shown, more)
        self._end(None, "refused", refusal.status, refusal.code)
        self._client.done(True)

    def _end(self, event: Finished | Failed | Cancelled | None, outcome: str, status: int, code: str = "") -> None:
        if self._ended:
            return
        self._ended = True
        try:
            if event is not None and self._arrived:
                self._plane.steering.tell(event)
        finally:
            self._observe(event, outcome, status, code)

    def _observe(self, event: Finished | Failed | Cancelled | None, outcome: str, status: int, code: str) -> None:
        """Hands on the record, whose fields come in their order: by name they would cost four times as much."""
        done = event if isinstance(event, Finished) else None
        if done is None and self._usage is not None:  # cut short: what was seen until then
            done = Finished(self._now(), self._request, output_tokens=self._usage.output_tokens())
        counts = (None, None, None) if done is None else (done.prompt_tokens, done.cached_tokens, done.output_tokens)
        prompt, route, way = self._prompt, self._route, self._handover
        self._plane.observe(
            Record(
                self._request,
                self._head.method,
                self._head.path,
                self._api,
                self._path.kind,
                status,
                outcome,
                code,
                self._model,
                "" if route is None else route.endpoint,
                self._attempts,
                self._stream,
                self._at_us,
                self._first_us - self._at_us if self._opened else None,
                self._now() - self._at_us,
                *((0, "", "") if prompt is None else (prompt.tokens, prompt.mode, prompt.note)),
                self._expected,
                *counts,
                self._chunks,
                self._bytes_in,
                self._bytes_out,
                self._session,
                self._trace,
                self._trace_parent,
                "" if way is None else way.prefill,
                None if way is None else way.prefill_us,
                None if way is None else way.transfer_us,
                self._failure,
                self._itl,
            )
        )
