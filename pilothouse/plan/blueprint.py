"""Blueprints: six deployments as starting points, each a file in `blueprints/` that explains itself and holds its plans.

A blueprint has a plan for each class of models, which is one but for grids: engines of one class serve no other, so each
plan is sized, priced and simulated by itself.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from pilothouse.config.convert import convert
from pilothouse.config.load import read_yaml
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.memory import SEQUENCE_TOKENS
from pilothouse.plan.document import Objective, Plan
from pilothouse.plan.simulated import engines_of, hardware_of

NAMES = ("chat", "rag", "batch", "grid", "hybrid", "edge")


class Blueprint(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a deployment is for, why it is as it is, and the plans that follow."""

    name: str
    title: str
    signature: list[str]  # by which a workload of this kind is known
    priority: list[str]  # figures, the most important first
    topology: str
    mechanisms: dict[str, str]  # what is used -> why
    cost: str  # what it depends on
    avoid: str  # for what something else is better
    plans: list[Plan]


def load(name: str) -> Blueprint:
    """One that ships. Raises ConfigError for an unknown name."""
    if name not in NAMES:
        raise ConfigError([Problem("--blueprint", f"{name!r} is none of: {', '.join(NAMES)}")])
    text = (files("pilothouse.plan") / "blueprints" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse(text, f"{name}.yaml")


def parse(text: str, source: str) -> Blueprint:
    """Strictly, and everything that a plan names is looked up. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    found = convert(Blueprint, read_yaml(text, source), "", problems)
    if found is not None:
        problems += _empty(found)
        for i, plan in enumerate(found.plans):
            problems += _plan(plan, f"plans[{i}]", found)
    if problems or found is None:
        raise ConfigError([Problem(f"{source}: {p.where}" if p.where else source, p.what) for p in problems])
    return structs.replace(found, plans=[structs.replace(plan, blueprint=found.name) for plan in found.plans])


def to_plans(
    blueprint: Blueprint,
    *,
    model: str = "",
    gpu: str = "",
    workload: Any = None,
    objective: Objective | None = None,
) -> list[Plan]:
    """Its plans, with what is one's own in place of what it says. Raises ConfigError for what does not fit."""
    given = {"--model": model, "--gpu": gpu, "--workload": workload, "objectives": objective}
    own = [option for option, value in given.items() if value]
    if own and len(blueprint.plans) > 1:
        names = ", ".join(plan.name for plan in blueprint.plans)
        raise ConfigError([Problem(own[0], f"for which of {names}? Write its plans to a file and change them there")])
    plans = []
    for plan in blueprint.plans:
        pools = [structs.replace(pool, gpu=gpu) for pool in plan.pools] if gpu else plan.pools
        made = structs.replace(
            plan,
            model=model or plan.model,
            pools=pools,
            workload=plan.workload if workload is None else workload,
            objective=objective or plan.objective,
            why=[blueprint.topology.strip(), *(f"{what}: {why}" for what, why in blueprint.mechanisms.items())],
        )
        if own:
            engines_of(made, hardware_of(made), SEQUENCE_TOKENS)  # it must fit
        plans.append(made)
    return plans


def _empty(found: Blueprint) -> list[Problem]:
    """An explanation that is not there explains nothing."""
    fields = ("title", "signature", "priority", "topology", "mechanisms", "cost", "avoid", "plans")
    return [Problem(name, "must not be empty") for name in fields if not getattr(found, name)]


def _plan(plan: Plan, where: str, blueprint: Blueprint) -> list[Problem]:
    problems = []
    if plan.blueprint not in ("", blueprint.name):
        problems.append(Problem(f"{where}.blueprint", f"must be {blueprint.name!r}, or left out"))
    if plan.expected is not None:
        problems.append(Problem(f"{where}.expected", "is for search and simulation to say"))
    if plan.objective.ttft_s is None and plan.objective.tpot_s is None:
        problems.append(Problem(f"{where}.objective", "asks for nothing: give ttft_s, tpot_s or both"))
    try:
        engines_of(plan, hardware_of(plan), SEQUENCE_TOKENS)
        read_workload(plan.workload, Path())
    except ConfigError as error:
        problems += [Problem(f"{where}: {problem.where}", problem.what) for problem in error.problems]
    return problems
