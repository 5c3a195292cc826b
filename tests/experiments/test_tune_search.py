"""The search finds what is there, and claims nothing that is not."""

from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.random_stream import stream
from pilothouse.experiments.parameters import Point
from pilothouse.experiments.search import Found, Look, Stopped, search, spread
from pilothouse.experiments.tune import Tuned, change, gain
from pilothouse.policies.profiles import PROFILES
from pilothouse.report.estimates import estimate
from pilothouse.report.metrics import METRICS

SEEDS = 4


def planted(peak: Point, height: float = 0.3, noise: float = 0.02, seed: int = 0) -> object:
    """Gain falls with the distance from a peak; each seed shifts it a little, alike for all points, and a little not."""

    def judge(looks: Sequence[Look]) -> Sequence[float]:
        return [
            height
            - sum((x - y) ** 2 for x, y in zip(point, peak, strict=True))
            + noise * stream(seed, f"{point}/{place}").gauss(0, 1)
            for point, place in looks
        ]

    return judge


@pytest.mark.parametrize("dimensions", [1, 2, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_finds_a_planted_optimum(dimensions: int, seed: int) -> None:
    peak = tuple(0.15 + 0.2 * axis for axis in range(dimensions))
    found = search((0.9,) * dimensions, planted(peak), SEEDS, 300, stream(seed, "t"))  # type: ignore[arg-type]
    assert found.best is not None
    assert sum((x - y) ** 2 for x, y in zip(found.best, peak, strict=True)) < 0.03 * dimensions
    assert found.rounds == sorted(found.rounds)


def test_the_same_seed_finds_the_same() -> None:
    one, two, other = (search((0.5, 0.5), planted((0.2, 0.7)), SEEDS, 100, stream(s, "t")) for s in (1, 1, 2))  # type: ignore[arg-type]
    assert one == two and other.best != one.best


@given(st.integers(1, 6), st.integers(1, 200), st.integers(0, 50))
def test_it_keeps_to_its_budget_and_judges_its_best_on_all_seeds(seeds: int, budget: int, seed: int) -> None:
    looked: dict[Point, set[int]] = {}

    def judge(looks: Sequence[Look]) -> Sequence[float]:
        for point, place in looks:
            assert place not in looked.setdefault(point, set()) and all(0 <= x <= 1 for x in point)
            looked[point].add(place)
        return [stream(seed, f"{point}").gauss(0, 1) for point, _ in looks]

    found = search((0.5, 0.5), judge, seeds, budget, stream(seed, "t"))
    assert found.looks == sum(map(len, looked.values())) <= budget
    assert found.best is None or (looked[found.best] == set(range(seeds)) and found.gain > 0)


def test_noise_is_not_reported_as_an_improvement() -> None:
    """The best of many candidates gains on the seeds it was chosen by; on others it does not."""
    claims, chosen = 0, 0
    for seed in range(40):
        luck = stream(seed, "noise")

        def judge(looks: Sequence[Look], seed: int = seed) -> Sequence[float]:
            return [0.1 * stream(seed, f"{point}/{place}").gauss(0, 1) for point, place in looks]

        found = search((0.5, 0.5), judge, SEEDS, 100, luck)
        chosen += found.gain > 0.03
        held_back = estimate([0.1 * luck.gauss(0, 1) for _ in range(6)])
        claims += Tuned(found, PROFILES["random"], found.gain, held_back).is_better
    assert chosen == 40  # all looked like improvements
    assert claims <= 1  # a two-sided 95 % interval lets one in forty through


@pytest.mark.parametrize(
    ("gains", "better"),
    [
        ([0.05, 0.06, 0.04, 0.05], True),
        ([0.05, -0.06, 0.04, 0.05], False),  # noise
        ([0.004, 0.0041, 0.0039, 0.004], False),  # certain, and nothing
        ([0.0, 0.0, 0.0], False),  # nothing changed
        ([-0.05, -0.06, -0.04], False),
        ([-inf, 0.5, 0.5], False),
    ],
)
def test_better_is_certain_and_matters(gains: list[float], better: bool) -> None:
    assert Tuned(Found(), None, held_back=None).is_better is False
    if -inf not in gains:
        assert Tuned(Found(), None, held_back=estimate(gains)).is_better is better


def test_a_failure_is_never_the_best() -> None:
    found = search((0.5,), lambda looks: [-inf] * len(looks), SEEDS, 50, stream(1, "t"))
    assert found.best is None and found.looks > 0


def test_ctrl_c_gives_the_best_so_far() -> None:
    judge, left = planted((0.3,)), [6]

    def impatient(looks: Sequence[Look]) -> Sequence[float]:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return judge(looks)  # type: ignore[operator,no-any-return]

    found = search((0.9,), impatient, SEEDS, 300, stream(1, "t"))
    assert found.stopped and found.best is not None and abs(found.best[0] - 0.3) < 0.3


def test_what_is_not_allowed_is_not_looked_at() -> None:
    def judge(looks: Sequence[Look]) -> Sequence[float]:
        assert all(point[0] < 0.5 for point, _ in looks)
        return [point[0] for point, _ in looks]

    found = search((0.1,), judge, 2, 60, stream(1, "t"), lambda point: point[0] < 0.5)
    assert found.best is not None and 0.4 < found.best[0] < 0.5
    assert search((0.1,), judge, 2, 60, stream(1, "t"), lambda point: False).looks == 0


@pytest.mark.parametrize("dimensions", [1, 3])
def test_a_spread_fills_the_cube(dimensions: int) -> None:
    points = spread(dimensions, 64, stream(1, "t"))
    for axis in range(dimensions):
        quarters = [sum(int(4 * point[axis]) == q for point in points) for q in range(4)]
        assert min(quarters) >= 14


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.sampled_from(["ttft_mean", "goodput"]))
def test_a_gain_is_the_same_both_ways_and_said_as_a_change(before: float, after: float, key: str) -> None:
    metric = METRICS[key]
    there, back = gain(before, after, metric), gain(after, before, metric)
    assert there == pytest.approx(-back) and abs(there) <= 2 and gain(before, before, metric) == 0
    assert (there > 0) == ((after > before) == (metric.better == "high") and after != before)
    if abs(there) < 1.9:
        assert change(there, metric) == pytest.approx(after / before - 1)


def test_who_serves_nobody_gains_nothing_by_it() -> None:
    assert gain(0.0, inf, METRICS["ttft_mean"]) == -2 and gain(inf, 0.1, METRICS["ttft_mean"]) == 2
    assert gain(0.0, 0.0, METRICS["goodput"]) == 0
