"""What goes wrong, and when. The dispatchers learn of it by its consequences alone.

crash            all that the engine does and holds is lost; it refuses connections until it has started again
slow             its steps take longer
lost_kv_events   nothing of what its cache gains and loses is told; afterwards the gap is noticed
stale_metrics    its load reports stop
partition        nobody reaches it: streams and transfers break, connections and checks time out. It finishes what it has
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from pilothouse.core.events import FailureKind
from pilothouse.core.units import EndpointId, Micros
from pilothouse.sim.agenda import Rank
from pilothouse.sim.hosts import Host

if TYPE_CHECKING:
    from pilothouse.sim.driver import Driver


class FaultKind(StrEnum):
    """See above."""

    CRASH = "crash"
    SLOW = "slow"
    LOST_KV_EVENTS = "lost_kv_events"
    STALE_METRICS = "stale_metrics"
    PARTITION = "partition"


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One spell of trouble of one engine. A crash lasts until the engine has started again, whatever `until_us` says."""

    kind: FaultKind
    endpoint: EndpointId
    at_us: Micros = Micros(0)  # after the beginning of the run
    until_us: Micros | None = None  # None = to the end
    factor: float = 2.0  # of `slow`, on the step times

    def __post_init__(self) -> None:
        if self.at_us < 0 or (self.until_us is not None and self.until_us < self.at_us):
            raise ValueError("a fault must not end before it begins, nor begin before the run")
        if self.factor <= 0:
            raise ValueError("factor must be above 0")


class Faults:
    """Puts them into the agenda and carries them out."""

    def __init__(self, driver: "Driver", faults: Sequence[Fault]) -> None:
        self._driver = driver
        for fault in faults:
            assert fault.endpoint in driver.hosts, f"there is no engine {fault.endpoint}"
            driver.agenda.push(fault.at_us, Rank.FAULT, self._begin, fault)
            if fault.until_us is not None and fault.kind is not FaultKind.CRASH:
                driver.agenda.push(fault.until_us, Rank.FAULT, self._end, fault)

    def _begin(self, fault: Fault) -> None:
        host = self._driver.hosts[fault.endpoint]
        match fault.kind:
            case FaultKind.CRASH:
                self._crash(host)
            case FaultKind.SLOW:
                host.paces.append(fault.factor)
                self._set_pace(host)
            case FaultKind.LOST_KV_EVENTS:
                host.mute += 1
            case FaultKind.STALE_METRICS:
                host.unscraped += 1
            case FaultKind.PARTITION:
                host.cut_off += 1
                self._driver.transfers.lost(host)
                self._break_streams(host, 0)

    def _end(self, fault: Fault) -> None:
        host = self._driver.hosts[fault.endpoint]
        match fault.kind:
            case FaultKind.CRASH:
                raise AssertionError("a crash ends by itself")
            case FaultKind.SLOW:
                host.paces.remove(fault.factor)
                self._set_pace(host)
            case FaultKind.LOST_KV_EVENTS:
                host.mute -= 1
            case FaultKind.STALE_METRICS:
                host.unscraped -= 1
            case FaultKind.PARTITION:
                host.cut_off -= 1

    def _set_pace(self, host: Host) -> None:
        host.set_pace(self._driver.now_us)
        self._driver.arm(host)

    def _crash(self, host: Host) -> None:
        """A process that is down already, or not there yet, cannot crash."""
        if not host.up:
            return
        if not host.cut_off:
            self._break_streams(host, self._driver.delays.network_us)
        host.up, host.forget, host.restarted = False, True, True
        self._driver.transfers.lost(host)
        host.start()
        self._driver.agenda.push(self._driver.now_us + host.start_up_us, Rank.FAULT, self._restart, host)

    def _restart(self, host: Host) -> None:
        host.up = True

    def _break_streams(self, host: Host, late_us: int) -> None:
        """Of all requests that have reached the engine; those on their way will find it closed."""
        driver = self._driver
        host.engine.abandon(driver.now_us)
        for request, flight in driver.jobs.items():
            if flight.endpoint == host.id and flight.submitted:
                driver.fail(request, FailureKind.CLOSED, late_us)
        driver.probes.look()
