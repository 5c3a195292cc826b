"""Virtual time: one heap of things to come, one dispatcher, some engines. The third driver of the core.

Entries are ordered by (time, rank, number), so that what happens at one moment happens in one order. The dispatcher is
told what it would be told live, and as late: requests after the client's and the gateway's own delay, tokens after the
network, KV events after their feed, load at the scrape interval. It never sees an engine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from typing import Any

import msgspec

from pilothouse.core.commands import AnyCommand, Reject, Route
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import (
    AnyEvent,
    Arrived,
    BlocksRemoved,
    BlocksStored,
    EndpointSeen,
    Failed,
    FailureKind,
    Finished,
    FirstToken,
    LoadReported,
    Tick,
)
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.sim.engine import Done, Engine, Job, Load
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.requests import Planned, Stage, Workload


class Delays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How late everything is [microseconds]."""

    request_us: Micros = Micros(0)  # from the scheduled send time to the decision: client, gateway, tokenisation
    network_us: Micros = Micros(500)  # between gateway and engine, each way
    kv_event_us: Micros = Micros(5_000)  # from the end of a step to the gateway's index
    scrape_us: Micros = Micros(1_000_000)  # between load reports; 0 = there are none
    scraped_us: Micros = Micros(5_000)  # age of a load report when it arrives


class Rank(IntEnum):
    """What comes first at one moment. Submissions precede steps: an engine schedules what has arrived by then."""

    SUBMIT = 0
    STEP = 1
    TELL = 2
    SCRAPE = 3
    ARRIVE = 4
    WAKE = 5
    STAGE = 6


@dataclass(slots=True)
class Flight:
    """One request between its sending and its end."""

    planned: Planned
    sent_us: Micros
    endpoint: EndpointId | None = None
    first_us: Micros = Micros(0)


@dataclass(slots=True)
class StageResult:
    """One stage and what came of it, in order of completion."""

    stage: Stage
    start_us: Micros
    outcomes: list[Outcome] = field(default_factory=list)


Watch = Callable[[AnyEvent, list[AnyCommand]], None]
Entry = tuple[Micros, int, int, Callable[[Any], None], Any]  # when, rank, number, what to do, with what


class Driver:
    """Runs a workload through a dispatcher and engines. `watch` is shown every event and its commands."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        engines: dict[EndpointId, Engine],
        seen: list[EndpointSeen],
        workload: Workload,
        delays: Delays,
        watch: Watch | None = None,
        *,
        tell_blocks: bool = True,
    ) -> None:
        self.dispatcher, self.engines, self.workload, self.delays = dispatcher, engines, workload, delays
        self.now_us = Micros(0)
        self.results: list[StageResult] = []
        self.flights: dict[RequestId, Flight] = {}
        self._watch, self._tell_blocks = watch, tell_blocks
        self._heap: list[Entry] = []
        self._number = 0
        self._due: dict[EndpointId, Micros | None] = dict.fromkeys(engines)  # each engine's step in the heap
        self._wake_us: Micros | None = None
        self._stages = iter(workload.stages)
        self._to_send: Iterator[Planned] = iter(())
        self._left = 0  # answers that the stage still waits for
        for event in seen:
            self._tell(event)
        self._push(Micros(0), Rank.STAGE, self._begin_stage, None)

    def run(self) -> list[StageResult]:
        """Until the last answer of the last stage."""
        while self.advance():
            pass
        return self.results

    def advance(self) -> bool:
        """One entry of the heap; False if there is none."""
        if not self._heap:
            return False
        at_us, _, _, act, what = heappop(self._heap)
        assert at_us >= self.now_us, f"time went back from {self.now_us} to {at_us}"
        self.now_us = at_us
        act(what)
        return True

    def _push(self, at_us: int, rank: Rank, act: Callable[[Any], None], what: object) -> None:
        self._number += 1
        heappush(self._heap, (Micros(at_us), rank, self._number, act, what))

    # Clients

    def _begin_stage(self, _: object) -> None:
        stage = next(self._stages, None)
        if stage is None:
            return
        self.results.append(StageResult(stage, self.now_us))
        self._left = len(stage.requests)
        self._to_send = iter(stage.requests)
        self._send_next()
        if not self._left:
            self._end_stage()
        elif self.delays.scrape_us:
            self._push(self.now_us, Rank.SCRAPE, self._scrape, len(self.results))

    def _end_stage(self) -> None:
        self._push(self.now_us + self.results[-1].stage.pause_us, Rank.STAGE, self._begin_stage, None)

    def _send_next(self) -> None:
        planned = next(self._to_send, None)
        if planned is not None:
            at_us = self.results[-1].start_us + planned.arrival_us + self.delays.request_us
            self._push(at_us, Rank.ARRIVE, self._arrive, planned)

    def _arrive(self, planned: Planned) -> None:
        self._send_next()
        told = bool(planned.blocks) and self._tell_blocks
        assert planned.request not in self.flights, f"request {planned.request} is sent twice"
        self.flights[planned.request] = Flight(planned, Micros(self.now_us - self.delays.request_us))
        self._tell(
            Arrived(
                self.now_us,
                planned.request,
                self.workload.model,
                planned.prompt_tokens,
                planned.blocks if told else [],
                self.workload.block_size if told else 0,
                True,
                planned.output_tokens,
                planned.session,
            )
        )

    def _end(self, flight: Flight, cached: int, *, refused: bool = False) -> None:
        planned = flight.planned
        del self.flights[planned.request]
        first_us = self.now_us if refused else flight.first_us
        self.results[-1].outcomes.append(
            Outcome(
                planned.request,
                flight.sent_us,
                first_us,
                self.now_us,
                planned.prompt_tokens,
                cached,
                planned.output_tokens,
                0 if refused else planned.counted_tokens,
                flight.endpoint or EndpointId(""),
                refused,
            )
        )
        self._left -= 1
        if not self._left:
            self._end_stage()

    # The dispatcher

    def _tell(self, event: AnyEvent) -> None:
        commands = self.dispatcher.handle(event)
        if self._watch is not None:
            self._watch(event, commands)
        for command in commands:
            match command:
                case Route():
                    self.flights[command.request].endpoint = command.endpoint
                    at_us = self.now_us + max(self.delays.network_us, 1)  # never into a moment whose steps are over
                    self._push(at_us, Rank.SUBMIT, self._submit, (command.endpoint, command.request))
                case Reject():
                    self._end(self.flights[command.request], 0, refused=True)
                case _:
                    raise AssertionError(f"nobody here can {command}")
        wake_us = self.dispatcher.next_wake_us()
        if wake_us is not None and (self._wake_us is None or wake_us < self._wake_us):
            self._wake_us = max(wake_us, self.now_us)
            self._push(self._wake_us, Rank.WAKE, self._wake, self._wake_us)

    def _wake(self, at_us: Micros) -> None:
        if at_us == self._wake_us:
            self._wake_us = None
            if self.flights:
                self._tell(Tick(self.now_us))

    # Engines

    def _submit(self, what: tuple[EndpointId, RequestId]) -> None:
        endpoint, request = what
        engine, planned = self.engines[endpoint], self.flights[request].planned
        job = Job(request, planned.blocks, planned.prompt_tokens, planned.output_tokens, planned.output_blocks)
        if engine.fits(job):
            engine.submit(job, self.now_us)
            self._arm(endpoint, engine)
        else:
            at_us = Micros(self.now_us + self.delays.network_us)
            self._push(at_us, Rank.TELL, self._tell, Failed(at_us, request, FailureKind.ERROR, False))

    def _arm(self, endpoint: EndpointId, engine: Engine) -> None:
        """Keeps the engine's next step in the heap; an entry overtaken by a shorter step is ignored when it comes."""
        due_us = engine.next_step_us()
        if due_us is not None and due_us != self._due[endpoint]:
            self._push(due_us, Rank.STEP, self._step, (endpoint, due_us))
        self._due[endpoint] = due_us

    def _step(self, what: tuple[EndpointId, Micros]) -> None:
        endpoint, due_us = what
        if due_us != self._due[endpoint]:
            return
        engine = self.engines[endpoint]
        done = engine.step(due_us)
        self._due[endpoint] = None
        self._arm(endpoint, engine)
        if done.removed or done.stored:
            self._report_blocks(endpoint, done)
        at_us = Micros(self.now_us + self.delays.network_us)
        for request in done.first:
            self._push(at_us, Rank.TELL, self._first_token, request)
        for job, cached in done.finished:
            self._push(at_us, Rank.TELL, self._finished, (job, cached))

    def _first_token(self, request: RequestId) -> None:
        self.flights[request].first_us = self.now_us
        self._tell(FirstToken(self.now_us, request))

    def _finished(self, what: tuple[Job, int]) -> None:
        job, cached = what
        flight = self.flights[job.request]
        self._end(flight, cached)
        self._tell(Finished(self.now_us, job.request, job.prompt_tokens, cached, job.output_tokens))

    def _report_blocks(self, endpoint: EndpointId, done: Done) -> None:
        """Removed before stored: an engine makes room before it fills it."""
        at_us = Micros(self.now_us + self.delays.kv_event_us)
        if done.removed:
            self._push(at_us, Rank.TELL, self._tell, BlocksRemoved(at_us, endpoint, done.removed))
        if done.stored:
            self._push(at_us, Rank.TELL, self._tell, BlocksStored(at_us, endpoint, done.stored))

    # Signals

    def _scrape(self, stage: int) -> None:
        """Reads every engine's metrics; the dispatcher hears of it a little later. Stops while nothing is asked for."""
        if stage != len(self.results) or not self._left:
            return
        loads = [(endpoint, engine.load(self.now_us)) for endpoint, engine in self.engines.items()]
        self._push(self.now_us + self.delays.scraped_us, Rank.TELL, self._tell_loads, loads)
        self._push(self.now_us + self.delays.scrape_us, Rank.SCRAPE, self._scrape, stage)

    def _tell_loads(self, loads: list[tuple[EndpointId, Load]]) -> None:
        for endpoint, load in loads:
            self._tell(LoadReported(self.now_us, endpoint, load.running, load.waiting, load.kv_used_ratio))
