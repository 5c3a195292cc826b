"""Split requests: the prefill at one engine, then the way of its KV to another.

The gateway hears of the finished prefill, tells its dispatcher and sends the request on. The decode engine takes blocks
for the whole prompt as soon as it has room, fetches what it has not cached, and computes the last token itself. The
prefill engine keeps the blocks until that is done or the lease has passed.

Each engine's network interface serves one transfer after the other, in the order in which they were asked for; a transfer
needs both ends at once, and goes at the rate of the slower one. A gateway that has no first token in time gives up.
"""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from pilothouse.core.events import FailureKind, PrefillDone
from pilothouse.core.handover import apart
from pilothouse.core.units import Micros, RequestId
from pilothouse.sim.agenda import Rank
from pilothouse.sim.clients import Flight
from pilothouse.sim.hosts import Host
from pilothouse.sim.jobs import Job

if TYPE_CHECKING:
    from pilothouse.sim.driver import Driver


@dataclass(slots=True, eq=False)
class Transfer:
    """KV on its way. Over when it has arrived, or either end has lost it."""

    request: RequestId  # the decode engine's name of it
    source: Host
    kept: RequestId  # the prefill engine's name of it
    target: Host


class Transfers:
    """What the driver does about split requests."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self.under_way: dict[RequestId, Transfer] = {}
        self.bytes_moved = 0
        self.fetched = 0  # transfers that arrived

    def prefilled(self, what: tuple[Host, Job, int]) -> None:
        """The gateway has the prefill's answer; it lets in who waited for that, and then sends the request on."""
        host, job, cached = what
        driver = self._driver
        flight = driver.jobs.pop(job.request, None)
        if flight is None or flight.split is None:
            return  # given up meanwhile; the lease will free the blocks
        route, flight.split, flight.source = flight.split, None, (host.id, job.request)
        flight.reused = cached
        flight.endpoint = flight.job = None
        driver.tell(flight.gateway, PrefillDone(driver.now_us, flight.planned.request, job.prompt_tokens, cached))
        driver.send(flight, route, handed=True)
        assert flight.job is not None
        until_us = driver.now_us + driver.delays.handover_us_max
        driver.agenda.push(until_us, Rank.TELL, self._give_up, (flight, flight.job.request))

    def keep(self, host: Host, job: Job) -> None:
        """A prefill for somebody else is done: its blocks stay for the time of the lease."""
        lapse = (host, host.engine, job.request)
        self._driver.agenda.push(self._driver.now_us + self._driver.delays.lease_us, Rank.FAULT, self._lapse, lapse)

    def begin(self, target: Host) -> None:
        """An engine has made room for requests whose KV lies elsewhere."""
        driver = self._driver
        fetches, target.engine.handed.fetches = target.engine.handed.fetches, []
        for job, tokens in fetches:
            flight = driver.jobs.get(job.request)
            if flight is None or flight.source is None:  # given up meanwhile
                self._forget_soon(target, job.request)
                continue
            source, kept = driver.hosts[flight.source[0]], flight.source[1]
            if source.is_open and target.is_open and kept in source.engine.handed.kept:
                self._start(Transfer(job.request, source, kept, target), tokens)
            else:
                driver.fail(job.request, FailureKind.ERROR, driver.delays.network_us)
                self._forget_soon(target, job.request)

    def _start(self, transfer: Transfer, tokens: int) -> None:
        source, target, now_us = transfer.source, transfer.target, self._driver.now_us
        count = tokens * target.seen.kv_token_bytes
        begun_us = max(now_us, source.link_free_us, target.link_free_us)
        rate = min(source.link_bytes_per_us, target.link_bytes_per_us)
        if apart(source.seen.labels, target.seen.labels):
            rate = min(rate, source.far_bytes_per_us, target.far_bytes_per_us)
        ended_us = begun_us + count / rate
        source.link_free_us = target.link_free_us = ended_us
        self.under_way[transfer.request] = transfer
        self.bytes_moved += count
        at_us = Micros(ceil(ended_us) + target.link_latency_us)
        self._driver.agenda.push(at_us, Rank.SUBMIT, self._arrive, transfer)

    def _arrive(self, transfer: Transfer) -> None:
        driver, target, source = self._driver, transfer.target, transfer.source
        if self.under_way.get(transfer.request) is not transfer:
            return  # lost on the way
        del self.under_way[transfer.request]
        assert transfer.kept in source.engine.handed.kept, f"{transfer.request} is fetched after its lease"
        self.fetched += 1
        source.engine.let_go(transfer.kept, driver.now_us)
        driver.arm(source)
        target.engine.land(transfer.request, driver.now_us)
        driver.arm(target)

    def lost(self, host: Host) -> None:
        """An engine is gone: so is what it was sending, and what it was being sent."""
        driver = self._driver
        for transfer in [t for t in self.under_way.values() if host in (t.source, t.target)]:
            del self.under_way[transfer.request]
            self._forget_soon(transfer.target, transfer.request)
            if transfer.source is host:
                driver.fail(transfer.request, FailureKind.ERROR, driver.delays.network_us)

    def _forget_soon(self, host: Host, request: RequestId) -> None:
        """The decode engine finds that nothing comes."""
        self._driver.agenda.push(self._driver.now_us, Rank.SUBMIT, self._forget, (host, host.engine, request))

    def _forget(self, what: tuple[Host, object, RequestId]) -> None:
        host, engine, request = what
        if host.engine is engine and request in host.engine.handed.fetching:
            host.engine.abort(request, self._driver.now_us)
            self._driver.arm(host)

    def drop(self, request: RequestId) -> None:
        """The decode engine does not want it any more: the blocks wait for their lease."""
        self.under_way.pop(request, None)

    def _give_up(self, what: tuple[Flight, RequestId]) -> None:
        flight, request = what
        driver = self._driver
        if flight.job is None or flight.job.request != request or flight.first_us is not None:
            return
        driver.abort(flight, FailureKind.EXPIRED)

    def _lapse(self, what: tuple[Host, object, RequestId]) -> None:
        host, engine, request = what
        if host.engine is not engine or request not in host.engine.handed.kept:
            return
        for transfer in [t for t in self.under_way.values() if t.kept == request and t.source is host]:
            self.drop(transfer.request)  # late beyond all deadlines: nobody may use what arrives now
        host.engine.let_go(request, self._driver.now_us)
        self._driver.arm(host)
