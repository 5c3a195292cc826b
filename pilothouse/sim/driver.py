"""Carries events to the dispatchers and does what they command: the third driver of the core, in virtual time.

A dispatcher is told what it would be told live, and as late: requests after the client's and the gateway's own delay,
tokens after the network, KV events after their feed, load at the scrape interval. It never sees an engine. Several
gateways are several dispatchers: each knows its own requests, and hears all engines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pilothouse.core.commands import Abort, AnyCommand, Reject, Route
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import (
    AnyEvent,
    Arrived,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Failed,
    FailureKind,
    Finished,
    FirstToken,
    LoadReported,
    Tick,
)
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.sim.agenda import Agenda, Rank
from pilothouse.sim.clients import Clients, Flight, StageResult
from pilothouse.sim.delays import Delays
from pilothouse.sim.engine import Engine
from pilothouse.sim.faults import Fault, Faults
from pilothouse.sim.gaps import Gaps
from pilothouse.sim.hosts import Host
from pilothouse.sim.jobs import Done, Job, Load
from pilothouse.sim.probes import Probes
from pilothouse.sim.samples import Sampler
from pilothouse.sim.tiers import Loads
from pilothouse.sim.transfers import Transfers
from pilothouse.workload.requests import Workload

Watch = Callable[[AnyEvent, list[AnyCommand]], None]
TOO_LONG = "too_long"  # the engine answers with an error of the client's: such a prompt cannot fit


@dataclass(slots=True, eq=False)
class Gateway:
    """One dispatcher and its alarm."""

    dispatcher: Dispatcher
    wake_us: Micros | None = None
    heard: dict[EndpointId, Load] = field(default_factory=dict)  # last, of each engine


class Driver:
    """Runs a workload through dispatchers and engines. `watch` is shown every event and its commands."""

    def __init__(
        self,
        dispatchers: Sequence[Dispatcher],
        hosts: Sequence[Host],
        gaps: Gaps,
        workload: Workload,
        delays: Delays,
        watch: Watch | None = None,
        *,
        faults: Sequence[Fault] = (),
        tell_blocks: bool = True,
        samples_max: int = 0,
    ) -> None:
        self.agenda, self.workload, self.delays, self.watch = Agenda(), workload, delays, watch
        self.gateways = [Gateway(dispatcher) for dispatcher in dispatchers]
        self.hosts = {host.id: host for host in hosts}
        self.clients = Clients(workload, delays, self.agenda, self._arrive, self._begun)
        self.flights = self.clients.flights
        self.jobs: dict[RequestId, Flight] = {}  # attempts that a gateway still waits for
        self.probes, self.transfers = Probes(self), Transfers(self)
        self.loads = Loads(self)
        self._gaps, self._tell_blocks, self._arrivals = gaps, tell_blocks, 0
        self._sampler = Sampler(self.agenda, hosts, samples_max) if samples_max else None
        self._groups = _groups(workload)
        for host in hosts:
            if host.ready_us:
                host.up = False
                self.agenda.push(host.ready_us, Rank.FAULT, self._appear, host)
            else:
                self.tell_all(host.seen)
        Faults(self, faults)

    @property
    def now_us(self) -> Micros:
        return self.agenda.now_us

    @property
    def results(self) -> list[StageResult]:
        return self.clients.results

    @property
    def engines(self) -> dict[EndpointId, Engine]:
        """As they run now; a crash replaces one."""
        return {endpoint: host.engine for endpoint, host in self.hosts.items()}

    def run(self) -> list[StageResult]:
        """Until the last answer of the last stage, and until the engines are idle."""
        self.agenda.run()
        return self.results

    def advance(self) -> bool:
        """One entry of the agenda; False if there is none."""
        return self.agenda.advance()

    # Clients

    def _begun(self, result: StageResult) -> None:
        result.gaps = dict(zip(self._groups, self._gaps.begin(len(self._groups)), strict=True))
        if result.left and self.delays.scrape_us:
            for i, gateway in enumerate(self.gateways):  # not all at once: they were not started at once
                at_us = self.now_us + i * self.delays.scrape_us // len(self.gateways)
                self.agenda.push(at_us, Rank.SCRAPE, self._scrape, (gateway, result))
        if self._sampler is not None:
            self._sampler.begin(result)

    def _arrive(self, flight: Flight) -> None:
        """To a gateway in turn, as a balancer in front of several does it. A conversation stays with one, as with a
        balancer that looks at its header: only that one remembers where the conversation was."""
        planned, count = flight.planned, len(self.gateways)
        if count > 1:
            flight.gateway = (planned.session or self._arrivals) % count
            self._arrivals += 1
        told = bool(planned.blocks) and self._tell_blocks
        self._tell(
            self.gateways[flight.gateway],
            Arrived(
                self.agenda.now_us,
                planned.request,
                self.workload.model,
                planned.prompt_tokens,
                planned.blocks if told else [],
                self.workload.block_size if told else 0,
                True,
                None,  # nobody knows before how long an answer will be
                planned.session,
                constrained=planned.constrained,
            ),
        )

    # The dispatchers

    def tell_all(self, event: AnyEvent) -> None:
        """What every gateway hears."""
        for gateway in self.gateways:
            self._tell(gateway, event)

    def tell(self, gateway: int, event: AnyEvent) -> None:
        self._tell(self.gateways[gateway], event)

    def _tell(self, gateway: Gateway, event: AnyEvent) -> None:
        commands = gateway.dispatcher.handle(event)
        if self.watch is not None:
            self.watch(event, commands)
        for command in commands:
            match command:
                case Route():
                    self._route(self.flights[command.request], command)
                case Reject():
                    self.clients.end(self.flights[command.request], 0, command.reason.value)
                case Abort():
                    self.abort(self.flights[command.request])
        wake_us = gateway.dispatcher.next_wake_us()
        if wake_us is not None and (gateway.wake_us is None or wake_us < gateway.wake_us):
            gateway.wake_us = max(wake_us, self.agenda.now_us)
            self.agenda.push(gateway.wake_us, Rank.WAKE, self._wake, (gateway, gateway.wake_us))

    def _wake(self, what: tuple[Gateway, Micros]) -> None:
        gateway, at_us = what
        if at_us == gateway.wake_us:
            gateway.wake_us = None
            if self.flights:
                self._tell(gateway, Tick(self.now_us))

    # Attempts

    def _route(self, flight: Flight, route: Route) -> None:
        if route.prefill is None:
            return self.send(flight, route)
        planned, flight.split = flight.planned, route
        request = RequestId(f"{planned.request}/{route.attempt}/prefill")
        self._submit_soon(
            flight, route.prefill.endpoint, Job(request, planned.blocks, planned.prompt_tokens, 1, kept=True)
        )

    def send(self, flight: Flight, route: Route, *, handed: bool = False) -> None:
        """To the engine that answers. `handed`: another one has computed its prompt."""
        planned, attempt = flight.planned, route.attempt
        request = planned.request if attempt == 1 else RequestId(f"{planned.request}/{attempt}")
        blocks, group = planned.blocks, self._groups[planned.tenant]
        job = Job(
            request,
            blocks,
            planned.prompt_tokens,
            planned.output_tokens,
            planned.output_blocks,
            group,
            planned.constrained,
            handed,
        )
        self._submit_soon(flight, route.endpoint, job)

    def _submit_soon(self, flight: Flight, endpoint: EndpointId, job: Job) -> None:
        flight.endpoint, flight.job, flight.submitted = endpoint, job, False
        self.jobs[job.request] = flight
        host = self.hosts[endpoint]
        self.agenda.push(self.agenda.now_us + self.delays.network_us, Rank.SUBMIT, self._submit, (host, job))

    def _submit(self, what: tuple[Host, Job]) -> None:
        host, job = what
        flight = self.jobs.get(job.request)
        if flight is None:
            return  # given up on the way
        delays = self.delays
        if not host.is_open:
            late_us = delays.connect_timeout_us if host.cut_off else delays.network_us
            self.fail(job.request, FailureKind.CONNECT, late_us)
        elif host.engine.fits(job):
            flight.submitted = True
            host.engine.submit(job, self.agenda.now_us, late=not delays.network_us)
            self.arm(host)
        else:
            self.agenda.push(self.now_us + delays.network_us, Rank.TELL, self._finished, (job, 0, TOO_LONG))

    def abort(self, flight: Flight, kind: FailureKind = FailureKind.TIMEOUT) -> None:
        """The gateway closes the connection: it knows at once, the engine a little later."""
        assert flight.job is not None and flight.endpoint is not None
        if flight.submitted:
            what = (self.hosts[flight.endpoint], flight.job.request)
            self.agenda.push(self.now_us + self.delays.network_us, Rank.SUBMIT, self.disconnect, what)
        self.fail(flight.job.request, kind, 0)

    def disconnect(self, what: tuple[Host, RequestId]) -> None:
        """An engine learns that nobody wants an answer any more."""
        host, request = what
        self.transfers.drop(request)
        if host.is_open:
            host.engine.abort(request, self.now_us, late=not self.delays.network_us)
            self.arm(host)

    def fail(self, request: RequestId, kind: FailureKind, late_us: int) -> None:
        """The gateway will find, so much later, that this attempt has failed."""
        self.agenda.push(self.now_us + late_us, Rank.TELL, self._failed, (request, kind))

    def _failed(self, what: tuple[RequestId, FailureKind]) -> None:
        flight, kind = self.jobs.pop(what[0], None), what[1]
        if flight is None:
            return  # it has ended otherwise meanwhile
        sent = flight.first_us is not None
        if sent:
            kind = FailureKind.BROKEN if kind is FailureKind.CLOSED else kind
            self.clients.end(flight, 0, kind.value)
        prefill, flight.split, flight.source, flight.reused = flight.split is not None, None, None, None
        flight.endpoint = flight.job = None
        failed = Failed(self.now_us, flight.planned.request, kind, sent, prefill)
        self._tell(self.gateways[flight.gateway], failed)
        self.probes.look()

    # Engines

    def _appear(self, host: Host) -> None:
        host.up = True
        self.tell_all(host.seen)

    def arm(self, host: Host) -> None:
        """Keeps the engine's next step in the agenda; an entry overtaken by a shorter step is ignored when it comes."""
        due_us = host.engine.next_step_us()
        if due_us is not None and due_us != host.due_us:
            self.agenda.push(due_us, Rank.STEP, self._step, (host, due_us))
        host.due_us = due_us
        if host.engine.handed.fetches:
            self.transfers.begin(host)
        if host.engine.tiers is not None and host.engine.tiers.loads:
            self.loads.begin(host)

    def _step(self, what: tuple[Host, Micros]) -> None:
        host, due_us = what
        if due_us != host.due_us:
            return
        done = host.engine.step(due_us)
        host.due_us = None
        self.arm(host)
        if done.removed or done.stored:
            self._report_blocks(host, done)
        at_us, push = self.agenda.now_us + self.delays.network_us, self.agenda.push
        at_once = [job.request for job, _ in done.finished if job.request in done.first] if done.first else []
        prefilled = [(job, cached) for job, cached in done.finished if job.kept]
        if prefilled:
            done.finished = [(job, cached) for job, cached in done.finished if not job.kept]
        for job, cached in prefilled:
            self.transfers.keep(host, job)
            push(at_us, Rank.TELL, self.transfers.prefilled, (host, job, cached))
        for request in done.first:
            if request not in at_once:
                push(at_us, Rank.TELL, self._first_token, request)
        for job, cached in done.finished:
            if job.request in at_once:  # an answer of one token comes in one piece
                push(at_us, Rank.TELL, self._first_token, job.request)
            push(at_us, Rank.TELL, self._finished, (job, cached, ""))

    def _first_token(self, request: RequestId) -> None:
        flight = self.jobs.get(request)
        if flight is not None:
            flight.first_us = self.agenda.now_us
            self._tell(self.gateways[flight.gateway], FirstToken(self.agenda.now_us, flight.planned.request))

    def _finished(self, what: tuple[Job, int, str]) -> None:
        job, cached, error = what
        flight = self.jobs.pop(job.request, None)
        if flight is None:
            return  # nobody waits for it any more
        flight.split = flight.source = None
        cached = cached if flight.reused is None else flight.reused
        self.clients.end(flight, cached, error)
        now_us, request = self.agenda.now_us, flight.planned.request
        done = Finished(now_us, request, job.prompt_tokens, cached, job.output_tokens)
        self._tell(self.gateways[flight.gateway], Finished(now_us, request) if error else done)

    def _report_blocks(self, host: Host, done: Done) -> None:
        """Removed before stored: an engine makes room before it fills it. After a gap in its messages nothing that was
        known of it is trusted, as with live engines that have no replay."""
        if host.mute or host.cut_off:
            host.forget = True
            return
        at_us, endpoint = Micros(self.now_us + self.delays.kv_event_us), host.id
        if host.forget:
            host.forget = False
            self.agenda.push(at_us, Rank.TELL, self.tell_all, BlocksCleared(at_us, endpoint))
        if done.removed:
            self.agenda.push(at_us, Rank.TELL, self.tell_all, BlocksRemoved(at_us, endpoint, done.removed))
        if done.stored:
            self.agenda.push(at_us, Rank.TELL, self.tell_all, BlocksStored(at_us, endpoint, done.stored))
        for tier, stored, removed in done.lower:
            if removed:
                self.agenda.push(at_us, Rank.TELL, self.tell_all, BlocksRemoved(at_us, endpoint, removed, tier))
            if stored:
                self.agenda.push(at_us, Rank.TELL, self.tell_all, BlocksStored(at_us, endpoint, stored, tier))

    # Load

    def _scrape(self, what: tuple[Gateway, StageResult]) -> None:
        """Reads every engine's metrics; the dispatcher hears of it a little later. Stops while nothing is asked for."""
        gateway, result = what
        if not result.left:
            return
        heard = [host for host in self.hosts.values() if host.is_open and not host.unscraped]
        loads = [(host.id, host.engine.load(self.now_us)) for host in heard]
        self.agenda.push(self.now_us + self.delays.scraped_us, Rank.TELL, self._tell_loads, (gateway, loads))
        self.agenda.push(self.now_us + self.delays.scrape_us, Rank.SCRAPE, self._scrape, what)

    def _tell_loads(self, what: tuple[Gateway, list[tuple[EndpointId, Load]]]) -> None:
        gateway, loads = what
        for endpoint, load in loads:
            since = load.since(gateway.heard.get(endpoint))
            gateway.heard[endpoint] = load
            event = LoadReported(self.now_us, endpoint, load.running, load.waiting, load.kv_used_ratio, *since)
            self._tell(gateway, event)


def _groups(workload: Workload) -> dict[str, int]:
    """Tenants in order of appearance, numbered."""
    tenants = dict.fromkeys(planned.tenant for stage in workload.stages for planned in stage.requests)
    return {tenant: i for i, tenant in enumerate(tenants or [""])}
