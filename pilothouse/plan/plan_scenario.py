"""A plan as a scenario: what `pilothouse sim` would run to see whether its objectives hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilothouse.config import speculating
from pilothouse.config.convert import convert
from pilothouse.config.scenario_load import Ready, scenario_from_data
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Tier
from pilothouse.perf.catalog import Gpu, Model, Precision, gpu_named, model_named, precision_named
from pilothouse.perf.memory import KV_BYTES, SEQUENCE_TOKENS, default_limits, kv_gib, kv_tokens
from pilothouse.perf.storage import STORAGES
from pilothouse.plan.document import Layout, Plan, PoolPlan
from pilothouse.workload.outcomes import Run

BLOCK = 16  # tokens, of which KV capacity is a whole number
DRAFTED = "num_speculative_tokens"  # as vLLM's --speculative-config has it


def to_scenario(plan: Plan, base: Path = Path(), load: float = 1.0, seed: int = 1) -> Ready:
    """`base`: where the workload's file is looked for. Raises ConfigError, with the plan's fields, for what cannot be."""
    problems: list[Problem] = []
    pools = [_pool(plan, pool, f"pools[{i}]", problems) for i, pool in enumerate(plan.pools)]
    if problems:
        raise ConfigError(problems)
    limits = {"ttft": plan.objective.ttft_s, "tpot": plan.objective.tpot_s}
    data = {
        "name": plan.name,
        "pools": pools,
        "workload": plan.workload,
        "policies": [plan.policy],
        "loads": [load],
        "seeds": [seed],
        "objectives": {name: f"{round(limit * 1e6)}us" for name, limit in limits.items() if limit is not None},
    }
    return scenario_from_data(data, plan.name, base)


def keeps(plan: Plan, run: Run) -> bool:
    """As many requests meet all objectives as the percentile says: more than that each objective holds at it by itself."""
    return run.good_ratio >= plan.objective.percentile / 100


def _pool(plan: Plan, pool: PoolPlan, where: str, problems: list[Problem]) -> dict[str, Any]:
    before = len(problems)
    if pool.layout != Layout(tp=pool.layout.tp):
        problems.append(Problem(f"{where}.layout", "a scenario has engines of tensor parallelism alone"))
    if pool.kv_precision not in KV_BYTES:
        problems.append(
            Problem(f"{where}.kv_precision", f"unknown {pool.kv_precision!r}, known: {', '.join(KV_BYTES)}")
        )
    tiers = {name: _tier(name, gb, f"{where}.tiers", problems) for name, gb in pool.tiers.items()}
    found = _hardware(plan, pool, where, problems)
    if len(problems) > before or found is None:
        return {}
    model, gpu, precision = found
    sequences, tokens = default_limits(gpu)
    sequences, tokens = pool.max_num_seqs or sequences, pool.max_num_batched_tokens or tokens
    made: dict[str, Any] = {
        "name": pool.name, "replicas": pool.replicas, "role": pool.role.value, "model": plan.model, "gpu": pool.gpu,
        "tp": pool.layout.tp, "precision": pool.precision, "utilisation": pool.memory_utilisation,
        "batched_tokens": tokens, "sequences": min(sequences, tokens), "tiers": tiers,
    }  # fmt: skip
    drafts = None
    if pool.speculation is not None:
        said = _speculation(pool.speculation)
        drafts = convert(speculating.Speculating, said, f"{where}.speculation", problems)
        made["speculation"] = said
        if drafts is not None:  # the last token of each decode and those drafted are checked in one step
            made["batched_tokens"] = max(tokens, made["sequences"] * (1 + drafts.draft_tokens))
    if KV_BYTES[pool.kv_precision] != KV_BYTES["bf16"]:
        made["kv_blocks"] = _blocks(
            pool, model, gpu, precision, speculating.drafting_gib(drafts, model, pool.layout.tp)
        )
    return made


def _hardware(plan: Plan, pool: PoolPlan, where: str, problems: list[Problem]) -> tuple[Model, Gpu, Precision] | None:
    try:
        return model_named(plan.model), gpu_named(pool.gpu), precision_named(pool.precision)
    except KeyError as error:
        problems.append(Problem(where, str(error.args[0])))
        return None


def _tier(name: str, gb: float, where: str, problems: list[Problem]) -> dict[str, float]:
    storage = {tier.value: storage for tier, storage in STORAGES.items() if tier is not Tier.HBM}.get(name)
    if storage is None:
        known = ", ".join(tier.value for tier in STORAGES)
        problems.append(Problem(where, f"unknown tier {name!r}, known: {known}"))
        return {}
    return {"gb": gb, "gb_per_s": storage.gb_per_s}


def _speculation(said: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's words in a scenario's. Acceptance is as published: a plan does not know better."""
    return {"method": said.get("method", ""), "draft_tokens": said.get(DRAFTED, 1)}


def _blocks(pool: PoolPlan, model: Model, gpu: Gpu, precision: Precision, drafting_gib: float) -> int:
    """Of a KV cache that is narrower than usual; what drafts take is taken off."""
    byte, tp = KV_BYTES[pool.kv_precision], pool.layout.tp
    tokens = kv_tokens(model, gpu, tp, precision, pool.memory_utilisation, SEQUENCE_TOKENS, byte)
    room = kv_gib(model, gpu, tp, precision, pool.memory_utilisation)
    left = 1 - drafting_gib / room if room > 0 else 0.0
    return max(1, int(tokens * left) // BLOCK)
