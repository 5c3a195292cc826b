"""What tables and charts are made of: intervals, series and rungs, the knee, numbers as people read them."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.policies.profiles import DEFAULT
from pilothouse.report.charts import log_axis, spans_far
from pilothouse.report.estimates import estimate
from pilothouse.report.grouping import PALETTE, colours_of, group
from pilothouse.report.knee import knee
from pilothouse.report.metrics import METRICS, shown
from tests.report.runs import CAPACITY, ladder, run

figures = st.floats(0.001, 1e6)
names = st.text("abcdefgh_", min_size=1, max_size=12)


@given(st.lists(figures, min_size=1, max_size=40))
def test_the_mean_lies_in_its_interval_and_one_value_has_none(values: list[float]) -> None:
    found = estimate(values)
    assert found.mean == pytest.approx(fmean(values)) and found.low <= found.mean <= found.high
    assert (found.half is None) == (len(values) == 1)


def test_an_interval_by_hand() -> None:
    # Mean 3, standard deviation sqrt(2.5), Student's t for four degrees of freedom 2.776
    assert estimate([1, 2, 3, 4, 5]).half == pytest.approx(2.776 * (2.5 / 5) ** 0.5)


@given(st.lists(figures, min_size=2, max_size=20), st.floats(0.1, 10))
def test_an_interval_scales_with_its_values(values: list[float], factor: float) -> None:
    half = estimate([factor * value for value in values]).half
    assert half == pytest.approx(factor * (estimate(values).half or 0.0), abs=1e-6 * max(values))


@given(st.lists(names, min_size=1, max_size=len(PALETTE), unique=True), names)
def test_colours_differ_and_hardly_depend_on_company(several: list[str], other: str) -> None:
    chosen = colours_of(several)
    assert len(set(chosen.values())) == len(several)
    assert colours_of(list(reversed(several))) == chosen
    assert colours_of([DEFAULT, other])[DEFAULT] == PALETTE[0]


def test_more_policies_than_colours_begin_again() -> None:
    assert set(colours_of([f"p{i}" for i in range(40)]).values()) == set(PALETTE)


@pytest.mark.parametrize(
    ("ttfts", "at"),
    [
        ([0.1, 0.2, 0.9, 1.1, 9], 2),
        ([0.1, 5, 9], 0),
        ([0.1, 0.2, 0.9], None),  # no bend
        ([0.1, 5], None),  # too few to see one
        ([], None),
        ([0, 1, 2], None),
    ],
)
def test_the_knee_is_the_last_rung_before_the_bend(ttfts: list[float], at: int | None) -> None:
    assert knee(ttfts) == at


@given(st.lists(figures, min_size=3, max_size=12), st.floats(0.1, 10))
def test_the_knee_does_not_depend_on_the_unit(ttfts: list[float], factor: float) -> None:
    assert knee([2.0 * ttft for ttft in ttfts]) == knee(ttfts)
    found = knee(ttfts)
    assert found is None or max(ttfts[: found + 1]) <= 10 * ttfts[0] < ttfts[found + 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345, "12,345"),
     (float("nan"), "-"), (float("inf"), "-")],
)  # fmt: skip
def test_numbers_as_people_read_them(value: float, text: str) -> None:
    assert shown(value) == text


def test_every_run_is_in_one_cell_and_seeds_lie_side_by_side() -> None:
    runs = ladder(seeds=3)
    book = group(runs)
    assert len(book.series) == len(CAPACITY) and len(book.rungs) == 6 and book.seeds == 3
    assert sum(len(cell.stages) for cell in book.cells.values()) == len(runs)
    assert all(cell.seeds == [1, 2, 3] for cell in book.cells.values())
    assert [rung.offered for rung in book.rungs] == sorted(rung.offered for rung in book.rungs)


def test_measured_and_simulated_stages_of_one_rate_are_one_rung() -> None:
    book = group([run("a", 2, 1, rates=(10.0,)), run("http://x", 1, 1, rates=(20.0,), label="Measured")])
    assert len(book.rungs) == 1 and book.labels == ["Simulated", "Measured"]
    assert [series.title for series in book.series] == ["a (Simulated)", "http://x (Measured)"]
    assert len({series.dash for series in book.series}) == 2


def test_one_policy_of_two_scenarios_is_two_series_with_one_colour() -> None:
    book = group([run("a", 1, 1, scenario="one"), run("a", 1, 1, scenario="two")])
    assert [series.title for series in book.series] == ["a (one)", "a (two)"]
    assert len({series.colour for series in book.series}) == 1 and len({series.dash for series in book.series}) == 2


def test_stages_of_one_rate_are_averaged_within_a_seed_before_seeds_are() -> None:
    book = group([run("a", 1, seed, rates=(20.0, 20.001, 30.0)) for seed in (1, 2)])
    curve = book.curve(0, METRICS["ttft_mean"])
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)
    assert all(figure.count == 2 for _, figure in curve)


def test_without_rates_a_load_is_its_factor() -> None:
    closed = [run("a", load, 1, rates=(0.0,)) for load in (1, 2, 4)]
    book = group(closed)
    assert not book.by_rate and [book.x(rung) for rung in book.rungs] == [1, 2, 4]
    assert [rung.title for rung in book.rungs] == ["load x 1", "load x 2", "load x 4"]


def test_users_among_rates_stand_where_their_factor_belongs() -> None:
    book = group([run("a", load, 1, rates=(0.0 if load == 1 else 20.0,)) for load in (0.5, 1, 1.2)])
    assert [rung.title for rung in book.rungs] == ["load x 0.5, 10 req/s", "load x 1", "load x 1.2, 24 req/s"]


@given(st.lists(figures, min_size=2, max_size=9))
def test_a_logarithmic_axis_has_lines_around_all_that_is_drawn(values: list[float]) -> None:
    ticks = log_axis(values)["tickvals"]
    assert min(ticks) <= min(values) and max(values) <= max(ticks) and ticks == sorted(ticks)
    assert spans_far([1, 21]) and not spans_far([1, 19]) and not spans_far([0, 0])
