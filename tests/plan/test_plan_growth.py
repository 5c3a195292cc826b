"""The growth path: laws of the rules, a table of what they say, and what each kind of source tells."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pilothouse import build
from pilothouse.cli import app
from pilothouse.config.scenario_load import scenario_from_data
from pilothouse.core.events import Arrived, EndpointGone, EndpointSeen, Finished, FirstToken, LoadReported
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.journal.log import Writer
from pilothouse.plan.growth import BASELINE_S, GAIN_MIN, LOW, REQUESTS_MIN, Advice, State, advise
from pilothouse.plan.growth_facts import Concurrency, Observed, Phase, Scaling, Split
from pilothouse.plan.growth_steps import DOING, Step
from pilothouse.plan.observed import of_journal, of_reports
from pilothouse.policies.profiles import PROFILES
from pilothouse.report.files import Saved, read, save
from pilothouse.workload.outcomes import Objectives, Run
from tests.journal.days import conversations, record
from tests.plan.control import control_address

runner = CliRunner()
QUIET = Observed(source="s", label="Measured", is_service=True, seconds=BASELINE_S, requests=REQUESTS_MIN)
MISSED, MET = Phase(2.0, 1.0), Phase(0.5, 1.0)
POOR = Scaling(100.0, 150.0, 2, True)
FEW = Concurrency(2.0, 3.0)
TWO = ["a", "b"]


def seen(**known: Any) -> Observed:
    return msgspec.structs.replace(QUIET, **known)


some = st.builds(
    seen,
    seconds=st.floats(0, 2 * BASELINE_S),
    requests=st.integers(0, 2 * REQUESTS_MIN),
    is_service=st.booleans(),
    engines=st.none() | st.integers(1, 9),
    policy=st.none() | st.sampled_from(["", *PROFILES]),
    scaling=st.none() | st.builds(Scaling, st.floats(0, 99), st.floats(0, 999), st.integers(2, 9), st.booleans()),
    ttft=st.none() | st.builds(Phase, st.floats(0, 9), st.none() | st.floats(0.1, 9)),
    tpot=st.none() | st.builds(Phase, st.floats(0, 9), st.none() | st.floats(0.1, 9)),
    is_split=st.none() | st.booleans(),
    split=st.none() | st.builds(Split, st.booleans(), st.just("so")),
    concurrency=st.none() | st.builds(Concurrency, st.floats(0, 99), st.none() | st.floats(0, 99)),
    speculates=st.none() | st.booleans(),
    models=st.none() | st.lists(st.sampled_from("abc"), max_size=3, unique=True),
    tenants=st.none() | st.integers(1, 5),
)


@given(some)
def test_the_first_rule_that_applies_is_the_advice_and_shows_its_numbers(found: Observed) -> None:
    advice = advise(found)
    assert [check.step for check in advice.checks] == list(Step)[:-1]
    applies = [check for check in advice.checks if check.state is State.APPLIES]
    assert advice.step is (applies[0].step if applies else Step.NOTHING)
    assert advice.numbers and (not applies or advice.numbers == applies[0].numbers)
    assert advice.change and advice.verify and advice.roll_back
    assert all(bool(check.missing) == (check.state is State.UNKNOWN) for check in advice.checks)


@given(some, st.floats(0, 1))
def test_a_longer_baseline_never_makes_it_too_short(found: Observed, more: float) -> None:
    longer = msgspec.structs.replace(found, seconds=found.seconds * (1 + more), requests=found.requests * 2)
    if advise(found).step is not Step.BASELINE:
        assert advise(longer).step is advise(found).step


@given(st.floats(1, 1000), st.floats(0, 1000), st.integers(2, 8))
def test_more_from_more_replicas_never_asks_for_other_routing(one: float, many: float, replicas: int) -> None:
    is_poor = advise(seen(scaling=Scaling(one, many, replicas, True))).step is Step.ROUTING
    assert is_poor == (many / one < GAIN_MIN * replicas)


@pytest.mark.parametrize(
    ("known", "step"),
    [
        ({}, Step.NOTHING),
        ({"requests": REQUESTS_MIN - 1}, Step.BASELINE),
        ({"seconds": BASELINE_S - 1}, Step.BASELINE),
        ({"seconds": 60.0, "is_service": False}, Step.NOTHING),
        ({"scaling": POOR}, Step.ROUTING),
        ({"scaling": POOR, "policy": "round_robin", "concurrency": FEW}, Step.ROUTING),
        ({"scaling": POOR, "policy": "marginal_cost"}, Step.NOTHING),
        ({"scaling": Scaling(100.0, 180.0, 2, True)}, Step.NOTHING),
        ({"scaling": Scaling(100.0, 179.0, 2, True)}, Step.ROUTING),
        ({"scaling": Scaling(100.0, 150.0, 2, False)}, Step.NOTHING),  # not at its limit
        ({"ttft": MISSED, "tpot": MET}, Step.DISAGGREGATE),
        ({"ttft": MET, "tpot": MISSED, "concurrency": FEW}, Step.DISAGGREGATE),
        ({"ttft": MET, "tpot": MET}, Step.NOTHING),
        ({"ttft": MISSED, "tpot": MISSED}, Step.NOTHING),  # more engines, not others
        ({"ttft": MISSED, "tpot": Phase(0.5, None)}, Step.NOTHING),
        ({"ttft": MISSED, "tpot": MET, "is_split": True}, Step.NOTHING),
        ({"ttft": MISSED, "tpot": MET, "split": Split(False, "no: it costs more")}, Step.NOTHING),
        ({"concurrency": FEW}, Step.SPECULATE),
        ({"concurrency": FEW, "speculates": True}, Step.NOTHING),
        ({"concurrency": Concurrency(2.0, LOW + 1)}, Step.NOTHING),  # low, but not always
        ({"concurrency": Concurrency(2.0, None)}, Step.NOTHING),  # who knows?
        ({"concurrency": Concurrency(0.1 * LOW - 0.01, None)}, Step.SPECULATE),  # so few cannot often be many
        ({"ttft": MISSED, "tpot": MET, "overload": "half was served"}, Step.NOTHING),  # more engines first
        ({"models": TWO, "tenants": 2}, Step.GRID),
        ({"models": TWO, "tenants": 1}, Step.NOTHING),
        ({"models": TWO}, Step.NOTHING),
        ({"models": ["a"], "tenants": 2}, Step.NOTHING),
    ],
)
def test_what_is_advised(known: dict[str, Any], step: Step) -> None:
    assert advise(seen(**known)).step is step


def test_every_step_can_be_done_checked_and_undone() -> None:
    assert list(DOING) == list(Step)


def invoked(*words: str) -> Advice:
    said = runner.invoke(app, ["advise", "next", *words, "--json"])
    assert said.exit_code == 0, said.output
    return msgspec.json.decode(said.output, type=Advice)


def test_a_journal_tells_of_engines_times_and_policy(tmp_path: Path) -> None:
    record(tmp_path / "day", conversations(30))
    found = of_journal(tmp_path / "day", Objectives(), None)
    assert (found.engines, found.policy, found.is_split, found.speculates) == (3, "cache_and_load", False, False)
    assert found.requests == 90  # three turns each
    assert found.hit_ratio is not None and found.hit_ratio > 0.3 and found.ttft is not None and found.ttft.p90_s > 0
    advice = invoked(str(tmp_path / "day"))
    assert advice.step is Step.BASELINE and any("1,000 are needed" in number for number in advice.numbers)
    short = invoked(str(tmp_path / "day"), "--baseline", "1s", "--objectives", "ttft=1h,tpot=1h")
    assert short.checks[2].state is State.NOT and "both phases meet" in short.checks[2].why


def test_engines_that_go_with_the_gateway_count_and_those_before_do_not(tmp_path: Path) -> None:
    journal = Writer(tmp_path, 1 << 20, 1 << 30, {}, {"like": "round_robin"})
    journal.rotate(b"")
    first, last = EndpointId("first"), EndpointId("last")
    for event in (
        EndpointSeen(Micros(0), first, "http://a", "p", ["m", "adapter"]),
        EndpointSeen(Micros(0), last, "http://b", "p", ["m"], speculation="mtp"),
        EndpointGone(Micros(10), first),
        Arrived(Micros(20), RequestId("r"), "m", 100, []),
        FirstToken(Micros(30), RequestId("r")),
        Finished(Micros(70), RequestId("r"), 100, 25, 5),
        EndpointGone(Micros(90), last),
    ):
        journal.append(event, [])
    journal.close()
    found = of_journal(tmp_path, Objectives(ttft_us=Micros(5)), 2)
    assert (found.engines, found.speculates, found.models, found.policy) == (1, True, ["m"], "round_robin")
    assert (found.requests, found.hit_ratio, found.tenants) == (1, 0.25, 2)
    assert found.ttft == Phase(1e-05, 5e-06) and found.tpot == Phase(1e-05, None)  # 40 us for four further tokens
    assert found.concurrency is None and found.notes == ["in no figure: engines that left, 1"]


def test_idle_engines_are_not_what_is_called_few_requests(tmp_path: Path) -> None:
    journal = Writer(tmp_path, 1 << 20, 1 << 30, {}, {"like": "round_robin"})
    journal.rotate(b"")
    engine = EndpointId("a")
    journal.append(EndpointSeen(Micros(0), engine, "http://a", "p", ["m"]), [])
    for second in range(100):
        running = 50 if second % 20 == 0 else 0
        journal.append(LoadReported(Micros(second * 1_000_000), engine, running, 0, 0.1), [])
    journal.close()
    assert of_journal(tmp_path, Objectives(), None).concurrency == Concurrency(50.0, 50.0)


def test_a_split_is_estimated_where_hardware_is_named(tmp_path: Path) -> None:
    record(tmp_path / "day", conversations(30))
    asked = [str(tmp_path / "day"), "--objectives", "ttft=1us,tpot=10s", "--model", "qwen3-8b", "--gpu", "h100"]
    split = invoked(*asked).checks[2]
    assert any(
        number.startswith("estimate for this load: ") and number.endswith("[Estimated]") for number in split.numbers
    )


def report(path: Path, replicas: int, policy: str, load: float = 1.0) -> str:
    """Of fleets on which one long prefix per user is worth keeping: to wherever it is sent, it must be computed anew."""
    workload = {
        "kind": "open_loop", "rate": 60, "duration": "20s", "prompt_tokens": [100, 200], "output_tokens": [1, 4],
        "prefixes": 24, "prefix_tokens": 4000,
    }  # fmt: skip
    pools = [{"model": "qwen3-8b", "gpu": "h100", "replicas": replicas, "kv_blocks": 3400}]
    ready = scenario_from_data({"pools": pools, "workload": workload, "policies": [policy]}, "t", path.parent)
    run: Run = build.simulated(ready.scenario, ready.recipe.make(1, load), policy, load, 1)
    save(Saved([run]), path)
    return str(path)


def test_reports_of_one_and_two_replicas_show_what_the_second_is_worth(tmp_path: Path) -> None:
    one = report(tmp_path / "one.json", 1, "round_robin")
    two = report(tmp_path / "two.json", 2, "round_robin")
    advice = invoked(one, two)
    routing = advice.checks[1]
    assert "2 replicas give" in routing.numbers[0] and advice.label == "Simulated"
    assert routing.state is State.NOT and advice.step is Step.NOTHING  # 1.9 times as much
    saved = read(Path(two))
    stage = saved.runs[0].stages[0]
    slower = msgspec.structs.replace(stage.summary, output_per_second=stage.summary.output_per_second * 0.9)
    run = msgspec.structs.replace(saved.runs[0], stages=[msgspec.structs.replace(stage, summary=slower)])
    save(Saved([run]), tmp_path / "poor.json")
    poor = invoked(one, str(tmp_path / "poor.json"))
    assert poor.step is Step.ROUTING and "1.8 times is what to expect" in poor.numbers[0]
    aware = invoked(one, report(tmp_path / "aware.json", 2, "marginal_cost")).checks[1]
    assert aware.state is State.NOT and "knows what caches hold already" in aware.why
    told = invoked(one, two, "--replicas", "1", "--replicas", "2").checks[1]
    assert told.numbers == routing.numbers


def conversing(path: Path, replicas: int, per_second: float) -> str:
    """Turns that come after the stage has ended make less served than offered, whatever engines bear."""
    workload = {
        "kind": "chat", "stages": [{"rate": per_second, "duration": "2m"}], "system_prompts": 1, "system_tokens": 100,
        "turns": 6, "user_tokens": 1500, "output_tokens": 100, "think": "5s",
    }  # fmt: skip
    pools = [{"model": "qwen3-32b", "gpu": "h100", "tp": 2, "replicas": replicas}]
    data = {"pools": pools, "workload": workload, "policies": ["round_robin"]}
    ready = scenario_from_data(data, "t", path.parent)
    save(Saved([build.simulated(ready.scenario, ready.recipe.make(1, 1.0), "round_robin", 1.0, 1)]), path)
    return str(path)


@pytest.mark.parametrize(("per_second", "state"), [(0.1, State.UNKNOWN), (0.8, State.APPLIES)])
def test_only_what_one_replica_cannot_carry_tells_what_two_gain(
    tmp_path: Path, per_second: float, state: State
) -> None:
    one, two = (conversing(tmp_path / f"{count}.json", count, per_second) for count in (1, 2))
    stage = read(Path(one)).runs[0].stages[0].summary
    assert stage.achieved_rate < 0.95 * stage.offered_rate
    assert invoked(one, two).checks[1].state is state


METRICS = """# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e9
# TYPE pilothouse_prompt_tokens_total counter
pilothouse_prompt_tokens_total{model="m"} 1000000
# TYPE pilothouse_cached_tokens_total counter
pilothouse_cached_tokens_total{model="m"} 250000
# TYPE pilothouse_time_to_first_token_seconds histogram
pilothouse_time_to_first_token_seconds_bucket{le="1.0",model="m"} 800
pilothouse_time_to_first_token_seconds_bucket{le="2.0",model="m"} 1000
pilothouse_time_to_first_token_seconds_bucket{le="+Inf",model="m"} 1000
pilothouse_time_to_first_token_seconds_count{model="m"} 1000
pilothouse_time_to_first_token_seconds_sum{model="m"} 700
# TYPE pilothouse_inter_token_latency_seconds histogram
pilothouse_inter_token_latency_seconds_bucket{le="0.05",model="m"} 1000
pilothouse_inter_token_latency_seconds_bucket{le="+Inf",model="m"} 1000
pilothouse_inter_token_latency_seconds_count{model="m"} 1000
pilothouse_inter_token_latency_seconds_sum{model="m"} 20
# TYPE pilothouse_request_duration_seconds histogram
pilothouse_request_duration_seconds_bucket{le="+Inf",model="m"} 1000
pilothouse_request_duration_seconds_count{model="m"} 1000
pilothouse_request_duration_seconds_sum{model="m"} 200000
"""
DATE = "Wed, 15 Nov 2023 22:13:20 GMT"  # a day after it started
ENGINE = {"state": "up", "role": "both", "speculation": "", "models": ["m"]}
STATUS = {"policy": "marginal_cost", "endpoints": [ENGINE, ENGINE]}


@pytest.fixture
def gateway() -> Iterator[str]:
    with control_address({"/status": json.dumps(STATUS), "/metrics": METRICS}, DATE) as address:
        yield address


def test_a_running_gateway_is_asked(gateway: str) -> None:
    advice = invoked(gateway, "--objectives", "ttft=1s,tpot=100ms")
    assert advice.step is Step.DISAGGREGATE
    assert advice.numbers[0] == "TTFT p90 1.50 s, between 1.00 s and 2.00 s, of 1.00 s allowed (prefill)"
    assert "25.0% of prompt tokens" in " ".join(advice.checks[1].numbers)
    assert advice.checks[3].numbers[0].startswith("1.16 requests run on an engine")  # 200,000 s / 86,400 s / 2 engines
    assert invoked(gateway).step is Step.NOTHING


def test_an_objective_within_a_bucket_is_neither_met_nor_missed(gateway: str) -> None:
    advice = invoked(gateway, "--objectives", "ttft=1200ms,tpot=100ms")
    assert advice.step is Step.NOTHING and "on which side" in advice.checks[2].missing


def test_the_advice_reads_as_one_thing_to_do(gateway: str) -> None:
    said = runner.invoke(app, ["advise", "next", gateway, "--objectives", "ttft=1s,tpot=100ms"])
    assert said.exit_code == 0, said.output
    for words in ("next: disaggregate", "[Measured]", "change:", "verify:", "roll back:", "baseline: does not apply"):
        assert words in said.output, words


def test_a_fleet_and_reports_beside_it_tell_of_routing(gateway: str, tmp_path: Path) -> None:
    """Reports do not say how it was routed; the gateway does."""
    one, two = report(tmp_path / "one.json", 1, "round_robin"), report(tmp_path / "two.json", 2, "round_robin")
    alone = of_reports([Path(one), Path(two)], [], Objectives(), None)
    measured = msgspec.structs.replace(alone, policy=None, scaling=POOR)
    untold = advise(measured).checks[1]
    assert untold.state is State.APPLIES and "name the gateway as well" in untold.why
    beside = invoked(gateway, one, two)
    assert beside.checks[1].state is State.NOT and "knows what caches hold already" in beside.checks[1].why
    assert "2 replicas give" in beside.checks[1].numbers[0] and beside.source.endswith("one.json, two.json")


def test_failures_are_told_before_anything_else() -> None:
    assert advise(seen(failed=300)).notes[0].startswith("300 of 1,300 requests failed")
    assert not advise(seen(failed=5)).notes


def test_nothing_on_the_path_is_not_told_as_all_is_well() -> None:
    for known in ({"overload": "half was served"}, {"ttft": MISSED, "tpot": MISSED}):
        advice = advise(seen(**known))
        assert advice.step is Step.NOTHING and "no step of this path" in advice.change, known
    assert "no figure calls" in advise(QUIET).change


def test_reports_that_may_be_of_different_workloads_are_told_apart(tmp_path: Path) -> None:
    one, two = report(tmp_path / "one.json", 1, "round_robin"), report(tmp_path / "two.json", 2, "round_robin")
    run = msgspec.structs.replace(read(Path(two)).runs[0], scenario="another")
    save(Saved([run]), Path(two))
    found = of_reports([Path(one), Path(two)], [], Objectives(), None)
    assert any(note.endswith("these are called scenario, another") for note in found.notes)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nothing-here"], "SOURCE: nothing-here is none of these"),
        (["one.json"], "SOURCE: one.json does not exist"),
        (["a:1", "two.json"], "SOURCE: two.json does not exist"),
        (["a:b"], "SOURCE: a:b is none of these"),
        (["a:1", "b:2"], "SOURCE: a:1 and b:2 are two"),
        (["127.0.0.1:9"], "no gateway answers at 127.0.0.1:9"),
        (["x", "--baseline", "long"], "--baseline: 'long' is not a duration"),
        (["x", "--label", "Guessed"], "--label: unknown label 'Guessed', known: Measured, Emulated"),
        (["x", "--objectives", "speed=1s"], "--objectives: unknown objective 'speed'"),
        (["x", "--model", "qwen3-8b"], "--gpu: is missing"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], complaint: str) -> None:
    said = runner.invoke(app, ["advise", "next", *words])
    assert said.exit_code != 0 and complaint in said.output, said.output


def test_what_is_no_gateway_is_told_so() -> None:
    with control_address({"/status": "<html>"}, DATE) as address:
        for control in (address, "127.0.0.1:port"):
            said = runner.invoke(app, ["status", "--control", control])
            assert said.exit_code and "no gateway answers at" in said.output, said.output


def test_reports_must_be_one_run_each_with_one_count_each(tmp_path: Path) -> None:
    one = report(tmp_path / "one.json", 1, "round_robin", 0.2)
    said = runner.invoke(app, ["advise", "next", one, "--replicas", "1", "--replicas", "2"])
    assert said.exit_code == 2 and "--replicas: is given 2 times for 1 reports" in said.output
    modelled = runner.invoke(app, ["advise", "next", one, "--model", "qwen3-8b", "--gpu", "h100"])
    assert modelled.exit_code == 2 and "--model: is of no use with reports" in modelled.output
