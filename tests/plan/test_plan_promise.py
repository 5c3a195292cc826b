"""Laws of what a plan promises by sums, whatever its pools are."""

import pytest
from msgspec.structs import replace

from pilothouse.core.errors import ConfigError
from pilothouse.core.events import Role
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.plan.document import Layout, Objective, Plan, PoolPlan
from pilothouse.plan.prices import Prices
from pilothouse.plan.promise import Terms, expected_of, promised
from pilothouse.plan.rehearsal import job, rehearse
from pilothouse.plan.simulated import Hardware, hardware_of
from tests.plan.test_plan_analytic import asked, workload

ASKS = asked(8)
PRICES = Prices(given={"h100_sxm": 3.0, "l40s": 1.0})
FAST = PoolPlan(name="fast", replicas=1, layout=Layout(tp=1), gpu="h100_sxm", precision="fp8")
SLOW = replace(FAST, name="slow", replicas=3, gpu="l40s")


def plan(*pools: PoolPlan, **changes: object) -> Plan:
    made = Plan(
        name="p", model="qwen3-8b", pools=list(pools), objective=Objective(ttft_s=1.0, tpot_s=0.05), workload=None
    )
    return replace(made, **changes)


def test_pools_that_serve_whole_requests_bear_together_what_each_bears() -> None:
    both, fast, slow = (
        promised(p, hardware_of(p), Terms(ASKS, PRICES)) for p in (plan(FAST, SLOW), plan(FAST), plan(SLOW))
    )
    rates = [expected_of(p).requests_per_s_max for p in (both, fast, slow)]
    assert rates[0] == pytest.approx(rates[1] + rates[2], rel=0.05)
    assert expected_of(both).usd_per_hour == pytest.approx(3.0 + 3 * 1.0)
    assert expected_of(both).kv_tokens == expected_of(fast).kv_tokens + expected_of(slow).kv_tokens


def test_unlike_pools_do_no_worse_in_simulation_than_sums_expect() -> None:
    work = workload(24, 1800)
    mixed = plan(FAST, SLOW)
    found = promised(mixed, hardware_of(mixed), Terms(asked(24), PRICES))
    done, sums = rehearse(job(found, hardware_of(mixed), asked(24), work)), expected_of(found)
    assert 0.6 * sums.tpot_s < done.tpot_s < 1.1 * sums.tpot_s  # fast engines are filled first: sums do not know
    assert done.ttft_s < 1.1 * sums.ttft_s


def test_a_price_that_is_missing_leaves_no_half_a_bill() -> None:
    mixed = plan(FAST, SLOW)
    found = expected_of(promised(mixed, hardware_of(mixed), Terms(ASKS, Prices(given={"h100_sxm": 3.0}))))
    assert found.usd_per_hour == 0 and any("no price of l40s" in note for note in found.notes)


def test_a_fleet_that_cannot_serve_all_promises_to_be_late_or_what_it_can() -> None:
    small, crowd = plan(FAST), Terms(asked(500), PRICES)
    late, capped = (expected_of(promised(small, hardware_of(small), crowd, capped=c)) for c in (False, True))
    assert late.requests_per_s == 500 and late.ttft_s == float("inf")
    assert capped.requests_per_s == capped.requests_per_s_max < 500 and capped.ttft_s <= 1.0


def test_work_that_is_all_there_is_promised_the_highest_rate() -> None:
    batch = replace(ASKS, rate=0.0, rate_mean=0.0)
    found = expected_of(promised(plan(FAST), hardware_of(plan(FAST)), Terms(batch, PRICES)))
    assert found.requests_per_s == found.requests_per_s_max > 0 and found.usd_per_m > 0
    nobody = plan(FAST, objective=Objective(tpot_s=1e-6))
    with pytest.raises(ConfigError, match="missed by one request alone"):
        promised(nobody, hardware_of(nobody), Terms(batch, PRICES))


def test_drafts_make_few_requests_quicker_in_sums_as_in_simulation() -> None:
    model, gpu = MODELS["Qwen/Qwen3.6-27B"], GPUS["h100_sxm"]
    pool = PoolPlan(name="p", replicas=1, layout=Layout(tp=1), gpu="h100_sxm", precision="fp8", max_num_seqs=64)
    drafts = replace(pool, speculation={"method": "mtp", "num_speculative_tokens": 2})
    work, asks, hardware = workload(0.5, 400), asked(0.5), Hardware(model, {"h100_sxm": gpu})
    sums, done = [], []
    for each in (pool, drafts):
        found = promised(plan(each, model=model.name), hardware, Terms(asks))
        sums.append(expected_of(found).tpot_s)
        done.append(rehearse(job(found, hardware, asks, work)).tpot_s)
    assert sums[1] < 0.8 * sums[0] and done[1] < 0.8 * done[0]
    assert sums[1] / sums[0] == pytest.approx(done[1] / done[0], rel=0.15)


def test_sums_know_one_pool_of_each_role() -> None:
    split = [replace(FAST, name=name, role=Role.DECODE) for name in ("a", "b")]
    pools = plan(replace(FAST, name="c", role=Role.PREFILL), *split)
    with pytest.raises(ConfigError, match="sums know one decode pool, there are 2"):
        promised(pools, hardware_of(pools), Terms(ASKS, PRICES))
