"""A mean over seeds, and how far off it may be."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

import msgspec

# Student's t, two-sided 95 %, for 1, 2, ... 30 degrees of freedom; NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Estimate(msgspec.Struct, frozen=True):
    """`half` is half the width of the 95 % interval of the mean; None where one value says nothing of it."""

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


def estimate(values: Sequence[float]) -> Estimate:
    """Of at least one value. Beyond 31 values the last entry of the table is used: a little too wide, never too narrow."""
    count = len(values)
    if count < 2:
        return Estimate(values[0], None, count)
    return Estimate(fmean(values), T_95[min(count - 1, len(T_95)) - 1] * stdev(values) / sqrt(count), count)
