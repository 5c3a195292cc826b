"""Values that people write with a unit: durations and sizes."""

import re

from pilothouse.core.units import Micros

DURATION_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Duration(int):
    """Microseconds, written as "250ms", "30s", "2m"."""

    @classmethod
    def parse(cls, text: object) -> "Duration":
        return cls(_parse(text, DURATION_UNITS, "a duration such as 250ms, 30s or 2m"))

    @property
    def us(self) -> Micros:
        return Micros(int(self))

    @property
    def seconds(self) -> float:
        return self / 1_000_000

    def __str__(self) -> str:
        return _format(self, DURATION_UNITS)


class Size(int):
    """Bytes, written as "64KiB", "32MiB"."""

    @classmethod
    def parse(cls, text: object) -> "Size":
        return cls(_parse(text, SIZE_UNITS, "a size such as 64KiB or 32MiB"))

    def __str__(self) -> str:
        return _format(self, SIZE_UNITS)


def _parse(text: object, units: dict[str, int], wanted: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip()) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is not {wanted}")
    return round(float(match[1]) * units[match[2]])


def _format(value: int, units: dict[str, int]) -> str:
    """The largest unit that leaves a whole number."""
    name = next(name for name, factor in reversed(units.items()) if value % factor == 0)
    return f"{int(value) // units[name]}{name}"
