"""Laws of the sums, and what simulation says of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pilothouse.core.events import Role
from pilothouse.core.units import Micros
from pilothouse.perf.catalog import GPUS, MODELS, Precision
from pilothouse.perf.coefficients import step_time
from pilothouse.plan.analytic import Fleet, Pool, load_at, rate_max
from pilothouse.plan.asks import Asks, asks_of, by_clock
from pilothouse.plan.busiest import paced, trimmed
from pilothouse.plan.document import Bound, Confidence, Expected, Layout, Objective, Plan, PoolPlan
from pilothouse.plan.engines import BAND_LAYOUT, BAND_TPOT, engine_of
from pilothouse.plan.promise import expected_of
from pilothouse.plan.rehearsal import Rehearsed, confirmed, job, rehearse
from pilothouse.plan.simulated import Hardware
from pilothouse.workload.arrivals import Diurnal
from pilothouse.workload.chat import Chat
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe

MODEL, H100 = MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"]
NO_LIMITS = (float("inf"), float("inf"))
HARDWARE = Hardware(MODEL, {"h100_sxm": H100})
POOL = PoolPlan(name="engines", replicas=1, layout=Layout(tp=2), gpu="h100_sxm")


def workload(rate: float, requests: int = 400, **more: object) -> Workload:
    phases = [Phase(rate=rate, seconds=requests / rate)]  # type: ignore[arg-type]
    return Recipe(OpenLoop(prompt_tokens=(200, 1400), output_tokens=(50, 350), phases=phases, **more)).make(1)  # type: ignore[arg-type]


def asked(rate: float) -> Asks:
    return asks_of(workload(rate), rate)


ASKS = asked(10)
ENGINE = engine_of(POOL, MODEL, H100, ASKS.demand.context_mean)


def fleet(replicas: int, prefill: int = 0) -> Fleet:
    return Fleet(Pool(ENGINE, replicas), Pool(ENGINE, prefill) if prefill else None)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 60), st.floats(1.01, 3), st.integers(1, 8), st.integers(0, 3))
def test_more_load_is_never_quicker_and_more_engines_never_slower(
    rate: float, factor: float, replicas: int, prefill: int
) -> None:
    few, many = fleet(replicas, prefill), fleet(replicas + 1, prefill)
    now, later, relieved = (load_at(f, ASKS, r, 95, 0.2) for f, r in ((few, rate), (few, rate * factor), (many, rate)))
    for figure in ("ttft_us", "tpot_us"):
        assert getattr(now, figure) <= getattr(later, figure) * 1.001
        assert getattr(relieved, figure) <= getattr(now, figure) * 1.001
    assert (now.breaks is None) == (now.ttft_us < float("inf")) == (now.tpot_us < float("inf"))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 3), st.floats(0.2, 3), st.floats(0.03, 0.1))
def test_the_highest_rate_is_where_an_objective_breaks(replicas: int, prefill: int, ttft: float, tpot: float) -> None:
    limits = (ttft * 1e6, tpot * 1e6)
    highest, bound = rate_max(fleet(replicas, prefill), ASKS, 95, limits, 0.0)

    def holds(rate: float) -> bool:
        load = load_at(fleet(replicas, prefill), ASKS, rate, 95, 0.0)
        return load.ttft_us <= limits[0] and load.tpot_us <= limits[1]

    assert highest == 0 or holds(0.99 * highest)
    assert not holds(1.01 * highest + 0.01) and bound in Bound


def test_what_a_cache_finds_makes_a_fleet_quicker() -> None:
    cold, warm = (load_at(fleet(1), ASKS, 8, 95, hit) for hit in (0.0, 0.7))
    assert warm.ttft_us < cold.ttft_us and warm.tpot_us < cold.tpot_us and warm.prefill_cost < cold.prefill_cost
    assert rate_max(fleet(1), ASKS, 95, NO_LIMITS, 0.7)[0] > rate_max(fleet(1), ASKS, 95, NO_LIMITS, 0.0)[0]


@pytest.mark.parametrize(
    ("kv_tokens", "rate", "bound"), [(20_000, 10, Bound.KV_CAPACITY), (300_000, 100, Bound.COMPUTE), (300_000, 5, None)]
)
def test_what_runs_out_is_named(kv_tokens: int, rate: float, bound: Bound | None) -> None:
    small = Fleet(Pool(replace(ENGINE, kv_tokens=kv_tokens), 1))
    assert load_at(small, ASKS, rate, 95, 0.0).breaks == bound


def test_bandwidth_runs_out_where_answers_are_long() -> None:
    recipe = Recipe(OpenLoop(prompt_tokens=200, output_tokens=2000, phases=[Phase(rate=1, seconds=400)]))  # type: ignore[arg-type]
    asks, endless = asks_of(recipe.make(1)), replace(ENGINE, kv_tokens=10**9, sequences=10**6)
    assert load_at(Fleet(Pool(endless, 1)), asks, 20, 95, 0.0).breaks is Bound.BANDWIDTH


# --- layouts


def test_a_layout_of_measured_parallelism_has_measured_times() -> None:
    assert ENGINE.step_time.p_us == step_time(MODEL, H100, 2, Precision.BF16).p_us
    assert (ENGINE.lanes, ENGINE.tpot_band) == (1, BAND_TPOT)


def test_what_is_divided_among_whom() -> None:
    moe = MODELS["Qwen/Qwen3.5-397B-A17B"]

    def made(**layout: int | bool) -> PoolPlan:
        return replace(POOL, layout=Layout(**layout), precision="fp8", gpu="b200_sxm")  # type: ignore[arg-type]

    plain, dcp, pcp, pp, ep = (
        engine_of(made(**layout), moe, GPUS["b200_sxm"], 4000)
        for layout in (
            {"tp": 8},
            {"tp": 8, "dcp": 2},
            {"tp": 8, "pcp": 2},
            {"tp": 8, "pp": 2},
            {"tp": 4, "dp": 4, "expert_parallel": True},
        )
    )
    assert dcp.step_time.c_ns == pytest.approx(plain.step_time.c_ns / 2) and dcp.kv_tokens > plain.kv_tokens
    assert pcp.step_time.p_us == pytest.approx(plain.step_time.p_us / 2)
    assert pp.lanes == 2 and pp.kv_tokens > plain.kv_tokens
    assert ep.lanes == 4 and ep.step_time.experts == moe.experts // 4
    assert all(engine.tpot_band == pytest.approx(plain.tpot_band + BAND_LAYOUT) for engine in (dcp, pcp, pp, ep))


def test_a_smaller_kv_cache_holds_and_reads_twice_as_much() -> None:
    fp8 = engine_of(replace(POOL, kv_precision="fp8"), MODEL, H100, 1000)
    assert fp8.step_time.c_ns == pytest.approx(ENGINE.step_time.c_ns / 2)
    assert fp8.kv_tokens == pytest.approx(2 * ENGINE.kv_tokens, rel=1e-3)


# --- what is asked


def test_busy_times_are_planned_for_and_the_mean_is_paid_for() -> None:
    day = asks_of(workload(10, 4800, arrivals=Diurnal(period_us=480_000_000)))  # type: ignore[arg-type]
    assert day.rate_mean == pytest.approx(10, rel=0.02) and 16 < day.rate < 20
    assert sum(share for _, share in day.curve) == pytest.approx(1)
    assert sum(rate * share for rate, share in day.curve) == pytest.approx(day.rate_mean)
    assert sum(day.prompts) / len(day.prompts) == pytest.approx(day.demand.prompt_mean, rel=0.01)


# --- simulation


def planned(replicas: int, rate: float, asks: Asks, prefill: int = 0) -> Plan:
    load = load_at(fleet(replicas, prefill), asks, rate, 95)
    pools = [replace(POOL, replicas=replicas)]
    if prefill:
        pools = [replace(POOL, name="prefill", role=Role.PREFILL, replicas=prefill, connector="nixl")]
        pools += [replace(POOL, name="decode", role=Role.DECODE, replicas=replicas, connector="nixl")]
    expected = Expected(
        ttft_s=load.ttft_us / 1e6, tpot_s=load.tpot_us / 1e6, ttft_band=0.3, tpot_band=0.1, output_per_s=1, requests_per_s=rate,
        requests_per_s_max=rate, kv_tokens=1, utilisation=1, bound=Bound.LATENCY, usd_per_hour=1, usd_per_m_input=1,
        usd_per_m_output=1, usd_per_m=1, confidence=Confidence.ESTIMATED,
    )  # fmt: skip
    return Plan(name="p", model=MODEL.name, pools=pools, objective=Objective(), workload=None, expected=expected)


@pytest.mark.parametrize(("replicas", "prefill", "rate"), [(1, 0, 4.0), (1, 0, 8.0), (4, 0, 30.0), (2, 1, 10.0)])
def test_simulation_agrees(replicas: int, prefill: int, rate: float) -> None:
    work = workload(rate, 1500)
    asks = asks_of(work)  # the busy part of it, which is what is simulated
    plan = planned(replicas, asks.rate, asks, prefill)
    done = rehearse(job(plan, HARDWARE, asks, work))
    assert done.ttft_s == pytest.approx(expected_of(plan).ttft_s, rel=0.3)
    assert done.tpot_s == pytest.approx(expected_of(plan).tpot_s, rel=0.2)


@pytest.mark.parametrize(("factor", "said"), [(1.05, False), (1.5, True)])
def test_a_plan_says_where_sums_are_off(factor: float, said: bool) -> None:
    plan = planned(1, 5, ASKS)
    sums = expected_of(plan)
    done = confirmed(plan, Rehearsed(500, sums.ttft_s * factor, sums.tpot_s, 5.0, 1.0, 0.0))
    found = expected_of(done)
    assert found.confidence is Confidence.SIMULATED and found.ttft_s == sums.ttft_s * factor
    assert any("off: TTFT" in note for note in found.notes) == said


def test_the_busiest_time_is_simulated() -> None:
    work = workload(10, 2000, arrivals=Diurnal(period_us=200_000_000))  # type: ignore[arg-type]
    cut, lead = trimmed(work, 300, 100)
    requests = cut.stages[0].requests
    seconds = (requests[-1].arrival_us - requests[lead].arrival_us) / 1e6
    assert (len(requests), lead, requests[0].arrival_us) == (400, 100, 0) and 300 / seconds > 15


@given(st.floats(0.5, 50), st.integers(0, 100), st.floats(2, 40))
def test_what_is_tried_comes_as_often_as_it_is_promised(rate: float, lead: int, own: float) -> None:
    cut, before = trimmed(workload(own, 400), 300, lead)
    requests = paced(cut, before, rate).stages[0].requests
    counted = [planned.arrival_us for planned in requests[before:]]
    assert (len(counted) - 1) / (counted[-1] - counted[0]) * 1e6 == pytest.approx(rate, rel=0.01)
    assert [p.request for p in requests] == [p.request for p in cut.stages[0].requests] and counted == sorted(counted)


def test_what_is_simulated_is_what_is_promised() -> None:
    """The rate is the one of busy times, though the workload is busy for a short time only."""
    work = workload(10, 2400, arrivals=Diurnal(period_us=120_000_000))  # type: ignore[arg-type]
    asks = asks_of(work)
    plan = confirmed(planned(4, asks.rate, asks), rehearse(job(planned(4, asks.rate, asks), HARDWARE, asks, work)))
    expected = expected_of(plan)
    assert expected.output_per_s == pytest.approx(expected.requests_per_s * asks.demand.output_mean, rel=0.05)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 40))
def test_what_is_cut_out_is_in_order_and_something_counts(requests: int, counted: int, lead: int) -> None:
    cut, before = trimmed(workload(5, requests), counted, lead)
    times = [planned.arrival_us for planned in cut.stages[0].requests]
    assert times == sorted(times) and 0 <= before < len(times) <= counted + lead


def test_who_follows_others_comes_by_the_clock() -> None:
    chat = Recipe(
        Chat(
            phases=[Phase(users=4, count=40)],
            turns=(2, 4),
            user_tokens=100,
            output_tokens=50,
            think=Micros(1_000_000),
        )
    ).make(1)
    clocked = by_clock(chat, lambda planned: 1000.0 * planned.output_tokens)
    before, after = chat.stages[0].requests, clocked.stages[0].requests
    assert {p.request for p in before} == {p.request for p in after} and all(p.after is None for p in after)
    times = [planned.arrival_us for planned in after]
    assert times == sorted(times) and asks_of(clocked).rate > 0
