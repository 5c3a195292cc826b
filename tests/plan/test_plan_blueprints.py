"""Blueprints: strictly read, explained, and each plan keeps what it promises in simulation, and no longer when overrun."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.cli.planning import Answer
from pilothouse.config.convert import convert
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.plan.blueprint import NAMES, load, parse
from pilothouse.plan.document import Confidence, Layout, Plan, PoolPlan
from pilothouse.plan.plan_file import plan_text, read_plan
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.simulated import fleet_of, hardware_of
from pilothouse.report.files import read
from pilothouse.sim.world import Pool
from pilothouse.workload.requests import Planned

PLANS = {plan.name: plan for name in NAMES for plan in load(name).plans}
runner = CliRunner()


def judged(*words: str) -> tuple[int, list[Plan], str]:
    """Exit status, plans with what is expected of them, and what was printed."""
    done = runner.invoke(app, ["plan", *words, "--json"])
    return done.exit_code, msgspec.json.decode(done.stdout, type=Answer).plans if done.stdout else [], done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_plan_keeps_what_it_promises_in_simulation(name: str) -> None:
    code, plans, _ = judged("--blueprint", name)
    assert code == 0 and [plan.name for plan in plans] == [plan.name for plan in load(name).plans]
    for plan in plans:
        expected = expected_of(plan)
        assert expected.confidence is Confidence.SIMULATED and keeps(plan.objective, expected)
        mean = expected.output_per_s / expected.requests_per_s
        outputs = [r.output_tokens for r in requests(plan)]
        assert mean == pytest.approx(sum(outputs) / len(outputs), rel=0.1)


def requests(plan: Plan) -> list[Planned]:
    return [r for stage in read_workload(plan.workload, Path()).make(1).stages for r in stage.requests]


@pytest.mark.parametrize("name", PLANS)
def test_every_request_fits_into_the_context_of_every_engine(name: str) -> None:
    longest = max(request.prompt_tokens + request.output_tokens for request in requests(PLANS[name]))
    assert all(longest <= (pool.max_model_len or 0) for pool in PLANS[name].pools)


def test_a_fleet_that_is_overrun_keeps_nothing_and_says_so() -> None:
    done = runner.invoke(app, ["plan", "--blueprint", "grid", "--rate", "9", "--no-simulate"])
    assert done.exit_code == 1
    assert "grid-small: what it promises is kept" in done.output and "grid-large: not kept: 3." in done.output
    assert "of 9 requests/s can be served [Estimated]" in done.output


def test_the_owned_engines_of_a_hybrid_do_not_bear_its_peak_alone(tmp_path: Path) -> None:
    hybrid = PLANS["hybrid"]
    alone = replace(hybrid, pools=[pool for pool in hybrid.pools if pool.name == "owned"])
    (tmp_path / "plan.yaml").write_text(plan_text(alone))
    assert judged(str(tmp_path / "plan.yaml"))[0] == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_is_written(name: str) -> None:
    """A plan says where it comes from and why, and is the same after a way through a file."""
    for plan in load(name).plans:
        assert plan.blueprint == name and len(plan.why) > 2
        problems: list[Problem] = []
        data = yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(plan)))
        assert convert(Plan, data, "", problems) == plan and not problems


def fleet(plan: Plan) -> list[Pool]:
    return fleet_of(plan, hardware_of(plan), 2000, 16).pools


def test_a_plan_becomes_engines_of_the_same_kind() -> None:
    edge, (prefill, decode) = fleet(PLANS["edge"])[0].engine, fleet(PLANS["rag"])
    wide = replace(PLANS["edge"].pools[0], kv_precision="bf16")
    plain = fleet(replace(PLANS["edge"], pools=[wide]))[0].engine
    assert edge.kv_blocks > plain.kv_blocks  # not twice as much: states of linear layers stay as they are
    assert edge.speculation is not None and (edge.speculation.method, edge.speculation.draft_tokens) == ("mtp", 2)
    assert edge.batched_tokens_max >= edge.sequences_max * 3
    assert (prefill.role, decode.role) == (Role.PREFILL, Role.DECODE) and prefill.exchange == decode.exchange
    tier = prefill.engine.tiers[0]
    assert tier.blocks * 16 * prefill.kv_token_bytes == pytest.approx(400e9, rel=0.01) and not decode.engine.tiers


def test_lanes_of_a_wide_engine_share_what_it_has() -> None:
    moe = PoolPlan(
        name="wide", replicas=2, gpu="h200_sxm", precision="fp8", tiers={"dram": 400.0},
        layout=Layout(tp=2, dp=4, expert_parallel=True),
    )  # fmt: skip
    pool = fleet(replace(PLANS["batch"], pools=[moe]))[0]
    assert pool.replicas == 8
    assert pool.engine.tiers[0].blocks * 16 * pool.kv_token_bytes == pytest.approx(100e9, rel=0.01)


def test_what_is_one_s_own_takes_the_place_of_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{kind: open_loop, rate: 1, duration: 60s}")
    own = ["--model", "qwen3-8b", "--gpu", "l40s", "--workload", str(tmp_path / "mine.yaml"), "--percentile", "99"]
    code, (plan,), _ = judged("--blueprint", "chat", *own, "--ttft-p95", "9s", "-o", str(tmp_path / "plan.yaml"))
    assert code == 0 and (plan.model, plan.pools[0].gpu) == ("qwen3-8b", "l40s")
    assert (plan.objective.percentile, plan.objective.ttft_s, plan.objective.tpot_s) == (99, 9.0, 0.03)
    written = read_plan(tmp_path / "plan.yaml")
    assert (written.workload, written.blueprint, written.pools) == ("mine.yaml", "chat", plan.pools)
    code, (again,), _ = judged(str(tmp_path / "plan.yaml"))
    assert code == 0 and again.expected == plan.expected


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["chat", "--model", "llama-3.1-70b", "--gpu", "l40s"], "does not fit on 1 x l40s"),
        (["grid", "--model", "qwen3-8b"], "--model: for which of grid-small, grid-large"),
        (["cat"], "'cat' is none of: chat, rag"),
        (["chat", "--gpus", "8"], "--gpus: is for a search"),
        (["grid", "-o", "plan.yaml"], "-o: there are several plans: name a folder"),
    ],
)
def test_what_does_not_fit_is_said(words: list[str], complaint: str) -> None:
    code, _, said = judged("--blueprint", *words)
    assert code == 2 and complaint in said


GOOD: dict[str, Any] = {
    "name": "t", "title": "t", "signature": ["s"], "priority": ["TTFT"], "topology": "t", "mechanisms": {"m": "why"},
    "cost": "c", "avoid": "a",
    "plans": [
        {
            "name": "p", "model": "qwen3-8b", "objective": {"ttft_s": 1.0},
            "workload": {"kind": "open_loop", "rate": 1, "duration": "5s"},
            "pools": [{"name": "a", "replicas": 1, "gpu": "h100", "layout": {"tp": 1}}],
        }
    ],
}  # fmt: skip


def test_a_blueprint_needs_no_more_than_this() -> None:
    assert parse(yaml.safe_dump(GOOD), "t").plans[0].blueprint == "t"


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (["cost"], "", "t: cost: must not be empty"),
        (["costs"], "c", "unknown field, did you mean 'cost'"),
        (["plans", 0, "objective"], {}, r"plans\[0\].objective: asks for nothing"),
        (["plans", 0, "blueprint"], "other", r"plans\[0\].blueprint: must be 't'"),
        (["plans", 0, "model"], "gpt-9", r"plans\[0\].model: unknown model 'gpt-9'"),
        (["plans", 0, "workload", "kind"], "none", r"plans\[0\].workload.*kind"),
        (["plans", 0, "policy"], "roundrobin", "did you mean 'round_robin'"),
        (["plans", 0, "pools", 0, "gpu"], "h1", r"plans\[0\].pools\[0\].gpu: unknown GPU 'h1'"),
        (["plans", 0, "pools", 0, "gpus"], 1, r"plans\[0\].pools\[0\].gpus: unknown field"),
        (["plans", 0, "pools", 0, "layout"], {"tp": 3}, "32 attention heads do not divide by TP=3"),
        (["plans", 0, "pools", 0, "role"], "decode", r"pools: there is a decode pool and no prefill pool"),
        (["plans", 0, "pools", 0, "replicas"], 0, r"pools\[0\].replicas: Expected `int` >= 1"),
        (["plans", 0, "pools", 0, "kv_precision"], "int3", r"pools\[0\].kv_precision: unknown 'int3'"),
        (["plans", 0, "pools", 0, "tiers"], {"tape": 1.0}, r"pools\[0\].tiers: unknown tier 'tape'"),
        (["plans", 0, "pools", 0, "speculation"], {"method": "guess"}, r"pools\[0\].speculation.method"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(path: list[Any], value: Any, complaint: str) -> None:
    data = msgspec.json.decode(msgspec.json.encode(GOOD))
    at = data
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(ConfigError, match=complaint):
        parse(yaml.safe_dump(data), "t")


def test_prefill_and_decode_must_have_the_same_kv() -> None:
    prefill, decode = PLANS["rag"].pools
    with pytest.raises(ConfigError, match="no decode pool has KV"):
        fleet(replace(PLANS["rag"], pools=[replace(prefill, kv_precision="fp8"), decode]))


def test_the_command_lists_explains_judges_and_writes(tmp_path: Path) -> None:
    assert all(name in runner.invoke(app, ["plan", "--blueprint", "list"]).output for name in NAMES)
    shown = runner.invoke(app, ["plan", "--blueprint", "edge", "--no-simulate"])
    assert shown.exit_code == 0, shown.output
    for words in ("known by:", "mechanisms:", "edge: workload:", "TTFT p95", "estimated"):
        assert words in shown.output, words
    done = runner.invoke(app, ["plan", "--blueprint", "grid", "--no-simulate", "-o", str(tmp_path / "grid")])
    assert done.exit_code == 0, done.output
    written = sorted(path.name for path in (tmp_path / "grid").iterdir())
    assert written == ["grid-large.yaml", "grid-small.yaml"]


def test_a_plan_is_simulated_at_loads_of_what_it_is_planned_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(plan_text(replace(PLANS["edge"], rate=0.2)))
    done = runner.invoke(app, ["sim", "plan.yaml", "--json", "runs.json", "--jobs", "1", "--load", "0.5,2"])
    assert done.exit_code == 0, done.output
    assert all(words in done.output for words in ("edge [Simulated]", "0.1 req/s", "0.4 req/s", "speculation"))
    slow, quick = (run.stages[0].summary for run in read(tmp_path / "runs.json").runs)
    assert slow.achieved_rate == pytest.approx(0.1, rel=0.1) and quick.achieved_rate == pytest.approx(0.4, rel=0.1)
