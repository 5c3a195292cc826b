"""Arrivals come as many as asked and in order; lengths stay within their limits and near their mean."""

from statistics import mean, pvariance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.random_stream import stream
from pilothouse.core.units import Micros
from pilothouse.workload.arrivals import AnyArrivals, Arrivals, Bursts, Diurnal, Gamma, arrival_times
from pilothouse.workload.lengths import Length, Listed, Lognormal, Pauses, draw, draw_us, limits
from pilothouse.workload.rag import Rag
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe

SECOND = 1_000_000
SHAPES = st.one_of(
    st.just(Arrivals.UNIFORM),
    st.floats(0.05, 20).map(Gamma),
    st.builds(Bursts, st.integers(1000, 10**8).map(Micros), st.integers(1000, 10**8).map(Micros), st.floats(0, 1)),
    st.builds(Diurnal, st.integers(10**6, 10**9).map(Micros), st.floats(0, 1)),
)


@given(SHAPES, st.floats(0.01, 50), st.floats(0.1, 30), st.integers())
def test_arrivals_are_as_many_as_asked_in_order_and_within_the_stage(
    shape: AnyArrivals, rate: float, seconds: float, seed: int
) -> None:
    times = arrival_times(shape, stream(seed, "a"), rate, seconds)
    assert len(times) == int(rate * seconds + 1e-9) and times == sorted(times)
    assert all(0 <= at_us <= seconds * SECOND + 1 for at_us in times)


def test_float_errors_lose_no_request() -> None:
    assert len(arrival_times(Arrivals.UNIFORM, stream(1, "a"), 0.29, 100)) == 29


def dispersion(shape: AnyArrivals) -> float:
    """Variance of the counts per second over their mean: 1 for Poisson."""
    counts = [0] * 401
    for at_us in arrival_times(shape, stream(3, "a"), 20, 400):
        counts[at_us // SECOND] += 1
    return pvariance(counts[:400]) / mean(counts[:400])


def test_burstiness_is_what_it_says() -> None:
    assert dispersion(Arrivals.UNIFORM) < 0.05
    assert 0.8 < dispersion(Arrivals.POISSON) < 1.2 and 0.8 < dispersion(Gamma(1.0)) < 1.2
    assert dispersion(Gamma(0.1)) > 5 and dispersion(Gamma(10)) < 0.3


def test_bursts_are_busy_and_quiet() -> None:
    times = arrival_times(Bursts(Micros(SECOND), Micros(3 * SECOND), 0.1), stream(1, "a"), 100, 40)
    busy = sum(at_us % (4 * SECOND) < SECOND for at_us in times)
    assert busy / len(times) == pytest.approx(1 / 1.3, abs=0.03)
    assert all(
        at_us % 2000 < 1000 for at_us in arrival_times(Bursts(Micros(1000), Micros(1000)), stream(1, "a"), 50, 9)
    )


def test_a_day_begins_at_its_lowest() -> None:
    times = arrival_times(Diurnal(Micros(40 * SECOND), 0.9), stream(1, "a"), 100, 40)
    quarters = [sum(i * 5 * SECOND <= at_us < (i + 1) * 5 * SECOND for at_us in times) for i in range(8)]
    assert quarters[:4] == sorted(quarters[:4]) and quarters[4:] == sorted(quarters[4:], reverse=True)
    assert quarters[3] > 5 * quarters[0]


@given(st.floats(1, 5000), st.floats(1, 14.8), st.integers(1, 1000), st.integers())
def test_lengths_stay_within_their_limits(average: float, skew: float, least: int, seed: int) -> None:
    length = Lognormal(average, 10_000, average * skew, None, min(least, int(average)))
    for one in (length, least, (least, least + 5), Listed([least, 3])):
        low, high = limits(one)
        assert low <= draw(one, stream(seed, "a")) <= high


@pytest.mark.parametrize("length", [Lognormal(1000, 10**6, 4000), Lognormal(1000, 10**6, None, 0.7), (500, 1500), 1000])
def test_lengths_have_their_mean_and_their_tail(length: Length) -> None:
    luck = stream(1, "a")
    drawn = sorted(draw(length, luck) for _ in range(20_000))
    assert mean(drawn) == pytest.approx(1000, rel=0.03)
    if isinstance(length, Lognormal) and length.p99:
        assert drawn[19_800] == pytest.approx(4000, rel=0.08)


def test_pauses_are_drawn_or_fixed() -> None:
    luck = stream(1, "a")
    pauses = Pauses(Micros(10 * SECOND), Micros(40 * SECOND), Micros(60 * SECOND))
    drawn = [draw_us(pauses, luck) for _ in range(5000)]
    assert mean(drawn) == pytest.approx(10 * SECOND, rel=0.05) and max(drawn) <= 60 * SECOND
    assert draw_us(Micros(5), luck) == 5


def test_documents_are_as_popular_as_zipf_says() -> None:
    spec = Rag([Phase(rate=400, seconds=10)], documents=3, document_tokens=64, system_tokens=0, question_tokens=1)  # type: ignore[arg-type]
    asked: dict[int, int] = {}
    for planned in Recipe(spec).make(1).stages[0].requests:
        asked[planned.blocks[0]] = asked.get(planned.blocks[0], 0) + 1
    shares = [count / 4000 for count in sorted(asked.values(), reverse=True)]
    assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.03)
