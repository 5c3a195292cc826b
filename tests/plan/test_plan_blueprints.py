"""Blueprints: strictly read, explained, and each plan keeps what it promises in simulation, and no longer when overrun."""

from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from pilothouse import build
from pilothouse.bench.run import shorten
from pilothouse.cli import app
from pilothouse.config.convert import convert
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.plan.blueprint import NAMES, load, parse, to_plans
from pilothouse.plan.document import Layout, Objective, Plan
from pilothouse.plan.plan_scenario import keeps, to_scenario
from pilothouse.workload.outcomes import Run

PLANS = {plan.name: plan for name in NAMES for plan in to_plans(load(name))}
runner = CliRunner()


def simulated(plan: Plan, load: float = 1.0, requests_max: int = 100_000) -> Run:
    ready = to_scenario(plan)
    return build.simulated(ready.scenario, shorten(ready.recipe.make(1, load), requests_max), plan.policy, load, 1)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_keeps_what_it_promises(name: str) -> None:
    run = simulated(PLANS[name])
    refused = sum(stage.summary.refused for stage in run.stages)
    assert refused == 0 and keeps(PLANS[name], run), run.good_ratio


@pytest.mark.parametrize("name", PLANS)
def test_every_request_fits_into_the_context_of_every_engine(name: str) -> None:
    requests = [r for stage in to_scenario(PLANS[name]).recipe.make(1).stages for r in stage.requests]
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    assert all(longest <= (pool.max_model_len or 0) for pool in PLANS[name].pools)


def test_a_fleet_that_is_overrun_keeps_nothing() -> None:
    assert not keeps(PLANS["grid-large"], simulated(PLANS["grid-large"], 4.0, 200))


def test_the_owned_engines_of_a_hybrid_do_not_bear_its_peak_alone() -> None:
    hybrid = PLANS["hybrid"]
    alone = msgspec.structs.replace(hybrid, pools=[pool for pool in hybrid.pools if pool.name == "owned"])
    assert not keeps(alone, simulated(alone, 1.0, 1500))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_is_written(name: str) -> None:
    """A plan says where it comes from and why, and is the same after a way through a file."""
    for plan in to_plans(load(name)):
        assert plan.blueprint == name and len(plan.why) > 2
        problems: list[Problem] = []
        data = yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(plan)))
        assert convert(Plan, data, "", problems) == plan and not problems


def test_a_plan_becomes_engines_of_the_same_kind() -> None:
    edge, rag = to_scenario(PLANS["edge"]).scenario.pools[0], to_scenario(PLANS["rag"]).scenario.pools
    wide = msgspec.structs.replace(PLANS["edge"].pools[0], kv_precision="bf16")
    plain = to_scenario(msgspec.structs.replace(PLANS["edge"], pools=[wide])).scenario.pools[0]
    assert plain.kv_blocks is None and edge.kv_blocks is not None  # what fits, or what fits of half as many bytes
    assert edge.speculation is not None and (edge.speculation.method, edge.speculation.draft_tokens) == ("mtp", 2)
    assert edge.batched_tokens >= edge.sequences * 3
    assert [pool.role for pool in rag] == [Role.PREFILL, Role.DECODE]
    assert rag[0].tiers.dram is not None and rag[0].tiers.dram.gb == 400 and rag[1].tiers.dram is None


def test_what_is_one_s_own_takes_the_place_of_what_it_says() -> None:
    mine = Objective(percentile=99, ttft_s=9.0)
    load_ = {"kind": "open_loop", "rate": 1, "duration": "5s"}
    plan = to_plans(load("chat"), model="qwen3-8b", gpu="l40s", workload=load_, objective=mine)[0]
    assert (plan.model, plan.pools[0].gpu, plan.workload, plan.objective) == ("qwen3-8b", "l40s", load_, mine)
    with pytest.raises(ConfigError, match="does not fit on 1 x l40s"):
        to_plans(load("chat"), model="llama-3.1-70b", gpu="l40s")
    with pytest.raises(ConfigError, match="--model: for which of grid-small, grid-large"):
        to_plans(load("grid"), model="qwen3-8b")
    with pytest.raises(ConfigError, match="'cat' is none of: chat, rag"):
        load("cat")


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
        (["plans", 0, "model"], "gpt-9", r"plans\[0\]: pools\[0\]: unknown model 'gpt-9'"),
        (["plans", 0, "workload", "kind"], "none", r"plans\[0\]: p: workload.*kind"),
        (["plans", 0, "policy"], "roundrobin", "did you mean 'round_robin'"),
        (["plans", 0, "pools", 0, "gpu"], "h1", r"pools\[0\]: unknown GPU 'h1'"),
        (["plans", 0, "pools", 0, "gpus"], 1, r"plans\[0\].pools\[0\].gpus: unknown field"),
        (["plans", 0, "pools", 0, "layout"], {"pp": 2}, "tensor parallelism alone"),
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


def test_layouts_that_a_scenario_has_not_are_refused() -> None:
    pool = msgspec.structs.replace(PLANS["chat"].pools[0], layout=Layout(tp=2, dcp=2))
    with pytest.raises(ConfigError, match="tensor parallelism alone"):
        to_scenario(msgspec.structs.replace(PLANS["chat"], pools=[pool]))


def test_the_command_lists_explains_prints_and_simulates() -> None:
    assert all(name in runner.invoke(app, ["advise", "blueprint"]).output for name in NAMES)
    shown = runner.invoke(app, ["advise", "blueprint", "edge", "--simulate"])
    assert shown.exit_code == 0, shown.output
    for words in ("known by:", "mechanisms:", "plan edge: qwen3.6-27b", "p95: TTFT 2 s, TPOT 30 ms", "[Simulated]"):
        assert words in shown.output, words
    printed = runner.invoke(app, ["advise", "blueprint", "grid", "--plan"])
    documents = list(yaml.safe_load_all(printed.output))
    assert [document["name"] for document in documents] == ["grid-small", "grid-large"]
    wrong = runner.invoke(app, ["advise", "blueprint", "cat"])
    assert wrong.exit_code == 2 and "'cat' is none of" in wrong.output
