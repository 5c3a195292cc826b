"""One stage, sent by the clock: no completion ever delays a scheduled request, and no late one moves the others.

One heap holds what is to be sent next, one timer waits for its head. Requests that follow others enter the heap when
those have ended. Between two sends, requests that come soon are made ready in small steps, so that arriving answers are
stamped in time. Every planned request ends as one outcome, or was not sent because the run was stopped.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from pilothouse.bench.answer import Answer
from pilothouse.bench.bodies import Bodies, Request, read_answer
from pilothouse.bench.conversations import Conversations, Told
from pilothouse.bench.settings import Server, Settings
from pilothouse.bench.watch import ClientFigures, Watch
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.upstream import Pool
from pilothouse.workload.outcomes import Histogram, Outcome
from pilothouse.workload.requests import Planned, Stage

STOPPED = "cancelled: the run was stopped"
NOT_SENT = "not sent: too many requests in flight already"


@dataclass(slots=True)
class Counts:
    """How far a stage is."""

    sent: int = 0
    served: int = 0
    failed: int = 0


@dataclass(slots=True)
class StageResult:
    """What came of one stage."""

    stage: Stage
    start_us: Micros
    outcomes: list[Outcome]
    gaps: dict[str, Histogram]  # by tenant
    client: ClientFigures
    unsent: int  # planned, and not reached when the run was stopped
    counted_chunks: int  # answers whose tokens the server did not count
    unlike_tokens: int  # answers with more or fewer tokens than planned
    merged_tokens: int  # tokens that came in one chunk with others, or without text
    written_anew: int  # turns that could not go on from what was said
    cache_told: bool  # the server said how much of each prompt was cached


@dataclass(slots=True)
class StageLoad:
    """Sends one stage. `tell` hears of the progress about once a second."""

    stage: Stage
    settings: Settings
    server: Server
    bodies: Bodies
    pool: Pool
    clock: Clock
    tell: Callable[["StageLoad"], None]
    counts: Counts = field(default_factory=Counts)
    in_flight: dict[RequestId, Answer] = field(default_factory=dict)
    start_us: int = 0
    _due: list[tuple[int, int, Planned]] = field(default_factory=list)
    _followers: dict[RequestId, list[Planned]] = field(default_factory=dict)
    _ready: dict[RequestId, Request] = field(default_factory=dict)
    _ready_bytes: int = 0
    _opening: list[Planned] = field(default_factory=list)  # sent by the clock alone, in order
    _next: int = 0  # of _opening, the first one that is not ready
    _block: int = 0  # and the first block of it that is not there
    _preparing: bool = False
    _numbered: int = 0
    _timer: asyncio.TimerHandle | None = None
    _outcomes: list[Outcome] = field(default_factory=list)
    _gaps: dict[str, Histogram] = field(default_factory=dict)
    _done: asyncio.Future[None] | None = None
    _stopped: bool = False
    _watch: Watch | None = None
    _talks: Conversations = field(default_factory=lambda: Conversations([], 0))
    _counted_chunks: int = 0
    _unlike: int = 0
    _merged: int = 0
    _cache_told: bool = False

    async def run(self) -> StageResult:
        """Sends all, waits for all."""
        self._talks = Conversations(self.stage.requests, self.settings.told_bytes_max)
        for planned in self.stage.requests:
            if planned.after is None:
                self._opening.append(planned)
            else:
                self._followers.setdefault(planned.after, []).append(planned)
        self._opening.sort(key=lambda planned: planned.arrival_us)  # stable: equal times stay in the plan's order
        while not self._stopped and self._prepare_step():
            await asyncio.sleep(0)
        watch = self._watch = Watch(self.clock, lambda: self.tell(self))
        self._done = asyncio.get_running_loop().create_future()
        watch.start()
        self.start_us = self.clock.now_us()
        for planned in [] if self._stopped else self._opening:
            self._plan(self.start_us + planned.arrival_us, planned)
        try:
            self._pump()
            await self._done
        finally:
            watch.stop()
            if self._timer is not None:
                self._timer.cancel()
        unsent = len(self.stage.requests) - len(self._outcomes)
        return StageResult(
            self.stage, Micros(self.start_us), self._outcomes, self._gaps, watch.figures(), unsent,
            self._counted_chunks, self._unlike, self._merged, self._talks.written_anew, self._cache_told,
        )  # fmt: skip

    def stop(self) -> None:
        """Sends nothing more and drops what is in flight."""
        self._stopped = True
        self._due.clear()
        for answer in list(self.in_flight.values()):
            answer.cancel(STOPPED)
        self._end_if_over()

    @property
    def seconds(self) -> float:
        """Since its beginning."""
        return (self.clock.now_us() - self.start_us) / SECOND

    # -- sending

    def _plan(self, at_us: int, planned: Planned) -> None:
        self._numbered += 1
        heappush(self._due, (at_us, self._numbered, planned))

    def _pump(self) -> None:
        """Sends what is due and waits for what is next."""
        try:
            while self._due and self._due[0][0] <= self.clock.now_us():
                at_us, _, planned = heappop(self._due)
                self._send(planned, at_us)
        except Exception as error:  # noqa: BLE001 - a callback's error must reach whoever waits for the stage
            self._crash(error)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            wait_us = self._due[0][0] - self.clock.now_us()
            self._timer = asyncio.get_running_loop().call_later(max(0, wait_us) / SECOND, self._pump)
            self._keep_preparing()
        elif self._watch is not None and not self._followers:
            self._watch.all_sent()
        self._end_if_over()

    def _send(self, planned: Planned, at_us: int) -> None:
        request = self._ready.pop(planned.request, None)
        if request is None:
            request = self.bodies.first(planned, self._talks.wants(planned.request))
        else:
            self._ready_bytes -= len(request.body)
        gaps = self._gaps.setdefault(planned.tenant, Histogram())
        answer = Answer(request, at_us, gaps, self._ended, self.clock.now_us, self.settings.answer_bytes_max)
        if len(self.in_flight) >= self.settings.concurrency_max:
            answer.end_us, answer.error = at_us, NOT_SENT
            self._record(answer)
            self._follow(answer)
            return
        self.in_flight[planned.request] = answer
        assert self._watch is not None
        self._watch.in_flight_max = max(self._watch.in_flight_max, len(self.in_flight))
        answer.sent_us = self.clock.now_us()
        self._watch.late.add(answer.sent_us - at_us)
        self.counts.sent += 1
        self.pool.send(answer, request.head, request.body)

    # -- making ready

    def _keep_preparing(self) -> None:
        if not self._preparing and self._next < len(self._opening):
            self._preparing = True
            asyncio.get_running_loop().call_soon(self._prepare)

    def _prepare(self) -> None:
        self._preparing = False
        try:
            more = self._prepare_step()
        except Exception as error:  # noqa: BLE001 - as above
            self._crash(error)
            return
        if more and not self._stopped:
            self._keep_preparing()

    def _prepare_step(self) -> bool:
        """A fraction of a millisecond of work; whether there is more of it now."""
        full = len(self._ready) >= self.settings.ahead_max or self._ready_bytes >= self.settings.ahead_bytes_max
        if self._next >= len(self._opening) or full:
            return False
        planned = self._opening[self._next]
        if self.start_us and self.start_us + planned.arrival_us <= self.clock.now_us():
            self._next, self._block = self._next + 1, 0  # it is due: sending makes it
            return True
        self._block = self.bodies.fragments.prepare(planned.blocks, self._block)
        if self._block >= len(planned.blocks):
            self._keep(self.bodies.first(planned, self._talks.wants(planned.request)))
            self._next, self._block = self._next + 1, 0
        return True

    def _keep(self, request: Request) -> None:
        self._ready[request.planned.request] = request
        self._ready_bytes += len(request.body)

    # -- ending

    def _ended(self, answer: Answer) -> None:
        """From an answer: it is over."""
        del self.in_flight[answer.request.planned.request]
        try:
            self._record(answer)
            self._tell(answer)
            self._follow(answer)
            self._end_if_over()
        except Exception as error:  # noqa: BLE001 - as above
            self._crash(error)

    def _tell(self, answer: Answer) -> None:
        """What was said, for those who go on from it. Without token ids where they are needed, it is of no use."""
        request, usage = answer.request, answer.usage
        if not request.keeps:
            return
        text, ids = ("", []) if answer.error else read_answer(answer.stream)
        output = usage.output_tokens if usage.output_tokens is not None else answer.chunks
        if answer.error or (self.bodies.sends_ids and not ids):
            output = 0
        prompt = usage.prompt_tokens or request.planned.prompt_tokens
        self._talks.tell(Told(request.planned, request.content, prompt, text, ids, output))

    def _follow(self, answer: Answer) -> None:
        """Requests that waited for this one are sent by the clock from now on."""
        earlier = answer.request.planned
        followers = self._followers.pop(earlier.request, ())
        if self._stopped or not followers:
            return
        now_us = max(self.clock.now_us(), answer.end_us)
        for later in followers:
            self._plan(now_us + later.arrival_us, later)
            told = self._talks.before(later)
            if told is not None:
                self._keep(self.bodies.next(later, told, self._talks.wants(later.request)))
        asyncio.get_running_loop().call_soon(self._pump)

    def _record(self, answer: Answer) -> None:
        planned, usage = answer.request.planned, answer.usage
        output = usage.output_tokens if usage.output_tokens is not None else answer.chunks
        bad = bool(answer.error)
        if bad:
            self.counts.failed += 1
        else:
            self.counts.served += 1
            self._counted_chunks += usage.output_tokens is None
            self._unlike += output != planned.output_tokens
            self._merged += max(0, output - answer.chunks)
            self._cache_told = self._cache_told or usage.cached_tokens is not None
        self._outcomes.append(
            Outcome(
                planned.request, Micros(answer.scheduled_us), Micros(answer.first_us or answer.end_us),
                Micros(answer.end_us), usage.prompt_tokens or planned.prompt_tokens, usage.cached_tokens or 0,
                max(1, output), output, EndpointId(answer.endpoint), bad, planned.tenant, answer.error,
            )
        )  # fmt: skip

    def _end_if_over(self) -> None:
        over = not self._due and not self.in_flight and self.start_us
        if over and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _crash(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
