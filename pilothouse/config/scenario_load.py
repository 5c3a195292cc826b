"""Text to `Scenario`, strictly: every problem with its path, and everything looked up that a name or file refers to."""

from collections.abc import Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.config import speculating
from pilothouse.config.convert import convert
from pilothouse.config.load import read_yaml
from pilothouse.config.policy import profile
from pilothouse.config.scenario import Fault, Replicas, Scenario, Slo
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.selection import Profile
from pilothouse.perf.catalog import Gpu, Model, Precision, gpu_named, model_named, precision_named
from pilothouse.perf.memory import kv_gib, kv_tokens
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.profiles import PROFILES
from pilothouse.policies.rivals import RIVALS
from pilothouse.workload.mix import Mix
from pilothouse.workload.spec import Recipe

SIMULATED = RIVALS | PROFILES  # policies by name: what ships, and what others ship


class Ready(msgspec.Struct, frozen=True):
    """A scenario with its workload read and its paths absolute: nothing more is needed to run it anywhere."""

    scenario: Scenario
    recipe: Recipe


def load_scenario(text: str, source: str = "scenario", base: Path = Path()) -> Ready:
    """Reads YAML; files are looked for beside it, in `base`. Raises ConfigError with every problem found."""
    return scenario_from_data(read_yaml(text, source), source, base)


def scenario_from_data(data: object, source: str = "scenario", base: Path = Path()) -> Ready:
    """As `load_scenario`, from what YAML would give."""
    problems: list[Problem] = []
    data = dict(data) if isinstance(data, dict) else data
    tenants = _tenants(data, problems)
    scenario = convert(Scenario, data, "", problems)
    recipe = _workload(data["workload"], base, problems) if isinstance(data, dict) and "workload" in data else None
    if scenario is not None:
        pools = [_pool(pool, f"pools[{i}]", base, recipe, problems) for i, pool in enumerate(scenario.pools)]
        scenario = msgspec.structs.replace(scenario, pools=pools, tenants=tenants)
        problems += [*_names(scenario), *_lists(scenario), *_policies(scenario.policies), *_slos(scenario)]
        problems += [*_strangers(scenario, recipe), *_roles(scenario)]
        problems += [problem for i, fault in enumerate(scenario.faults) for problem in _fault(fault, i, scenario)]
    if problems or scenario is None or recipe is None:
        raise ConfigError([Problem(f"{source}: {p.where}" if p.where else source, p.what) for p in problems])
    return Ready(scenario, recipe)


def policy_named(policy: object) -> Profile:
    """A policy of the scenario: one that ships, a rival, one spelled out, or a profile itself. Raises ConfigError."""
    if isinstance(policy, Profile):
        return policy
    if not isinstance(policy, str):
        return profile(policy)
    if policy not in SIMULATED:
        near = get_close_matches(policy, SIMULATED, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(SIMULATED))}"
        raise ConfigError([Problem("policy", f"unknown policy {policy!r}, {hint}")])
    return SIMULATED[policy]


def engines_of(scenario: Scenario) -> list[str]:
    """Names of all engines, in the order of the fleet."""
    return [f"{pool.name}-{i}" for pool in scenario.pools for i in range(pool.replicas)]


def hardware_of(pool: Replicas) -> tuple[Model, Gpu, Precision]:
    """Raises KeyError, of which the text says what was not found."""
    return model_named(pool.model), gpu_named(pool.gpu), precision_named(pool.precision)


def read_step_time(path: Path) -> StepTime:
    """A file of `pilothouse calibrate`. Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=StepTime)
    except OSError as error:
        raise ConfigError([Problem("", f"{path} cannot be read: {error.strerror}")]) from None
    except msgspec.MsgspecError as error:
        raise ConfigError([Problem("", f"{path} is not a file of step times: {error}")]) from None


def _tenants(data: object, problems: list[Problem]) -> dict[str, Slo]:
    """Taken out of `data`: mappings with names of the user's own are converted one by one."""
    given = data.pop("tenants", {}) if isinstance(data, dict) else {}
    if not isinstance(given, dict):
        problems.append(Problem("tenants", "must be a mapping from a tenant's name to its objectives"))
        return {}
    slos = {str(name): convert(Slo, value, f"tenants.{name}", problems) for name, value in given.items()}
    return {name: slo for name, slo in slos.items() if slo is not None}


def _workload(said: object, base: Path, problems: list[Problem]) -> Recipe | None:
    try:
        return read_workload(said, base)
    except ConfigError as error:
        named = isinstance(said, str)  # problems of a file name it already
        problems += [
            p if named else Problem(f"workload.{p.where}" if p.where else "workload", p.what) for p in error.problems
        ]
        return None


def _pool(pool: Replicas, where: str, base: Path, recipe: Recipe | None, problems: list[Problem]) -> Replicas:
    """Checked, with its block size and the absolute path of its step times."""
    found: dict[str, Any] = {}
    lookups = (
        ("model", model_named, pool.model),
        ("gpu", gpu_named, pool.gpu),
        ("precision", precision_named, pool.precision),
    )
    for name, lookup, value in lookups:
        try:
            found[name] = lookup(value)
        except KeyError as error:
            problems.append(Problem(f"{where}.{name}", str(error.args[0])))
    size = recipe.block_size if recipe else pool.block_size or 16
    if pool.block_size not in (None, size):
        what = f"must be {size}, or left out: the workload's prompts are known by keys of blocks of {size} tokens"
        problems.append(Problem(f"{where}.block_size", what))
    if pool.batched_tokens < pool.sequences:
        problems.append(Problem(f"{where}.batched_tokens", f"must be at least `sequences`, {pool.sequences}"))
    if len(found) == len(lookups) and pool.kv_blocks is None:
        problems += _fit(pool, where, size, **found)
    if "model" in found and pool.speculation is not None:
        at = f"{where}.speculation"
        problems += speculating.problems_of(pool.speculation, found["model"], pool.sequences, pool.batched_tokens, at)
    step_time = pool.step_time
    if step_time is not None:
        step_time = str((base / step_time).absolute())
        try:
            read_step_time(Path(step_time))
        except ConfigError as error:
            problems += [Problem(f"{where}.step_time", problem.what) for problem in error.problems]
    return msgspec.structs.replace(pool, block_size=size, step_time=step_time)


def _fit(pool: Replicas, where: str, size: int, model: Model, gpu: Gpu, precision: Precision) -> list[Problem]:
    room = kv_gib(model, gpu, pool.tp, precision, pool.utilisation, pool.sequences, pool.batched_tokens)
    if 0 < room <= speculating.drafting_gib(pool.speculation, model, pool.tp):
        return [Problem(f"{where}.speculation", f"no room is left for what drafts on {pool.tp} x {gpu.name}")]
    if room <= 0:
        what = (
            f"{model.name} in {precision} does not fit on {pool.tp} x {gpu.name}: {-room:.1f} GiB missing on each GPU"
        )
        return [Problem(where, f"{what}; raise `tp` or `utilisation`, or choose a smaller `precision`")]
    if kv_tokens(model, gpu, pool.tp, precision, pool.utilisation) < size:
        return [Problem(where, f"{model.name} leaves no room for KV blocks on {pool.tp} x {gpu.name}")]
    return []


def _names(scenario: Scenario) -> list[Problem]:
    problems = []
    engines = engines_of(scenario)
    for i, pool in enumerate(scenario.pools):
        if pool.name in [other.name for other in scenario.pools[:i]]:
            problems.append(Problem(f"pools[{i}].name", f"{pool.name!r} is there already"))
        elif pool.name in engines:
            problems.append(Problem(f"pools[{i}].name", f"{pool.name!r} is the name of an engine of another pool"))
    return problems


def _roles(scenario: Scenario) -> list[Problem]:
    roles = [pool.role for pool in scenario.pools]
    if set(roles) == {"prefill"}:
        return [Problem("pools", "all are prefill pools: nobody answers")]
    alike = {(p.model, p.precision) for p in scenario.pools if p.role == "decode"}
    return [
        Problem(f"pools[{i}].role", "no decode pool has this model in this precision: nobody can use its KV")
        for i, pool in enumerate(scenario.pools)
        if pool.role == "prefill" and (pool.model, pool.precision) not in alike
    ]


def _lists(scenario: Scenario) -> list[Problem]:
    problems = []
    for i, load in enumerate(scenario.loads):
        if not (isfinite(load) and load > 0):
            problems.append(Problem(f"loads[{i}]", "must be more than 0"))
    for name, values in (("loads", scenario.loads), ("seeds", scenario.seeds)):
        problems += [
            Problem(f"{name}[{i}]", f"{value:g} is there already")
            for i, value in enumerate(values)
            if value in values[:i]
        ]
    return problems


def _policies(policies: Sequence[object]) -> list[Problem]:
    problems, names = [], list[str]()
    for i, policy in enumerate(policies):
        try:
            name = policy_named(policy).name
        except ConfigError as error:
            problems += [Problem(f"policies[{i}]{p.where.removeprefix('policy')}", p.what) for p in error.problems]
            continue
        if name in names:
            problems.append(
                Problem(f"policies[{i}]", f"a policy named {name!r} is there already, give this one a `name`")
            )
        names.append(name)
    return problems


def _slos(scenario: Scenario) -> list[Problem]:
    named = [("objectives", scenario.objectives), *((f"tenants.{name}", slo) for name, slo in scenario.tenants.items())]
    return [
        Problem(f"{where}.{field}", "must be more than 0; leave it out if nothing is asked for")
        for where, slo in named
        for field in ("ttft", "tpot", "e2e")
        if getattr(slo, field) == 0
    ]


def _strangers(scenario: Scenario, recipe: Recipe | None) -> list[Problem]:
    """Objectives of tenants that the workload does not have."""
    if recipe is None or not isinstance(recipe.spec, Mix):
        return []
    known = [tenant.name for tenant in recipe.spec.tenants]
    return [
        Problem(f"tenants.{name}", f"is no tenant of the workload, which has: {', '.join(known)}")
        for name in scenario.tenants
        if name not in known
    ]


def _fault(fault: Fault, i: int, scenario: Scenario) -> list[Problem]:
    where, problems = f"faults[{i}]", []
    pools = {pool.name: pool for pool in scenario.pools}
    known = [*pools, *engines_of(scenario)]
    if fault.endpoint not in known:
        near = get_close_matches(fault.endpoint, known, 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known: pools {', '.join(pools)}, engines {known[len(pools)]} ..."
        )
        problems.append(Problem(f"{where}.endpoint", f"no engine or pool {fault.endpoint!r}, {hint}"))
    if fault.lasts == 0:
        problems.append(Problem(f"{where}.lasts", "must be more than 0; leave it out for a fault that stays"))
    if fault.kind == "crash" and fault.lasts is not None:
        problems.append(Problem(f"{where}.lasts", "a crash ends by itself, after the pool's `start_up`"))
    pool = pools.get(fault.endpoint) or pools.get(fault.endpoint.rpartition("-")[0])
    if fault.kind == "lost_kv_events" and pool is not None and not pool.kv_events:
        problems.append(Problem(f"{where}.kind", f"pool {pool.name!r} reports no KV events that could be lost"))
    if fault.kind == "stale_metrics" and scenario.delays.scrape_every == 0:
        problems.append(
            Problem(f"{where}.kind", "there are no load reports that could be stale: delays.scrape_every is 0s")
        )
    return problems
