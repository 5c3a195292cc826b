"""`pilothouse plan` as a person meets it."""

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from pilothouse.cli.app import app
from pilothouse.config.workload import read_workload
from pilothouse.plan.document import Confidence, Plan
from tests.journal.days import conversations, record
from tests.plan.prometheus import prometheus
from tests.plan.test_plan_inputs import FLEET
from tests.workload.recipes import azure_rows

WORKLOAD = """
kind: open_loop
rate: 6
duration: 100s
prompt_tokens: [200, 1400]
output_tokens: [50, 250]
"""
REQUEST = """
model: qwen3-32b
gpu: h100
gpus: 4
workload: work.yaml
ttft: 1s
tpot: 60ms
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.yaml").write_text(WORKLOAD)
    (tmp_path / "plan-for.yaml").write_text(REQUEST)
    return tmp_path


@pytest.fixture
def planned(folder: Path) -> Path:
    run(folder / "plan-for.yaml", "--no-simulate", "-o", folder / "plan.yaml")
    return folder / "plan.yaml"


def run(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["plan", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_a_plan_is_found_simulated_and_written(folder: Path) -> None:
    out = folder / "deploy" / "plan.yaml"
    out.parent.mkdir()
    code, said, _ = run(folder / "plan-for.yaml", "-o", out, "--json")
    assert code == 0
    first = msgspec.convert(json.loads(said)["plans"][0], Plan)
    written = msgspec.convert(yaml.safe_load(out.read_text()), Plan)
    assert written.pools == first.pools and written.expected == first.expected
    assert written.expected is not None and written.expected.confidence is Confidence.SIMULATED
    assert (out.parent / written.workload).resolve() == folder / "work.yaml"


def test_options_say_the_same_as_a_file_and_come_first(folder: Path) -> None:
    options = ["--model", "qwen3-32b", "--gpu", "h100", "--gpus", "4", "--workload", folder / "work.yaml"]
    by_options = run(*options, "--ttft-p95", "1s", "--tpot-p95", "60ms", "--no-simulate", "--json")
    by_file = run(folder / "plan-for.yaml", "--no-simulate", "--json")
    assert by_options[0] == by_file[0] == 0
    several = [json.loads(said)["plans"] for _, said, _ in (by_options, by_file)]
    assert [p["expected"] for p in several[0]] == [p["expected"] for p in several[1]]
    dearer = run(folder / "plan-for.yaml", "--no-simulate", "--json", "--usd-per-hour", "100")
    assert json.loads(dearer[1])["plans"][0]["expected"]["usd_per_hour"] >= 100


def test_the_table_has_what_was_asked_and_why_says_why_not(folder: Path) -> None:
    code, said, _ = run(folder / "plan-for.yaml", "--no-simulate", "--why")
    assert code == 0 and "TTFT p95" in said and "estimated" in said and "±" in said
    assert "not TP=1, bf16: quantise first" in said


def test_one_command_tells_base_and_burst_from_all_on_demand(folder: Path) -> None:
    (folder / "day.yaml").write_text(WORKLOAD + "arrivals: {kind: diurnal, period: 100s, depth: 1}\n")
    words = (folder / "plan-for.yaml", "--workload", folder / "day.yaml", "--rate", "40", "--no-simulate")
    code, said, _ = run(*words, "--term", "owned", "--burst", "on_demand")
    assert code == 0 and "owned, the rest on_demand as needed" in said and "all on_demand, all day" in said
    assert all(word in said for word in ("base", "burst", "USD a month", "PUE"))


def test_an_engine_that_costs_nothing_as_nothing_needs_it_is_not_planned(folder: Path) -> None:
    words = (folder / "plan-for.yaml", "--no-simulate", "--json", "--term", "owned", "--burst", "on_demand")
    plans = [msgspec.convert(plan, Plan) for plan in json.loads(run(*words)[1])["plans"]]
    same = [plan.gpus for plan in plans if plan.expected and plan.expected.usd_per_hour == cost(plans[0])]
    assert len(same) > 1 and plans[0].gpus == min(same) < max(same)


def cost(plan: Plan) -> float:
    assert plan.expected is not None
    return plan.expected.usd_per_hour


def test_the_page_has_the_front_the_memory_and_the_latency(folder: Path) -> None:
    pytest.importorskip("plotly")
    page = folder / "plan.html"
    code, said, _ = run(folder / "plan-for.yaml", "--no-simulate", "--page", page)
    text = page.read_text()
    assert code == 0 and f"page: {page}" in said
    wanted = (
        "Pareto front",
        "KV of running requests",
        "TTFT p95 [s]",
        "TPOT p95 [ms]",
        "all day",
        "not TP=1, bf16",
        "planned for",
    )
    assert all(words in text for words in wanted)
    assert "Other ways to buy fleet 1" in text and " src=" not in text


MIX = """
kind: mix
tenants:
  - {name: support, workload: work.yaml}
  - {name: nightly, workload: work.yaml, load: 0.5}
"""


def test_each_class_is_told_and_the_one_that_broke_is_named(folder: Path) -> None:
    (folder / "mix.yaml").write_text(MIX)
    words = [folder / "plan-for.yaml", "--workload", folder / "mix.yaml", "--no-simulate"]
    code, said, _ = run(*words, "--class", "support:ttft=300ms,percentile=90", "--class", "nightly")
    assert code == 0 and "support p90: TTFT 0.3 s" in said and "nightly p95: nothing asked" in said
    code, _, error = run(*words, "--class", "support:ttft=1ms")
    assert code == 1 and "support: TTFT p95" in error


def test_lengths_are_enough(folder: Path) -> None:
    out = folder / "plan.yaml"
    options = ["--model", "qwen3-32b", "--gpu", "h100", "--gpus", "4", "--no-simulate", "-o", out]
    words = ["--prompt-tokens", "mean=800,p99=3000", "--output-tokens", "200", "--shared-prefix", "500"]
    code, said, _ = run(*options, *words, "--rate", "8")
    assert code == 0 and "as described: 8 requests/s in busy times, 8 in the mean" in said
    plan = msgspec.convert(yaml.safe_load(out.read_text()), Plan)
    assert plan.workload["prefix_tokens"] == 500 and plan.workload["stages"][0]["rate"] == 8
    code, _, error = run(*options, *words, "--rate", "8", "--workload", folder / "work.yaml")
    assert code == 2 and "--workload: is given, and lengths" in error


def test_a_plan_is_judged_by_another_workload(folder: Path) -> None:
    out, again = folder / "plan.yaml", folder / "again.yaml"
    assert run(folder / "plan-for.yaml", "--no-simulate", "-o", out)[0] == 0
    words = ["--prompt-tokens", "300", "--output-tokens", "100", "--concurrency", "8", "--no-simulate"]
    code, said, _ = run(out, *words, "-o", again)
    plan = msgspec.convert(yaml.safe_load(again.read_text()), Plan)
    assert code == 0 and "8 users, each asks when he is answered; 300 tokens in, 100 out" in said
    assert plan.workload["stages"][0]["users"] == 8 and plan.rate is None


def test_a_fleet_that_prometheus_knows_is_planned_anew(folder: Path) -> None:
    with prometheus(FLEET, [1.0, 8.0, 8.0]) as (url, _):
        options = ["--workload", f"prometheus:{url}", "--window", "3h", "--no-simulate", "-o", folder / "plan.yaml"]
        code, said, _ = run(folder / "plan-for.yaml", *options)
    assert code == 0 and "8 requests/s in busy times, 5.67 in the mean" in said and "note: Measured by vLLM" in said
    again = run(folder / "plan-for.yaml", "--workload", folder / "nowhere.yaml", "--no-simulate")
    assert again[0] == 2
    (folder / "frozen.yaml").write_text(yaml.safe_dump(yaml.safe_load((folder / "plan.yaml").read_text())["workload"]))
    assert run(folder / "plan-for.yaml", "--workload", folder / "frozen.yaml", "--no-simulate")[0] == 0


def test_a_bare_trace_stands_in_the_plan_as_a_workload(folder: Path) -> None:
    (folder / "trace.csv").write_bytes(azure_rows(600))
    out = folder / "plan.yaml"
    code, _, _ = run(folder / "plan-for.yaml", "--workload", folder / "trace.csv", "--no-simulate", "-o", out)
    plan = msgspec.convert(yaml.safe_load(out.read_text()), Plan)
    assert code == 0 and plan.workload == {"kind": "azure", "file": "trace.csv"}
    assert read_workload(plan.workload, folder).make(1).stages


CONFIG = {  # Qwen/Qwen3-8B, as published
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288,
    "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_directory_with_config_json_and_a_journal_are_enough(folder: Path) -> None:
    """Nothing of the catalogue but the GPU: what runs, and what was asked of it."""
    (folder / "mine").mkdir()
    (folder / "mine" / "config.json").write_text(json.dumps(CONFIG))
    record(folder / "day", conversations(60))
    out = folder / "plan.yaml"
    options = ["--model", folder / "mine", "--gpu", "h100", "--gpus", "2", "--workload", folder / "day"]
    code, said, _ = run(*options, "--ttft-p95", "500ms", "--tpot-p95", "40ms", "-o", out)
    plan = msgspec.convert(yaml.safe_load(out.read_text()), Plan)
    assert code == 0 and "day: " in said and plan.model == str(folder / "mine") and plan.workload == "day"
    assert plan.expected is not None and plan.expected.confidence is Confidence.SIMULATED
    assert plan.expected.ttft_s <= 0.5 and plan.expected.tpot_s <= 0.04
    code, _, error = run(*options, "--served-name", "other")
    assert code == 2 and "--served-name: nobody asked for 'other', but for: m" in error


def test_nothing_that_serves_is_said_with_the_reason(folder: Path) -> None:
    code, _, error = run(folder / "plan-for.yaml", "--no-simulate", "--ttft-p95", "1ms")
    assert code == 1 and "no fleet of 4 x h100_sxm keeps these objectives" in error and "TTFT p95" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "qwen3-33b"], "--model: unknown model"),
        (["--gpu", "h1000"], "--gpu: unknown GPU"),
        (["--goal", "cheap"], "--goal: 'cheap' is none of min-cost"),
        (["--gpu", "l4", "--term", "spot"], "--term: no spot price of l4 is known (there is: on_demand, reserved)"),
        (["--provider", "azure", "--term", "spot"], "--term: no spot price of azure of h100_sxm is known"),
        (["--provider", "aws2"], "--provider: 'aws2' is none of akash, aws"),
        (["--burst", "owned"], "--burst: 'owned' is none of on_demand, spot"),
        (["--burst", "cheap"], "--burst: 'cheap' is none of on_demand, spot"),
        (["--precision", "fp3"], "unknown precision 'fp3', did you mean 'fp8' or 'fp4'?"),
        (["--burst", "on_demand"], "--burst: is on_demand as what runs all day"),
        (["--term", "owned", "--follows", "0"], "--follows: owned capacity is paid for all day"),
        (["--ttft-p95", "soon"], "ttft"),
        (["--workload", "nowhere.yaml"], "nowhere.yaml cannot be read: No such file"),
        (["--class", ":ttft=1s"], "--class: ':ttft=1s' is not of this form"),
        (["--rate", "0"], "rate: Expected `float` > 0"),
        (["--rate", "100000"], "--rate: 100000 requests/s of this workload are"),
        (["--window", "3h"], "--window: is for a workload of Prometheus"),
        (["--percentile", "20"], "percentile: Expected `int` >= 50"),
        (["--workload", Path(__file__).parent], "holds neither a journal nor sessions"),
        (["--class", "support:ttft=1s"], "classes.support: is no tenant of the workload, which has none"),
        (["--class", "support:ttft"], "--class: 'support:ttft' is not of this form"),
        (["--class", "support:tttft=1s"], "classes.support.tttft: unknown field, did you mean 'ttft'?"),
        (["--class", "support:ttft=soon"], "classes.support.ttft: 'soon' is not a duration"),
    ],
)
def test_a_slip_is_named(words: list[str | Path], said: str, folder: Path) -> None:
    code, _, error = run(folder / "plan-for.yaml", "--no-simulate", *words)
    assert code == 2 and said in error


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["pools"], [], "pools: is empty"),
        (["pools", 0, "replicas"], 0, "pools[0].replicas: Expected `int` >= 1"),
        (["pools", 0, "precision"], "fp3", "pools[0].precision: unknown precision 'fp3'"),
        (["pools", 0, "max_num_seqs"], -5, "pools[0].max_num_seqs: Expected `int` >= 1"),
        (["pools", 0, "layout", "pp"], 0, "pools[0].layout.pp: Expected `int` >= 1"),
        (["pools", 0, "layout", "tp"], 16, "pools[0].layout.tp: 16 ranks must share one node"),
        (["objective", "percentile"], 200, "objective.percentile: Expected `int` <= 99"),
        (["objective", "ttft_s"], -1, "objective.ttft_s: Expected `float` > 0"),
        (["rate"], 0, "rate: Expected `float` > 0"),
        (["rate"], 1e9, "rate: Expected `float` <= 1000000"),
        (["classes"], {"support": {"ttft_s": 1}}, "classes.support: is no tenant of the workload"),
        (["workload"], "none.yaml", "workload: none.yaml cannot be read: No such file"),
    ],
)
def test_a_slip_in_a_plan_is_named_with_its_field(
    place: list[str | int], value: object, said: str, planned: Path
) -> None:
    data = yaml.safe_load(planned.read_text())
    at = data
    for part in place[:-1]:
        at = at[part]
    at[place[-1]] = value
    planned.write_text(yaml.safe_dump(data))
    code, _, error = run(planned, "--no-simulate")
    assert code == 2 and f"plan.yaml: {said}" in error.replace(f"{planned.parent}/", "")


def test_what_is_for_a_search_is_refused_where_a_fleet_is_chosen(planned: Path) -> None:
    for words in (["--goal", "min-gpus"], ["--gpus", "4"], ["--without", "tiers"]):
        code, said, error = run(planned, *words)
        assert (code, said) == (2, "") and f"{words[0]}: is for a search" in error


def test_what_was_found_is_shown_though_it_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    code, said, error = run(folder / "plan-for.yaml", "--no-simulate", "-o", folder / "file" / "plan.yaml")
    assert code == 2 and "TTFT p95" in said and "-o: cannot write" in error


def test_requests_that_engines_would_refuse_break_the_promise(planned: Path) -> None:
    data = yaml.safe_load(planned.read_text())
    data["pools"][0]["max_model_len"] = 16
    planned.write_text(yaml.safe_dump(data))
    code, said, _ = run(planned, "--no-simulate")
    assert code == 1 and "requests are longer than max_model_len, 16: engines refuse them" in said


def test_one_kind_of_gpu_by_two_names_is_no_two_kinds(folder: Path) -> None:
    words = ["--gpu", "h100=2", "--gpu", "h100_sxm=2", "--workload", folder / "work.yaml"]
    code, _, error = run("--model", "qwen3-8b", *words)
    assert code == 2 and "--gpu: h100 and h100_sxm are one kind, h100_sxm" in error


def test_what_is_missing_is_named_at_once() -> None:
    code, _, error = run()
    assert code == 2 and all(f"--{name}: is missing" in error for name in ("model", "gpu", "gpus", "workload"))
