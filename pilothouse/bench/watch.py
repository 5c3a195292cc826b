"""The client watches itself: a load generator that is late or busy measures itself and not the server."""

import asyncio
from collections.abc import Callable

import msgspec

from pilothouse.core.units import SECOND
from pilothouse.live.clock import Clock
from pilothouse.workload.outcomes import Histogram

TICK_US = 10_000
LATE_US_MAX = 5_000  # p99 of late sends; a loop timer alone is up to a millisecond late
CPU_RATIO_MAX = 0.9
CPU_SECONDS_MIN = 1.0  # a shorter time of sending says nothing about the core


class ClientFigures(msgspec.Struct, frozen=True):
    """How the client itself did in one stage."""

    late_p50_us: float  # really sent minus scheduled
    late_p99_us: float
    lag_p99_us: float  # of the event loop: what an arriving chunk may have waited
    cpu_ratio: float  # of one core, while sending
    in_flight_max: int
    seconds: float  # of sending

    @property
    def is_bottleneck(self) -> bool:
        """Whether its own delays are too large to be left out of account."""
        return self.late_p99_us > LATE_US_MAX or self.lag_p99_us > LATE_US_MAX or self.is_full

    @property
    def is_full(self) -> bool:
        return self.cpu_ratio > CPU_RATIO_MAX and self.seconds >= CPU_SECONDS_MIN

    def note(self) -> str:
        """One sentence for people."""
        said = (
            f"client: sends late by {self.late_p50_us / 1000:.1f} ms (p50), {self.late_p99_us / 1000:.1f} ms (p99), "
            f"loop lag p99 {self.lag_p99_us / 1000:.1f} ms, {self.cpu_ratio:.0%} of its core, "
            f"at most {self.in_flight_max} requests in flight"
        )
        if not self.is_bottleneck:
            return said
        if self.is_full:
            return f"THE CLIENT ITSELF WAS THE BOTTLENECK, its core is full; {said}"
        return (
            f"THE CLIENT ITSELF RAN LATE, perhaps for other work on its machine, and its delay is in the times; {said}"
        )


class Watch:
    """Counts from `start` to `figures`. `each` is called now and then, for progress."""

    def __init__(self, clock: Clock, each: Callable[[], None]) -> None:
        self._clock, self._each = clock, each
        self.late, self._lag = Histogram(), Histogram()
        self._wall_us = self._cpu_us = self._due_us = self._ticks = 0
        self._handle: asyncio.TimerHandle | None = None
        self._cpu_ratio = self._seconds = 0.0
        self.in_flight_max = 0

    def start(self) -> None:
        self._wall_us, self._cpu_us = self._clock.now_us(), self._clock.cpu_us()
        self._arm(self._wall_us)

    def all_sent(self) -> None:
        """The drain costs less CPU than the sending, and is not counted."""
        self._cpu_ratio, self._seconds = self._share()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if not self._seconds:
            self.all_sent()

    def figures(self) -> ClientFigures:
        p50, p99 = (self.late.percentile_us(share) for share in (0.5, 0.99))
        return ClientFigures(
            p50, p99, self._lag.percentile_us(0.99), self._cpu_ratio, self.in_flight_max, self._seconds
        )

    def _share(self) -> tuple[float, float]:
        wall_us = max(1, self._clock.now_us() - self._wall_us)
        return (self._clock.cpu_us() - self._cpu_us) / wall_us, wall_us / SECOND

    def _arm(self, now_us: int) -> None:
        self._due_us = now_us + TICK_US
        self._handle = asyncio.get_running_loop().call_later(TICK_US / SECOND, self._tick)

    def _tick(self) -> None:
        now_us = self._clock.now_us()
        self._lag.add(max(0, now_us - self._due_us))
        self._ticks += 1
        if self._ticks % (SECOND // TICK_US) == 0:
            self._each()
        self._arm(now_us)
