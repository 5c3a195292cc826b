"""Values that people write with a unit: durations and sizes."""

import re
from decimal import Decimal

from pilothouse.core.units import Micros

DURATION_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
NUMBER_MAX = 1 << 53  # exact as a float too; a duration of 285 years
SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


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
    match = (
        re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]+)", text.strip()) if isinstance(text, str) else None
    )
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is not {wanted}")
    value = round(Decimal(match[1]) * units[match[2]])
    if value > NUMBER_MAX:
        raise ValueError(f"{text!r} is too large")
    return value


def _format(value: int, units: dict[str, int]) -> str:
    """The largest unit that leaves a whole number; the smallest for none at all."""
    if value == 0:
        return f"0{next(iter(units))}"
    name = next(name for name, factor in reversed(units.items()) if value % factor == 0)
    return f"{int(value) // units[name]}{name}"
