"""Whether to split: laws of the estimate, what a trial makes of it, and the command as people use it."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pilothouse.build import Setting, ran
from pilothouse.cli import app
from pilothouse.cli.advising_disaggregate import Answer
from pilothouse.core.errors import ConfigError, PilothouseError
from pilothouse.core.units import Micros
from pilothouse.plan.disaggregate import (
    FILLED,
    FleetPlan,
    Need,
    SplitAdvice,
    Terms,
    advise_split,
    batch_within,
    decode_us,
    in_small_steps,
)
from pilothouse.plan.machine import Machine, Wanted, machine, prices_of
from pilothouse.plan.need import alike, measured, need
from pilothouse.plan.trial import Machines, Trial, fleets, is_together, settled, tried
from pilothouse.policies.profiles import DEFAULT
from pilothouse.sim.world import Fleet
from pilothouse.workload.demand import survey
from pilothouse.workload.outcomes import Objectives, Run
from pilothouse.workload.requests import Workload
from tests.plan.control import control_address
from tests.workload.recipes import RECIPES

H100 = machine(Wanted("qwen3-32b", "h100", 2), {"h100_sxm": 2.0})
TERMS = Terms(Micros(50_000), 40.0, Micros(2000))
CHAT = Need(20, 800, 800, 800.0**2, 200, 900)
RAG = Need(4, 16_000, 16_000, 16_000.0**2, 300, 16_150)
runner = CliRunner()

needs = st.builds(
    lambda rate, prompt, hit, output: Need(
        rate, prompt, max(1.0, prompt * (1 - hit)), prompt**2 * (1 - hit**2), output, prompt + output / 2
    ),
    st.floats(0.1, 100),
    st.floats(20, 30_000),
    st.floats(0, 0.95),
    st.floats(2, 2000),
)


def advise(wanted: Need, terms: Terms = TERMS, prefill: Machine = H100) -> SplitAdvice:
    return advise_split(wanted, H100, prefill, H100, terms)


@given(needs, st.floats(5_000, 200_000), st.floats(0, 5_000))
def test_the_batch_is_the_largest_that_keeps_the_objective_and_fits(
    wanted: Need, tpot_us: float, beside: float
) -> None:
    def fits(batch: int) -> bool:
        room = batch <= H100.sequences and batch * wanted.context_tokens <= FILLED * H100.kv_tokens
        return room and decode_us(H100, wanted, batch) + beside * batch <= tpot_us

    batch = batch_within(H100, wanted, tpot_us, beside)
    assert (batch == 0 or fits(batch)) and not fits(batch + 1)


@given(needs, st.floats(0.1, 1))
def test_pools_have_their_headroom_and_no_engine_to_spare(wanted: Need, headroom: float) -> None:
    terms = msgspec.structs.replace(TERMS, headroom=headroom)
    found = advise(wanted, terms)
    for plan in (found.together, found.apart):
        for pool in plan.pools if plan else []:
            assert pool.load <= pool.engines * headroom * (1 + 1e-6)
            assert pool.engines == 1 or (pool.engines - 1) * headroom < pool.load * (1 + 1e-6)
            assert pool.gpus == 2 * pool.engines and pool.usd_h == pytest.approx(4.0 * pool.engines)


@given(needs)
def test_twice_the_rate_is_twice_the_load_and_the_same_request(wanted: Need) -> None:
    once, twice = advise(wanted), advise(msgspec.structs.replace(wanted, rate=2 * wanted.rate))
    assert (once.prefill_gpu_s, once.decode_gpu_s) == (twice.prefill_gpu_s, twice.decode_gpu_s)
    for one, two in ((once.together, twice.together), (once.apart, twice.apart)):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert [pool.load * 2 for pool in one.pools] == pytest.approx([pool.load for pool in two.pools])


@given(needs)
def test_prompts_never_make_the_batch_larger_and_apart_serves_where_together_does(wanted: Need) -> None:
    found = advise(wanted)
    if found.together is not None:
        assert found.apart is not None and found.together.pools[0].batch <= found.apart.pools[1].batch


@given(needs, st.floats(0.2, 4))
def test_cheaper_prefill_engines_never_speak_against_splitting(wanted: Need, usd_h: float) -> None:
    dear, cheap = (advise(wanted, prefill=msgspec.structs.replace(H100, usd_h=usd)) for usd in (usd_h, usd_h / 2))
    assert dear.saving is None or (cheap.saving is not None and cheap.saving >= dear.saving and cheap.pays >= dear.pays)


def test_without_prompts_to_compute_a_second_pool_only_costs() -> None:
    warm = msgspec.structs.replace(CHAT, uncached_tokens=1.0, uncached_squares=1600.0)
    found = advise(warm)
    assert not found.pays and found.saving is not None and found.saving <= 0
    assert found.verdict.startswith("no: 1 prefill + ")


def test_long_prompts_and_a_tight_objective_pay() -> None:
    found = advise(RAG, msgspec.structs.replace(TERMS, tpot_us=Micros(25_000)))
    assert found.pays and found.verdict.startswith("yes:") and found.saving is not None and found.saving > 0.3
    assert "% is prefill" in found.reasons[0]


@pytest.mark.parametrize(
    ("tpot_ms", "words"),
    [(1, "no: these engines cannot give 1 ms"), (16.0, "yes: with prompts beside, no batch keeps 16")],
)
def test_what_cannot_be_kept_is_said(tpot_ms: float, words: str) -> None:
    found = advise(RAG, msgspec.structs.replace(TERMS, tpot_us=Micros(round(1000 * tpot_ms))))
    assert found.verdict.startswith(words) and found.together is None


def test_hits_leave_less_to_compute_but_all_before_it_to_attend_to() -> None:
    asks = survey(RECIPES["chat rate"].make(1), lambda _: 0.0).demand
    cold, warm = need(asks, 0.0, 1.0), need(asks, 0.5, 1.0)
    assert warm.uncached_tokens == pytest.approx(cold.uncached_tokens / 2)
    assert warm.uncached_squares == pytest.approx(0.75 * cold.uncached_squares)


# --- trials

PLANS = advise(CHAT)
assert PLANS.together is not None and PLANS.apart is not None


def did(plan: FleetPlan, good: float, ttft: float = 1.0) -> Trial:
    return Trial(plan, good, ttft, 1.0, 0.02, 0.02, 0, "Simulated")


def priced(plan: FleetPlan, usd_h: float) -> FleetPlan:
    """At that price in all."""
    share = usd_h / len(plan.pools)
    return FleetPlan(plan.name, [msgspec.structs.replace(pool, usd_h=share) for pool in plan.pools])


@pytest.mark.parametrize(
    ("together", "apart", "pays"),
    [
        ((10, 1.0, 1.0), (10, 1.0, 0.5), False),  # equal: the simpler one
        ((10, 0.96, 1.0), (10, 1.0, 1.0), True),  # at the same cost, more within the objectives
        ((10, 0.96, 1.0), (9, 0.96, 1.0), True),  # cheaper
        ((10, 0.96, 1.0), (11, 1.0, 1.0), False),  # dearer than what serves already
        ((10, 0.80, 1.0), (11, 0.96, 1.0), True),  # only one serves
        ((10, 0.80, 1.0), (9, 0.50, 1.0), False),  # none does
    ],
)
def test_the_cheapest_fleet_that_serves_is_recommended(
    together: tuple[float, float, float], apart: tuple[float, float, float], pays: bool
) -> None:
    assert PLANS.together is not None and PLANS.apart is not None
    trials = [
        did(priced(plan, usd_h), good, ttft)
        for plan, (usd_h, good, ttft) in ((PLANS.together, together), (PLANS.apart, apart))
    ]
    found, verdict = settled(PLANS, trials)
    assert found == pays and verdict.startswith("yes" if pays else "no") and "[Simulated]" in verdict
    assert ("the estimate alone said" in verdict) == (pays != PLANS.pays)
    assert ("none reaches 95%" in verdict) == (max(together[1], apart[1]) < 0.95)


def test_fleets_to_try_are_of_equal_cost_and_of_either_kind() -> None:
    tight = advise(RAG, msgspec.structs.replace(TERMS, tpot_us=Micros(30_000)))
    found = fleets(tight, Machines(H100, H100, H100))
    assert tight.apart is not None and tight.together is not None and len({plan.name for plan in found}) == len(found)
    split = [plan for plan in found if not is_together(plan)]
    assert tight.apart in split and {plan.gpus for plan in split} == {tight.apart.gpus}
    assert {plan.gpus for plan in found if is_together(plan)} == {tight.together.gpus, tight.apart.gpus}
    assert in_small_steps(tight.together, tight.quiet_tokens) in found or tight.quiet_tokens < 256


def test_what_is_tried_is_what_was_planned() -> None:
    assert PLANS.apart is not None
    seen: list[tuple[Fleet, Setting]] = []

    def simulate(fleet: Fleet, workload: Workload, setting: Setting) -> Run:
        seen.append((fleet, setting))
        return ran(fleet, workload, DEFAULT, setting)

    limits = Objectives(Micros(2_000_000), Micros(50_000))
    workload = alike(CHAT, 60, 1)
    trial, run = tried(PLANS.apart, Machines(H100, H100, H100), workload, limits, PLANS, simulate)
    fleet, setting = seen[0]
    assert [(pool.role, pool.replicas) for pool in fleet.pools] == [(p.role, p.engines) for p in PLANS.apart.pools]
    assert all(pool.engine.kv_blocks == H100.kv_tokens // workload.block_size for pool in fleet.pools)
    assert all(pool.engine.step_time == H100.step_time for pool in fleet.pools)
    assert (fleet.pools[0].link_bytes_per_us, fleet.pools[0].link_latency_us) == (40_000, 2000)
    assert setting.objectives == limits
    assert trial.good_ratio == pytest.approx(1.0) and trial.refused == 0 and run.name == PLANS.apart.name
    assert trial.ttft_mean == run.stages[0].summary.ttft.mean


# --- from outside

METRICS = """
# TYPE pilothouse_requests_total counter
pilothouse_requests_total{model="m",endpoint="a",outcome="finished"} 60
pilothouse_requests_total{model="m",endpoint="b",outcome="finished"} 40
pilothouse_requests_total{model="m",endpoint="b",outcome="failed"} 7
pilothouse_prompt_tokens_total{model="m",endpoint="a"} 80000
pilothouse_cached_tokens_total{model="m",endpoint="a"} 20000
pilothouse_output_tokens_total{model="m",endpoint="a"} 20000
process_start_time_seconds 1000000000
"""
DATE = "Sun, 09 Sep 2001 01:47:20 GMT"  # 40 s later


@pytest.fixture
def gateway() -> Iterator[str]:
    with control_address({"/metrics": METRICS}, DATE) as address:
        yield address


def test_a_gateway_tells_lengths_rate_and_hits() -> None:
    found, hit = measured(METRICS, DATE)
    assert (found.rate, found.prompt_tokens, found.output_tokens, hit) == (2.5, 800, 200, 0.25)
    assert found.uncached_tokens == 600 and found.context_tokens == 900
    with pytest.raises(PilothouseError, match="too little to tell: 0 requests"):
        measured("", DATE)


def test_a_running_gateway_is_asked(gateway: str) -> None:
    asked = [
        "advise",
        "disaggregate",
        gateway,
        "--model",
        "qwen3-8b",
        "--gpu",
        "h100",
        "--requests-max",
        "40",
        "--json",
    ]
    said = runner.invoke(app, asked)
    assert said.exit_code == 0, said.output
    answer = msgspec.json.decode(said.output[said.output.index("{") :], type=Answer)
    assert answer.label == "Simulated" and len(answer.trials) >= 2 and answer.hit_ratio == 0.25
    assert any("[Measured]" in note for note in answer.notes)


def test_the_command_shows_fleets_trials_and_reasons(tmp_path: Path) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text("{kind: open_loop, rate: 8, duration: 8s, prompt_tokens: [400, 1200], output_tokens: [20, 60]}")
    command = ["advise", "disaggregate", str(path), "--model", "qwen3-8b", "--gpu", "h100"]
    said = runner.invoke(app, command)
    assert said.exit_code == 0, said.output
    for words in ("together", "apart", "Simulated", "is prefill", "split? no:", "USD/h a GPU", "hit rate 0.0%"):
        assert words in said.output, words
    quick = runner.invoke(app, [*command, "--no-simulate"])
    assert quick.exit_code == 0 and "[Estimated]" in quick.output and "TTFT" not in quick.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--objectives", "ttft=1s"], "--objectives: has no tpot"),
        (["--gpu", "h1000"], "--gpu: unknown GPU 'h1000'"),
        (["--prefill-gpu", "b99"], "--prefill-gpu: unknown GPU 'b99'"),
        (["--prefill-gpu", "h20"], "--price: is missing for h20"),
        (["--price", "h100=cheap"], "--price: 'h100=cheap' is not GPU=USD"),
        (["--link-latency", "soon"], "--link-latency: 'soon' is not a duration"),
        (["--model", "llama-3.1-405b"], "does not fit on 1 x h100_sxm"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, options: list[str], words: str) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text("{kind: open_loop, rate: 8, duration: 4s}")
    said = runner.invoke(app, ["advise", "disaggregate", str(path), "--model", "qwen3-8b", "--gpu", "h100", *options])
    assert said.exit_code == 2 and words in said.output, said.output


def test_a_batch_without_arrivals_needs_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "batch.yaml"
    path.write_text("{kind: batch, requests: 20}")
    said = runner.invoke(app, ["advise", "disaggregate", str(path), "--model", "qwen3-8b", "--gpu", "h100"])
    assert said.exit_code == 2 and "--rate: is missing" in said.output, said.output


def test_prices_are_by_the_catalogue_s_names() -> None:
    assert prices_of(["H100=2.5", "h200 = 3"]) == {"h100_sxm": 2.5, "h200_sxm": 3.0}
    with pytest.raises(ConfigError, match="unknown GPU"):
        prices_of(["nope=1"])
