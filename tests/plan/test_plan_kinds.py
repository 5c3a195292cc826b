"""Laws of searches that choose among kinds of GPU, and of what engines are given beside: drafts, and memory below HBM."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.core.events import Role
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.plan.analytic import Fleet, Pool, load_at
from pilothouse.plan.binding import ALONE, binding
from pilothouse.plan.document import Bound, Layout, Objective, Plan, PoolPlan
from pilothouse.plan.engines import engine_of
from pilothouse.plan.prices import Price
from pilothouse.plan.promise import expected_of
from pilothouse.plan.question import Question, Stock
from pilothouse.plan.search import search, titled
from tests.plan.test_plan_analytic import ASKS

MODEL, H100 = MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"]
EASY = Objective(ttft_s=1.0, tpot_s=0.05)


def stock(name: str, count: int, usd: float) -> Stock:
    return Stock(gpu=GPUS[name], count=count, price=Price(usd, "given"))


QUESTION = Question(
    name="q", model=MODEL, stocks=[stock("h100_sxm", 4, 3.0)], asks=ASKS, objective=EASY, workload=None,
    speculation=False, tiers=False,
)  # fmt: skip


@cache
def cheapest(h100: int, l40s: int, ttft: float, tpot: float, usd: float) -> Plan | None:
    stocks = [stock("h100_sxm", h100, 3.0), stock("l40s", l40s, usd)]
    asked = replace(
        QUESTION, stocks=[each for each in stocks if each.count], objective=Objective(ttft_s=ttft, tpot_s=tpot)
    )
    return next(iter(search(asked).plans), None)


def cost(plan: Plan | None) -> float:
    return float("inf") if plan is None else expected_of(plan).usd_per_hour


@settings(max_examples=4)
@given(
    st.sampled_from([2, 4]), st.sampled_from([0, 8]), st.sampled_from([0.3, 1.0]), st.sampled_from([0.03, 0.06]),
    st.sampled_from([0.5, 1.5]),
)  # fmt: skip
def test_more_to_choose_from_costs_no_more(h100: int, l40s: int, ttft: float, tpot: float, usd: float) -> None:
    """More GPUs, another kind of them, looser objectives, a lower price: none makes the best plan dearer."""
    now = cost(cheapest(h100, l40s, ttft, tpot, usd))
    assert cost(cheapest(h100 * 2, l40s, ttft, tpot, usd)) <= now
    assert cost(cheapest(h100, l40s + 8, ttft, tpot, usd)) <= now
    assert cost(cheapest(h100, l40s, ttft * 2, tpot * 2, usd)) <= now
    assert cost(cheapest(h100, l40s, ttft, tpot, usd / 2)) <= now


def test_pools_have_gpus_of_their_own_where_that_is_cheaper() -> None:
    """GPUs that compute for little money prefill, those that read fast decode; nobody is given more than there is."""
    asked = replace(
        QUESTION, stocks=[stock("h100_sxm", 4, 9.0), stock("l40s", 2, 0.3)], objective=Objective(ttft_s=2.0, tpot_s=0.018)
    )  # fmt: skip
    found = search(asked)
    mixed = [plan for plan in found.plans if len({pool.gpu for pool in plan.pools}) == 2]
    assert mixed and "on l40s" in titled(mixed[0].pools)
    for plan in found.plans:
        for each in asked.stocks:
            used = sum(pool.replicas * pool.layout.gpus for pool in plan.pools if pool.gpu == each.name)
            assert used <= each.count
        split = [pool for pool in plan.pools if pool.role is not Role.BOTH]
        assert len({(pool.precision, pool.kv_precision, pool.connector) for pool in split}) <= 1
        pays = {each.name: each.price.usd_h for each in asked.stocks if each.price}
        hourly = sum(pays[pool.gpu] * pool.replicas * pool.layout.gpus for pool in plan.pools)
        assert expected_of(plan).usd_per_hour == pytest.approx(hourly)


def test_layouts_of_prefill_and_decode_may_differ() -> None:
    found = search(replace(QUESTION, stocks=[stock("l40s", 16, 0.3)], objective=Objective(ttft_s=2.0, tpot_s=0.02)))
    best = found.plans[0].pools
    assert [pool.role for pool in best] == [Role.PREFILL, Role.DECODE] and best[0].layout.tp < best[1].layout.tp


def test_two_kinds_serve_together_what_neither_serves_alone() -> None:
    asks = replace(ASKS, rate=ASKS.rate * 2)
    alone = [stock("h100_sxm", 2, 3.0), stock("h200_sxm", 2, 3.5)]
    loose = replace(QUESTION, asks=asks, split=False, objective=Objective(ttft_s=5.0, tpot_s=0.2), stocks=alone)
    most = max(
        expected_of(plan).requests_per_s_max
        for each in alone
        for plan in search(replace(loose, stocks=[each], asks=ASKS)).plans
    )
    found = search(replace(loose, asks=replace(ASKS, rate=1.2 * most)))
    assert found.plans and {pool.gpu for pool in found.plans[0].pools} == {"h100_sxm", "h200_sxm"}
    names = {pool.name for pool in found.plans[0].pools}
    assert names == {"on-h100-sxm", "on-h200-sxm"}, "as Kubernetes spells names"


def test_drafts_are_offered_where_there_is_something_to_draft_with() -> None:
    drafting = search(replace(QUESTION, speculation=True))
    said = {pool.speculation["method"] for plan in drafting.plans for pool in plan.pools if pool.speculation}
    assert said == {"eagle3"}  # the one that was trained for this model
    assert all(not pool.speculation for plan in search(QUESTION).plans for pool in plan.pools)
    plan = next(plan for plan in drafting.plans if plan.pools[0].speculation)
    assert expected_of(plan).tpot_band > expected_of(search(QUESTION).plans[0]).tpot_band
    assert any("acceptance as published" in why for why in plan.why)


def test_memory_below_hbm_finds_what_hbm_has_no_room_for() -> None:
    """The same engine with a tier: no fewer hits, and what is fetched takes time."""
    pool = PoolPlan(name="engines", replicas=1, layout=Layout(tp=2), gpu="h100_sxm")
    plain = engine_of(pool, MODEL, H100, 2000)
    tiered = engine_of(replace(pool, tiers={"dram": 200.0}), MODEL, H100, 2000)
    assert plain.below_tokens == 0 and tiered.below_tokens > plain.kv_tokens and tiered.below_us > 0
    few, many = (load_at(Fleet(Pool(engine, 1)), ASKS, ASKS.rate / 4, 95) for engine in (plain, tiered))
    assert many.hit_ratio >= few.hit_ratio
    same = [load_at(Fleet(Pool(engine, 1)), ASKS, ASKS.rate / 4, 95, 0.5).ttft_us for engine in (plain, tiered)]
    assert same[1] >= same[0]


def test_a_plan_says_all_that_an_engine_is_started_with() -> None:
    for plan in search(QUESTION).plans:
        for pool in plan.pools:
            assert pool.max_num_seqs and pool.max_num_batched_tokens
            assert pool.max_model_len is None or pool.max_model_len >= ASKS.longest


def test_what_binds_is_what_is_short() -> None:
    """Decode-heavy fleets run out of bandwidth, prefill engines of arithmetic, and a limit that an idle engine hardly keeps
    is a matter of latency."""
    pool = PoolPlan(name="engines", replicas=1, layout=Layout(tp=2), gpu="h100_sxm")
    engine = engine_of(pool, MODEL, H100, ASKS.demand.context_mean)
    short = replace(ASKS, prompts=[16] * len(ASKS.prompts))
    fleet, rate = Fleet(Pool(engine, 1)), 1.0
    near, alone = load_at(fleet, short, rate, 95, 0.0), load_at(fleet, short, rate / 1000, 95, 0.0)

    def bound(fleet: Fleet, objective: Objective) -> Bound:
        return binding(fleet, short, load_at(fleet, short, rate, 95, 0.0), rate, objective, {})

    assert bound(fleet, Objective(tpot_s=near.tpot_us / 1e6)) is Bound.BANDWIDTH or alone.tpot_us > ALONE * near.tpot_us
    assert bound(fleet, Objective(tpot_s=alone.tpot_us * 1.01 / 1e6)) is Bound.LATENCY
    assert bound(Fleet(Pool(engine, 1), Pool(engine, 1)), Objective(ttft_s=9.0)) is Bound.COMPUTE
