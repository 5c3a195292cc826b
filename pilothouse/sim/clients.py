"""What is sent when, and what came of it: stages one after the other, open or closed loop.

A request without `after` is sent by the clock of its stage; one with it, so long after that request has ended, whether
it was served, refused or broken. A stage ends when all its requests have ended, those that followed others included.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pilothouse.core.commands import Route
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.sim.agenda import Agenda, Rank
from pilothouse.sim.delays import Delays
from pilothouse.sim.jobs import Job
from pilothouse.workload.outcomes import Histogram, Outcome, Sample
from pilothouse.workload.requests import Planned, Stage, Workload


@dataclass(slots=True)
class Flight:
    """One request between its arrival at a gateway and its end."""

    planned: Planned
    sent_us: Micros
    gateway: int = 0
    endpoint: EndpointId | None = None  # where its attempt is, while there is one
    job: Job | None = None  # what the engine was asked for
    submitted: bool = False  # the engine has it
    split: Route | None = None  # while somebody else computes its prompt: where it goes afterwards
    source: tuple[EndpointId, RequestId] | None = None  # after that: who computed it, under which name
    reused: int | None = None  # prompt tokens that were cached over there: what engines tell of such requests
    first_us: Micros | None = None  # when the client had its first token


@dataclass(slots=True)
class StageResult:
    """One stage and what came of it, in order of completion."""

    stage: Stage
    start_us: Micros
    outcomes: list[Outcome] = field(default_factory=list)
    gaps: dict[str, Histogram] = field(default_factory=dict)  # tenant -> times between two tokens of one answer
    samples: list[Sample] = field(default_factory=list)
    left: int = 0  # requests that have not ended


class Clients:
    """Everybody who asks. `arrive` takes each request when the gateway is ready to decide, `begun` each new stage."""

    def __init__(
        self,
        workload: Workload,
        delays: Delays,
        agenda: Agenda,
        arrive: Callable[[Flight], None],
        begun: Callable[[StageResult], None],
    ) -> None:
        self.results: list[StageResult] = []
        self.flights: dict[RequestId, Flight] = {}
        self.over = False
        self._delays, self._agenda, self._tell_arrival, self._tell_begun = delays, agenda, arrive, begun
        self._stages = iter(workload.stages)
        self._due: Iterator[tuple[Micros, Planned]] = iter(())
        self._followers: dict[RequestId, list[Planned]] = {}
        self._result = StageResult(Stage("", 0, 0, []), Micros(0))  # of the stage under way
        agenda.push(0, Rank.STAGE, self._begin_stage, None)

    def _begin_stage(self, _: object) -> None:
        stage = next(self._stages, None)
        if stage is None:
            self.over = True
            return
        start_us, request_us = self._agenda.now_us, self._delays.request_us
        self._result = StageResult(stage, start_us, left=len(stage.requests))
        self.results.append(self._result)
        timed = [planned for planned in stage.requests if planned.after is None]
        due = [(Micros(start_us + p.arrival_us + request_us(p.prompt_tokens)), p) for p in timed]
        due.sort(key=lambda pair: pair[0])  # a long prompt may be overtaken while it is tokenised
        self._due = iter(due)
        if len(timed) < len(stage.requests):
            self._expect_followers(stage)
        self._tell_begun(self._result)
        self._send_next()
        if not self._result.left:
            self._end_stage()

    def _expect_followers(self, stage: Stage) -> None:
        known: dict[RequestId, None] = {}
        for planned in stage.requests:
            if planned.after is not None:
                assert planned.after in known, f"{planned.request} follows {planned.after}, which is not before it"
                self._followers.setdefault(planned.after, []).append(planned)
            known[planned.request] = None

    def _end_stage(self) -> None:
        pause_us = self._result.stage.pause_us
        self._agenda.push(self._agenda.now_us + pause_us, Rank.STAGE, self._begin_stage, None)

    def _send_next(self) -> None:
        due = next(self._due, None)
        if due is not None:
            self._agenda.push(due[0], Rank.ARRIVE, self._send_timed, due[1])

    def _send_timed(self, planned: Planned) -> None:
        self._send_next()
        self._send(planned)

    def _send(self, planned: Planned) -> None:
        assert planned.request not in self.flights, f"request {planned.request} is sent twice"
        sent_us = Micros(self._agenda.now_us - self._delays.request_us(planned.prompt_tokens))
        flight = self.flights[planned.request] = Flight(planned, sent_us)
        self._tell_arrival(flight)

    def end(self, flight: Flight, cached: int, error: str = "") -> None:
        """The client has its whole answer, or an error."""
        planned, now_us, result = flight.planned, self._agenda.now_us, self._result
        del self.flights[planned.request]
        result.outcomes.append(
            Outcome(
                planned.request,
                flight.sent_us,
                now_us if flight.first_us is None else flight.first_us,
                now_us,
                planned.prompt_tokens,
                cached,
                planned.output_tokens,
                0 if error else planned.counted_tokens,
                flight.endpoint or EndpointId(""),
                bool(error),
                planned.tenant,
                error,
            )
        )
        if self._followers:
            for follower in self._followers.pop(planned.request, ()):
                at_us = now_us + follower.arrival_us + self._delays.request_us(follower.prompt_tokens)
                self._agenda.push(at_us, Rank.ARRIVE, self._send, follower)
        result.left -= 1
        if not result.left:
            self._end_stage()
