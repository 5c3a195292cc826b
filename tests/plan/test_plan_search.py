"""Laws of the search."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.core.events import Role
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.plan.document import Objective
from pilothouse.plan.prices import Price
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.question import Goal, Question, Stock
from pilothouse.plan.search import search, titled
from tests.plan.test_plan_analytic import ASKS, asked

QUESTION = Question(
    name="q", model=MODELS["Qwen/Qwen3-32B"], stocks=[Stock(gpu=GPUS["h100_sxm"], count=8, price=Price(3.0, "given"))], asks=ASKS,
    objective=Objective(ttft_s=1.0, tpot_s=0.04), workload=None,
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
