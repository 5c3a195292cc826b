"""Distributions of delays as few weighted points: (how long [microseconds], how likely)."""

from collections.abc import Sequence
from itertools import product
from math import erf, exp, log, sqrt

TAIL = (
    (0.15, 0.3),
    (0.45, 0.3),
    (0.7, 0.2),
    (0.86, 0.12),
    (0.95, 0.06),
    (0.99, 0.02),
)  # of a distribution: part, weight
NORMAL = ((-1.6, 0.1), (-0.8, 0.25), (0.0, 0.3), (0.8, 0.25), (1.6, 0.07), (2.3, 0.03))  # point, weight
MEETS = 0.5  # power of the lanes by which prompts meet others less: between a lane for itself and one queue for all
PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.86, 0.91, 0.94, 0.96, 0.98, 0.995)  # ends of parts of a distribution
MOMENTS = 3  # of a step at which a request may come


def steps_before(
    step_us: float, running: float, arrivals: float, work_us: Sequence[float], lanes: int
) -> list[tuple[float, float]]:
    """(how long, how likely): what is left of the step under way, the step planned already, and the prompts of those that
    came during the same step and are computed with one's own.

    A step is as long as decoding and the prompts that came two steps ago: a chain of compound Poisson sums, whose mean and
    variance follow. Who comes meets long steps more often. With several lanes prompts are sent apart, and meet less."""
    work, squares = mean(work_us), mean([work * work for work in work_us])
    meets = lanes**-MEETS
    load = min(0.95, arrivals * work)
    each = step_us / (1 - load)
    variance = meets * arrivals * each * squares / (1 - load**2)
    met, found = each + variance / each, list[tuple[float, float]]()
    for now, likely in lognormal(met, variance):
        others = meets * load * now
        rest = lognormal(each + others, variance + meets * arrivals * now * squares)
        for (after, also), i in product(rest, range(MOMENTS)):
            found.append((now * (i + 0.5) / MOMENTS + after, running * likely * also / MOMENTS))
    return added([*found, (0.0, 1 - running)], [(0.0, 1.0)])


def added(some: list[tuple[float, float]], others: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The sum of two independent times, in few points: the mean of each part of `PARTS`."""
    every = sorted((a + b, p * q) for (a, p), (b, q) in product(some, others))
    found, seen, at = list[tuple[float, float]](), 0.0, 0
    weight = value = 0.0
    for time, likely in every:
        weight, value, seen = weight + likely, value + time * likely, seen + likely
        if at < len(PARTS) and seen >= PARTS[at] and weight > 0:
            found.append((value / weight, weight))
            weight = value = 0.0
            while at < len(PARTS) and seen >= PARTS[at]:
                at += 1
    return [*found, (value / weight, weight)] if weight > 0 else found


def lognormal(mean: float, variance: float) -> list[tuple[float, float]]:
    width = sqrt(log(1 + variance / mean**2))
    return [(mean * exp(width * at - width * width / 2), weight) for at, weight in NORMAL]


def exponential(some: float, mean: float) -> list[tuple[float, float]]:
    return [(0.0, 1 - some), *((-mean * log(1 - part), some * weight) for part, weight in TAIL)]


def quantile(weighted: list[tuple[float, float]], share: float) -> float:
    weighted.sort()
    wanted, seen = share * sum(weight for _, weight in weighted), 0.0
    for value, weight in weighted:
        seen += weight
        if seen >= wanted:
            return value
    return weighted[-1][0]


def normal(value: float) -> float:
    return (1 + erf(value / sqrt(2))) / 2


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
