"""The only file that reads a clock: time enters the program here and is data everywhere else."""

from time import monotonic_ns, process_time_ns, time

from pilothouse.core.units import Micros


class Clock:
    """Monotonic time of this process; a test hands in one of its own with the same method."""

    __slots__ = ()

    def now_us(self) -> Micros:
        """Microseconds since an unspecified start; never goes back."""
        return monotonic_ns() // 1000  # type: ignore[return-value]  # a call of Micros() would cost as much again

    def wall_s(self) -> float:
        """Seconds since 1970, for people and logs."""
        return time()

    def cpu_us(self) -> Micros:
        """Microseconds of CPU that this process has used, all its threads together."""
        return Micros(process_time_ns() // 1000)
