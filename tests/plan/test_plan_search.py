"""Laws of the search, of bills, and of price lists."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.core.errors import ConfigError
from pilothouse.core.events import Role
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.plan.costs import bill, paid_share
from pilothouse.plan.document import Objective
from pilothouse.plan.prices import Price, price_of, read_prices
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.search import Goal, Question, search, titled
from tests.plan.test_plan_analytic import ASKS, asked

QUESTION = Question(
    name="q", model=MODELS["Qwen/Qwen3-32B"], gpu=GPUS["h100_sxm"], gpus=8, asks=ASKS,
    objective=Objective(ttft_s=1.0, tpot_s=0.04), workload=None, price=Price(3.0, "given"),
)  # fmt: skip
FOUND = search(QUESTION)


def test_every_plan_keeps_what_is_asked_within_the_gpus_there_are() -> None:
    assert FOUND.plans and all(keeps(QUESTION.objective, expected_of(plan)) for plan in FOUND.plans)
    assert all(plan.gpus <= 8 for plan in FOUND.plans)
    assert all(expected_of(plan).requests_per_s_max >= ASKS.rate for plan in FOUND.plans)
    assert all(expected_of(plan).usd_per_hour == pytest.approx(3 * plan.gpus) for plan in FOUND.plans)
    assert {len(plan.pools) for plan in FOUND.plans} == {1, 2}
    titles = [titled(plan.pools) for plan in FOUND.plans]
    assert len(set(titles)) == len(titles)


def test_every_rejected_way_has_a_reason() -> None:
    found = search(replace(QUESTION, objective=Objective(ttft_s=0.02, tpot_s=0.04)))
    assert not found.plans and all(way.what and way.why for way in found.rejected)
    assert any("TTFT p95" in way.why for way in found.rejected)


def test_a_split_plan_can_be_deployed() -> None:
    split = next(plan for plan in FOUND.plans if len(plan.pools) == 2)
    assert [pool.role for pool in split.pools] == [Role.PREFILL, Role.DECODE]
    assert {pool.connector for pool in split.pools} == {"nixl"} and len({pool.name for pool in split.pools}) == 2
    assert all(len(plan.pools) == 1 for plan in search(replace(QUESTION, split=False)).plans)


@pytest.mark.parametrize("goal", list(Goal))
def test_the_first_is_the_best_by_the_goal(goal: Goal) -> None:
    plans = search(replace(QUESTION, goal=goal)).plans
    figure = {
        Goal.MIN_COST: [expected_of(plan).usd_per_hour for plan in plans],
        Goal.MIN_GPUS: [float(plan.gpus) for plan in plans],
        Goal.MAX_GOODPUT: [-expected_of(plan).requests_per_s_max for plan in plans],
    }[goal]
    assert figure[0] == min(figure)


def test_a_fleet_that_is_too_small_for_all_is_planned_for_what_it_can_serve() -> None:
    found = search(replace(QUESTION, goal=Goal.MAX_GOODPUT, asks=asked(500.0))).plans[0]
    expected = expected_of(found)
    assert expected.requests_per_s == expected.requests_per_s_max < 500
    assert keeps(QUESTION.objective, expected)


@settings(max_examples=8, deadline=None)
@given(st.floats(1, 30), st.floats(1.1, 3))
def test_more_requests_never_cost_less(rate: float, factor: float) -> None:
    few, many = (search(replace(QUESTION, split=False, asks=asked(r))).plans for r in (rate, rate * factor))
    if many:
        assert few and few[0].gpus <= many[0].gpus


# --- bills and prices


@given(st.floats(0.1, 1000), st.floats(0, 1), st.floats(0.1, 1))
def test_a_bill_adds_up(usd_h: float, share: float, served: float) -> None:
    made = bill(usd_h, ASKS, served, share)
    into, out = (
        ASKS.rate_mean * served * 3600 / 1e6 * mean for mean in (ASKS.demand.prompt_mean, ASKS.demand.output_mean)
    )
    assert made.usd_per_m_input * into + made.usd_per_m_output * out == pytest.approx(usd_h)
    assert made.usd_per_m * (into + out) == pytest.approx(usd_h)


def test_engines_that_follow_the_load_are_paid_for_as_they_run() -> None:
    asks = replace(ASKS, curve=[(0.0, 0.5), (10.0, 0.25), (40.0, 0.25)])
    assert paid_share(asks, 4, 40.0, 1) == pytest.approx((0.5 * 1 + 0.25 * 1 + 0.25 * 4) / 4)
    assert paid_share(asks, 4, 40.0, 0) == pytest.approx((0.25 * 1 + 0.25 * 4) / 4)
    assert paid_share(asks, 4, 40.0, 4) == 1
    scaled = search(replace(QUESTION, asks=asks, follows=0)).plans[0]
    assert expected_of(scaled).usd_per_hour < 3 * scaled.gpus


PRICES = """
date: 2026-11
source: our contract
gpus:
  h100: {on_demand: 2.9, reserved: 2.1, owned_per_month: 730, power_usd_per_kwh: 0.1}
"""


@pytest.mark.parametrize(("term", "usd_h"), [("on_demand", 2.9), ("reserved", 2.1), ("owned", 1.07), ("spot", None)])
def test_a_list_of_ones_own_comes_first(term: str, usd_h: float | None, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    found = price_of(GPUS["h100_sxm"], term, read_prices(path))
    assert (found.usd_h if found else None) == pytest.approx(usd_h)
    assert found is None or "our contract, 2026-11" in found.said


def test_what_ships_is_the_middle_of_quotes_and_only_on_demand() -> None:
    found = price_of(GPUS["h100_sxm"], "on_demand")
    assert found is not None and found.usd_h == pytest.approx((1.99 * 5.0) ** 0.5) and "2026-04" in found.said
    assert price_of(GPUS["h100_sxm"], "spot") is None and price_of(GPUS["l40s"], "on_demand") is None


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("date: x\nsource: y\n", "gpus"),
        (PRICES.replace("h100", "h1000"), "gpus.h1000"),
        (PRICES.replace("2.9", "-1"), "gpus.h100"),
        (PRICES.replace("reserved", "reservd"), "gpus.h100"),
        ("[", ""),
    ],
)
def test_a_wrong_price_list_says_where(text: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_prices(path)
    assert any(where in problem.where and str(path) in problem.where for problem in caught.value.problems)
