"""Searches a cube for the point that gains most, where every look costs a simulation and seeds differ.

First a spread of points over the whole cube, then rounds of points near the best one, nearer each time. In each round
the points are judged on one seed, the better third of them on more, and so on up to all (successive halving: Jamieson
and Talwalkar, AISTATS 2016). What was judged on all seeds may become the best. The start gains nothing by definition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from statistics import fmean

from pilothouse.core.random_stream import Random
from pilothouse.experiments.parameters import Point

KEPT = 3  # one of so many goes on to more seeds
START_SHARE = 0.4  # of the budget, for the spread over the whole cube
ROUND_SHARE = 0.15  # of the budget, for each round near the best
WIDTH, NARROWS = 0.25, 0.7  # of the first round near the best, as a share of the cube's edge; of each next one

Look = tuple[Point, int]  # a point on a seed, which is known by its place
Judge = Callable[[Sequence[Look]], Sequence[float]]  # gains over the start on the same seed; -inf = it failed there


class Stopped(Exception):
    """Raised by a judge that is to look no more."""


@dataclass(slots=True)
class Found:
    """`best` is None where nothing was better than the start on all seeds."""

    best: Point | None = None
    gain: float = 0.0  # mean over all training seeds
    looks: int = 0
    points: int = 0
    stopped: bool = False
    rounds: list[float] = field(default_factory=list)  # the best gain after each


def search(
    start: Point,
    judge: Judge,
    seeds: int,
    budget: int,
    luck: Random,
    allowed: Callable[[Point], bool] = lambda point: True,
    told: Callable[[Found], None] = lambda found: None,
) -> Found:
    """At most `budget` looks. Deterministic in `luck`."""
    found, number = Found(), 0
    size = _affordable(int(START_SHARE * budget), seeds)
    points = [point for point in spread(len(start), size, luck) if allowed(point)]
    try:
        while True:
            left = budget - found.looks
            points = points[: _affordable(left, seeds)]
            if not points:
                break
            _round(points, judge, seeds, found)
            found.rounds.append(found.gain)
            told(found)
            number += 1
            size = max(1, _affordable(int(ROUND_SHARE * budget), seeds))
            points = near(found.best or start, size, WIDTH * NARROWS ** (number - 1), luck, allowed)
    except Stopped:
        found.stopped = True
    return found


def spread(dimensions: int, count: int, luck: Random) -> list[Point]:
    """Points that fill a cube evenly, moved by luck.

    source   R sequence: Roberts, The unreasonable effectiveness of quasirandom sequences, 2018
    """
    root = 2.0
    for _ in range(50):  # of x^(d+1) = x + 1
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    shifts = [luck.random() for _ in range(dimensions)]
    return [
        tuple((shift + (i + 1) * root ** -(axis + 1)) % 1.0 for axis, shift in enumerate(shifts)) for i in range(count)
    ]


def near(best: Point, count: int, width: float, luck: Random, allowed: Callable[[Point], bool]) -> list[Point]:
    """Points about the best one: every second one differs in a single coordinate, so that one that matters is found."""
    points: list[Point] = []
    for i in range(20 * count):  # most of what is not allowed has allowed neighbours; if not, fewer will do
        if len(points) == count:
            break
        axis = luck.randrange(len(best)) if i % 2 else None
        moved = [
            x if axis is not None and axis != j else _reflected(x + luck.gauss(0.0, width)) for j, x in enumerate(best)
        ]
        if allowed(tuple(moved)):
            points.append(tuple(moved))
    return points


def _round(points: list[Point], judge: Judge, seeds: int, found: Found) -> None:
    gains: dict[Point, list[float]] = {point: [] for point in points}
    found.points += len(gains)
    rungs = _rungs(seeds)
    for i, rung in enumerate(rungs):
        looks = [(point, place) for point in gains for place in range(len(gains[point]), rung)]
        for (point, _), gain in zip(looks, judge(looks), strict=True):
            gains[point].append(gain)
        found.looks += len(looks)
        ranked = sorted(gains, key=lambda point: -fmean(gains[point]))
        if i + 1 < len(rungs):
            gains = {point: gains[point] for point in ranked[: ceil(len(ranked) / KEPT)]}
        elif fmean(gains[ranked[0]]) > found.gain:
            found.best, found.gain = ranked[0], fmean(gains[ranked[0]])


def _rungs(seeds: int) -> list[int]:
    """1, 2, 4 ... and all."""
    rungs = [1]
    while rungs[-1] < seeds:
        rungs.append(min(seeds, 2 * rungs[-1]))
    return rungs


def _cost(count: int, seeds: int) -> int:
    """Looks of a round of so many points."""
    cost, before = 0, 0
    for rung in _rungs(seeds):
        cost, before, count = cost + count * (rung - before), rung, ceil(count / KEPT)
    return cost


def _affordable(budget: int, seeds: int) -> int:
    """The most points of a round within the budget; 0 if not even one."""
    count = 0
    while _cost(count + 1, seeds) <= budget:
        count += 1
    return count


def _reflected(x: float) -> float:
    """Back into the cube at its walls."""
    x = abs(x) % 2.0
    return 2.0 - x if x > 1.0 else x


def mean_or_loss(gains: Sequence[float]) -> float:
    """Of one point over several loads: a failure anywhere is a failure."""
    return fmean(gains) if gains and min(gains) > -inf else -inf
