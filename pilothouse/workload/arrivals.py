"""When things come that do not wait for each other: always exactly int(rate x seconds) of them, in order."""

from bisect import bisect_right
from enum import StrEnum
from itertools import accumulate
from math import pi, sin

from pilothouse.core.random_stream import Random
from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.requests import poisson_arrivals, uniform_arrivals
from pilothouse.workload.written import Written

CELLS = 96  # of a diurnal period: steps of a quarter of an hour, where it is a day


class Arrivals(StrEnum):
    """How requests are spaced."""

    POISSON = "poisson"
    UNIFORM = "uniform"


class Gamma(Written, frozen=True, tag="gamma", tag_field="kind"):
    """Independent gaps. `burstiness` is the shape as in vLLM's benchmark: 1 is Poisson, below 1 is burstier."""

    burstiness: float

    def __post_init__(self) -> None:
        if not 0.01 <= self.burstiness <= 1000:
            raise ValueError("burstiness must lie between 0.01 and 1000")


class Bursts(Written, frozen=True, tag="bursts", tag_field="kind"):
    """Busy for `busy`, then quiet for `rest`, and again; the mean over a whole turn is the rate asked for."""

    busy_us: Micros
    rest_us: Micros
    quiet: float = 0.0  # the rate while quiet, as a share of the rate while busy

    def __post_init__(self) -> None:
        if self.busy_us < 1000 or self.rest_us < 1000 or not 0 <= self.quiet <= 1:
            raise ValueError("busy and rest must be at least 1ms, quiet between 0 and 1")


class Diurnal(Written, frozen=True, tag="diurnal", tag_field="kind"):
    """A sine that begins at its lowest; `depth` 1 falls to nothing and doubles at the height."""

    period_us: Micros
    depth: float = 0.8

    def __post_init__(self) -> None:
        if self.period_us < SECOND or not 0 <= self.depth <= 1:
            raise ValueError("period must be at least 1s, depth between 0 and 1")


AnyArrivals = Arrivals | Gamma | Bursts | Diurnal


def how_many(rate: float, seconds: float) -> int:
    """int(rate x seconds), but for the error of floats."""
    return int(rate * seconds + 1e-9)


def arrival_times(shape: AnyArrivals, luck: Random, rate: float, seconds: float) -> list[Micros]:
    """Ascending, from the beginning of the stage."""
    count = how_many(rate, seconds)
    match shape:
        case Gamma():
            gaps = [luck.gammavariate(shape.burstiness, 1.0) for _ in range(count + 1)]
            total = sum(gaps) or 1.0
            return [Micros(int(seconds * SECOND * at / total)) for at in accumulate(gaps[:-1])]
        case Bursts():
            return _warped(luck, count, seconds, [(shape.busy_us, 1.0), (shape.rest_us, shape.quiet)])
        case Diurnal():
            turns = ((i + 0.5) / CELLS for i in range(CELLS))
            cells = [(shape.period_us / CELLS, 1 + shape.depth * sin(2 * pi * (turn - 0.25))) for turn in turns]
            return _warped(luck, count, seconds, cells)
        case Arrivals.UNIFORM:
            return uniform_arrivals(rate, count)
    return poisson_arrivals(luck, rate, count)


def _warped(luck: Random, count: int, seconds: float, cells: list[tuple[float, float]]) -> list[Micros]:
    """A Poisson process of the given number whose rate goes through `cells` of (length, weight) again and again: with
    the number known, its points are independent, each spread as the rate is."""
    end_us, ends, masses, at_us, mass = seconds * SECOND, [0.0], [0.0], 0.0, 0.0
    while at_us < end_us:
        for length_us, weight in cells:
            taken = min(length_us, end_us - at_us)
            at_us, mass = at_us + taken, mass + taken * weight
            ends.append(at_us)
            masses.append(mass)
            if at_us >= end_us:
                break
    times = []
    for drawn in sorted(luck.random() * mass for _ in range(count)):
        cell = bisect_right(masses, drawn) - 1
        share = (drawn - masses[cell]) / (masses[cell + 1] - masses[cell])
        times.append(Micros(int(ends[cell] + share * (ends[cell + 1] - ends[cell]))))
    return times
