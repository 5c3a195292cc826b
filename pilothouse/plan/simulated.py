"""A plan's fleet in the simulator: the one way from what is planned to what is tried.

Each lane of an engine (`engines.py`) is simulated as an engine of its own: data-parallel ranks and stages each have their
batch and their KV. All else is as `pilothouse sim` takes a fleet of which nothing else is said.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.build import delays
from pilothouse.config import speculating
from pilothouse.config.scenario import Lateness, Link
from pilothouse.config.scenario_load import policy_named, read_step_time
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role, Tier
from pilothouse.core.units import Micros
from pilothouse.perf.catalog import Gpu, Model, precision_named
from pilothouse.perf.memory import KV_BYTES
from pilothouse.perf.storage import STORAGES
from pilothouse.plan.document import Plan, PoolPlan
from pilothouse.plan.engines import TIERS, Engine, drafting, engine_of
from pilothouse.plan.layouts import indivisible
from pilothouse.plan.model_source import find_gpu, find_model
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.tiers import TierSpec
from pilothouse.sim.world import Fleet, Pool

ANY = 1 << 30  # tokens of a step: engines make room for drafts by themselves


class Hardware(Struct, frozen=True):
    """What a plan names, looked up."""

    model: Model
    gpus: Mapping[str, Gpu]  # by the names that pools use


def hardware_of(plan: Plan) -> Hardware:
    """Raises ConfigError, with the plan's fields, for what is unknown."""
    problems: list[Problem] = []
    model, gpus = None, dict[str, Gpu]()
    try:
        model = find_model(plan.model)
    except ConfigError as error:
        problems += [Problem("model", problem.what) for problem in error.problems]
    for i, pool in enumerate(plan.pools):
        try:
            gpus[pool.gpu] = find_gpu(pool.gpu)
        except ConfigError as error:
            problems += [Problem(f"pools[{i}].gpu", problem.what) for problem in error.problems]
    if problems or model is None:
        raise ConfigError(problems)
    return Hardware(model, gpus)


def engines_of(plan: Plan, hardware: Hardware, context: float) -> list[Engine]:
    """One of each pool. `context`: mean length of a sequence [tokens]. Raises ConfigError for what cannot be."""
    if problems := problems_of(plan, hardware):
        raise ConfigError(problems)
    engines = [engine_of(pool, hardware.model, hardware.gpus[pool.gpu], context) for pool in plan.pools]
    for i, (pool, engine) in enumerate(zip(plan.pools, engines, strict=True)):
        if engine.kv_tokens < 1:
            what = f"{hardware.model.name} in {pool.precision} does not fit on {pool.layout.gpus} x {pool.gpu}"
            problems.append(Problem(f"pools[{i}]", f"{what}: raise `tp`, or choose a smaller `precision`"))
    if problems:
        raise ConfigError(problems)
    return engines


def fleet_of(plan: Plan, hardware: Hardware, context: float, block_size: int) -> Fleet:
    """What the simulator steers. `block_size`: the workload's [tokens]."""
    engines = engines_of(plan, hardware, context)
    pools = [_pool(plan, pool, engine, block_size) for pool, engine in zip(plan.pools, engines, strict=True)]
    return Fleet(pools, delays(Lateness()))


def _pool(plan: Plan, pool: PoolPlan, engine: Engine, block_size: int) -> Pool:
    spec = EngineSpec(
        engine.step_time,
        max(1, engine.kv_tokens // block_size),
        block_size,
        engine.batched_tokens,
        min(engine.sequences, engine.batched_tokens),
        steps_ahead=1,
        speculation=engine.speculation,
        tiers=_tiers(pool, engine, block_size),
    )
    made = Pool(pool.name, pool.replicas * engine.lanes, spec, exact=True)
    if pool.role is Role.BOTH:
        return replace(made, kv_token_bytes=int(engine.token_bytes) if pool.tiers else 0)
    link = Link()
    gb_per_s = pool.link_gb_per_s or link.gb_per_s
    latency_us = link.latency.us if pool.link_latency_s is None else Micros(round(pool.link_latency_s * 1e6))
    return replace(
        made,
        role=pool.role,
        connector=pool.connector or "nixl",
        exchange=_exchange(plan, pool),
        kv_token_bytes=int(engine.token_bytes),
        link_bytes_per_us=gb_per_s * 1e3,
        link_latency_us=latency_us,
    )


def _exchange(plan: Plan, pool: PoolPlan) -> str:
    """What both ends of a transfer have alike."""
    return f"{plan.model} {pool.precision} {pool.kv_precision}"


def _tiers(pool: PoolPlan, engine: Engine, block_size: int) -> list[TierSpec]:
    """Of one lane: an engine's own tiers are divided among its lanes, a store belongs to all engines of the pool."""
    found = []
    for tier, storage in STORAGES.items():
        gb = sum(size for name, size in pool.tiers.items() if TIERS[name] is tier)
        if gb:
            shared = 1 if tier is Tier.REMOTE else engine.lanes
            blocks = int(gb * 1e9 / shared / (engine.token_bytes * block_size))
            found.append(TierSpec(tier, max(1, blocks), storage.gb_per_s))
    return found


def problems_of(plan: Plan, hardware: Hardware) -> list[Problem]:
    """What no engine or dispatcher would take."""
    found: list[Problem] = []
    names = [pool.name for pool in plan.pools]
    for i, pool in enumerate(plan.pools):
        found += [Problem(f"pools[{i}].{where}", what) for where, what in _of_pool(pool, hardware)]
        if names.index(pool.name) < i:
            found.append(Problem(f"pools[{i}].name", f"{pool.name!r} is there already"))
    roles = {pool.role for pool in plan.pools}
    if not roles:
        found.append(Problem("pools", "is empty: there is nothing to deploy"))
    if (Role.PREFILL in roles) != (Role.DECODE in roles):
        here, missing = sorted(roles & {Role.PREFILL, Role.DECODE})[0], sorted({Role.PREFILL, Role.DECODE} - roles)[0]
        found.append(Problem("pools", f"there is a {here} pool and no {missing} pool"))
    kept = [_exchange(plan, pool) for pool in plan.pools if pool.role is Role.DECODE]
    for i, pool in enumerate(plan.pools):
        if kept and pool.role is Role.PREFILL and _exchange(plan, pool) not in kept:
            what = "no decode pool has KV and weights in this precision: nobody can use its KV"
            found.append(Problem(f"pools[{i}].role", what))
    try:
        policy_named(plan.policy)
    except ConfigError as error:
        found += error.problems
    return found


def _of_pool(pool: PoolPlan, hardware: Hardware) -> list[tuple[str, str]]:
    layout, found = pool.layout, list[tuple[str, str]]()
    if why_not := indivisible(hardware.model, layout):
        found.append(("layout", why_not))
    if layout.tp > pool.gpus_per_node:
        nodes = f"a node has {pool.gpus_per_node} GPUs (`gpus_per_node`)"
        found.append(
            ("layout.tp", f"{layout.tp} ranks must share one node, and {nodes}: make stages of them with `pp`")
        )
    if pool.kv_precision not in KV_BYTES:
        found.append(("kv_precision", f"unknown {pool.kv_precision!r}, known: {', '.join(KV_BYTES)}"))
    unknown = [name for name in pool.tiers if name not in TIERS]
    found += [("tiers", f"unknown tier {name!r}, known: {', '.join(TIERS)}") for name in unknown]
    found += [(f"tiers.{name}", "must be more than 0") for name, gb in pool.tiers.items() if gb <= 0]
    try:
        precision_named(pool.precision)
    except KeyError as error:
        found.append(("precision", str(error.args[0])))
    try:
        if drafts := drafting(pool.speculation):
            found += [(p.where, p.what) for p in speculating.problems_of(drafts, hardware.model, 1, ANY, "speculation")]
        if pool.step_time:
            read_step_time(Path(pool.step_time))
    except ConfigError as error:
        found += [(problem.where or "step_time", problem.what) for problem in error.problems]
    return found
