"""Engine time from wall time: faster, slower, or standing still, without ever jumping."""

from pilothouse.core.units import Micros
from pilothouse.live.clock import Clock


class Pace:
    """The engine's clock. Starts at 0; `factor` engine seconds pass in one second, 0 stops it."""

    def __init__(self, clock: Clock, factor: float = 1.0) -> None:
        self.factor = factor
        self._now_us = clock.now_us
        self._wall_us, self._engine_us = clock.now_us(), 0.0

    def now_us(self) -> Micros:
        return Micros(int(self._engine_us + (self._now_us() - self._wall_us) * self.factor))

    def change(self, factor: float) -> None:
        """From now on."""
        wall_us = self._now_us()
        self._engine_us += (wall_us - self._wall_us) * self.factor
        self._wall_us, self.factor = wall_us, factor

    def until_s(self, at_us: int) -> float | None:
        """Seconds on the wall until the engine's clock says `at_us`; below zero when that is past, None for never."""
        if not self.factor:
            return None
        return ((at_us - self._engine_us) / self.factor - (self._now_us() - self._wall_us)) / 1e6

    def wall_s(self, span_us: float) -> float:
        """How long a span of engine time lasts on the wall."""
        return span_us / (self.factor or 1.0) / 1e6
