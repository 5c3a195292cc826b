"""Advice on speculation: it follows the batch, what was measured and who is bound, and says why."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.perf.acceptance import Kind
from pilothouse.perf.catalog import gpu_named, model_named, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.speculation import Method, Speculation, expected_tokens, method_named
from pilothouse.plan import speculative as planner
from pilothouse.plan.speculative import WORTH, Asked, advise
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Pool
from pilothouse.workload import open_loop
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload, constrained, total_requests
from pilothouse.workload.sessions import Phase
from tests.journal.days import TIME, conversations, record

runner = CliRunner()
H100 = gpu_named("h100")


def load(users: int, share: float = 0.0, count: int = 0) -> Workload:
    """So many at a time, each with an answer of 200 tokens."""
    spec = OpenLoop(
        prompt_tokens=(300, 300), output_tokens=(200, 200), phases=[Phase(users=users, count=count or 2 * users)]
    )
    return constrained(open_loop.generate(spec, 1), share, 1)


def asked(workload: Workload, model: str = "qwen3-32b", tp: int = 2, **more: object) -> Asked:
    made, precision = model_named(model), precision_named("bf16")
    plain = Asked(workload, made, H100, tp, precision, step_time(made, H100, tp, precision), 1, Kind.CHAT)
    return msgspec.structs.replace(plain, **more)


def test_a_small_batch_is_told_to_speculate_and_simulation_agrees_with_arithmetic() -> None:
    advice = advise(asked(load(4)))
    best = advice.options[0]
    assert (advice.method, advice.draft_tokens) == (best.method, best.draft_tokens) == ("eagle3", best.draft_tokens)
    assert best.simulated is not None and best.simulated >= WORTH
    assert best.simulated == pytest.approx(best.gain, rel=0.1)
    assert advice.batch == pytest.approx(4, rel=0.15) and advice.context == pytest.approx(400, rel=0.15)
    assert "answers grow" in advice.reasons[0] and "[Simulated]" in advice.reasons[0]
    assert {option.method for option in advice.options} == set(Method)


def test_the_gain_shrinks_with_the_batch() -> None:
    gains = [advise(asked(load(users))).options[0].simulated for users in (1, 30, 120)]
    assert None not in gains
    assert gains == sorted(gains, reverse=True)  # type: ignore[type-var]


def test_what_was_measured_counts_and_poor_drafts_are_given_up() -> None:
    poor = dict.fromkeys(Method, 0.02)
    advice = advise(asked(load(60), accepted=poor))
    assert advice.method == "" and "no method" in advice.reasons[0]
    assert all(option.label == "Measured" for option in advice.options)
    good = advise(asked(load(60), accepted=poor | {Method.NGRAM: 0.9}))
    assert good.method == "ngram" and "accepted 90%" in " ".join(good.reasons)


def test_bound_requests_are_kept_from_drafts_that_cost_them() -> None:
    measured = dict.fromkeys(Method, 0.02) | {Method.NGRAM: 0.9}  # of whose drafts a grammar leaves nothing
    for engines, said in ((1, "with a second engine"), (4, "`without_speculation`")):
        advice = advise(asked(load(60 * engines, 0.3), accepted=measured, engines=engines))
        assert advice.constrained == pytest.approx(0.3, abs=0.1) and advice.method == "ngram"
        assert said in advice.reasons[-1]
    free = advise(asked(load(60), accepted=measured))
    assert "grammar" not in " ".join(free.reasons)
    assert free.options[0].gain > advice.options[0].gain > advice.options[0].gain_constrained


def test_heads_are_offered_where_they_exist() -> None:
    advice = advise(asked(load(4), "qwen3.6-27b"))
    assert advice.method == "mtp" and advice.options[0].drafts_with == "the model has a prediction head"
    assert not next(option for option in advice.options if option.method == "medusa").available


def test_a_long_workload_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, long = advise(asked(load(20, count=50))), load(20, count=300)
    monkeypatch.setattr(planner, "REQUESTS_MAX", 50)
    assert total_requests(long.stages) == 300 and advise(asked(long)).batch == whole.batch


@given(st.floats(0.02, 0.95), st.integers(1, 8), st.floats(0, 0.9), st.sampled_from([0.0, 0.5]))
def test_the_acceptance_of_free_requests_is_told_from_that_of_all(
    rate: float, drafts: int, bound: float, kept: float
) -> None:
    """By hand: tokens of each kind, the steps they take, and what was drafted and accepted in these."""
    free, caught = expected_tokens(rate, drafts), expected_tokens(kept * rate, drafts)
    steps = [(1 - bound) * 1e6 / free, bound * 1e6 / caught]
    accepted = steps[0] * (free - 1) + steps[1] * (caught - 1)
    assert planner.unmixed(accepted / (sum(steps) * drafts), drafts, bound, kept) == pytest.approx(rate, abs=1e-3)


@pytest.mark.parametrize(
    ("told", "method"),
    [
        ("eagle3", Method.EAGLE3), ("ngram", Method.NGRAM), ("ngram_gpu", Method.NGRAM), ("mtp", Method.MTP),
        ("deepseek_mtp", Method.MTP), ("qwen3_next_mtp", Method.MTP), ("suffix", Method.SUFFIX), ("NEXTN", Method.MTP),
        ("draft_model", Method.DRAFT_MODEL), ("unnamed", None), ("", None),
    ],
)  # fmt: skip
def test_methods_are_known_by_what_engines_call_them(told: str, method: Method | None) -> None:
    assert method_named(told) is method


@given(st.floats(0, 1), st.sampled_from([1, 8, 40]))
@settings(max_examples=8)
def test_no_method_is_named_that_does_not_pay_in_simulation(rate: float, users: int) -> None:
    advice = advise(asked(load(users, count=users), accepted=dict.fromkeys(Method, rate)))
    best = advice.options[0]
    assert bool(advice.method) == (best.simulated is not None and best.simulated >= WORTH)
    assert not advice.method or best.method == advice.method


# On the command line

WORKLOAD = "{kind: chat, stages: [{users: 4, count: 6}], turns: 1, output_tokens: 100, constrained: 0.5}"
HARDWARE = ["--model", "qwen3-32b", "--gpu", "h100", "--tp", "2"]


def test_the_command_tells_what_to_do_and_why(tmp_path: Path) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text(WORKLOAD)
    done = runner.invoke(app, ["advise", "speculative", str(path), *HARDWARE])
    assert done.exit_code == 0, done.output
    assert "use eagle3" in done.output and "never" in done.output and "Estimated" in done.output
    done = runner.invoke(app, ["advise", "speculative", str(path), *HARDWARE, "--json"])
    advice = json.loads(done.output)
    assert advice["method"] == "eagle3" and advice["options"][0]["simulated"] > 1 and advice["constrained"] > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--model", "qwen3-33b"], "did you mean"),
        (["--gpu", "h1000"], "--gpu"),
        (["--work", "poetry"], "--work"),
        (["--model", "deepseek-v3"], "does not fit"),
        (["--gateway", "127.0.0.1:1"], "no gateway answers"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, wrong: list[str], said: str) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text(WORKLOAD)
    done = runner.invoke(app, ["advise", "speculative", str(path), *HARDWARE, *wrong])
    assert done.exit_code != 0 and said in done.output, done.output


def test_a_journal_tells_what_engines_accepted(tmp_path: Path) -> None:
    """What engines of the recorded day accepted is found again, and no published figure is taken in its place."""
    speculation = Speculation(Method.NGRAM, 3, 0.45, 0.0)
    pool = Pool("e", 2, EngineSpec(TIME, 900, sequences_max=64, speculation=speculation), exact=True)
    record(tmp_path, constrained(conversations(12), 0.25, 1), pools=[pool])
    done = runner.invoke(app, ["advise", "speculative", str(tmp_path), *HARDWARE, "--json"])
    assert done.exit_code == 0, done.output
    advice = json.loads(done.output)
    ngram = next(option for option in advice["options"] if option["method"] == "ngram")
    assert ngram["label"] == "Measured"
    assert ngram["acceptance"] == pytest.approx(0.45, abs=0.06), "what was bound is taken out"
    assert 0.1 < advice["constrained"] < 0.4
