"""Blueprints: six deployments as starting points, each a file in `blueprints/` that explains itself and holds its plans.

A blueprint has a plan for each class of models, which is one but for grids: engines of one class serve no other, so each
plan is sized, priced and simulated by itself.
"""

from importlib.resources import files
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.config.convert import convert
from pilothouse.config.load import read_yaml
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.memory import SEQUENCE_TOKENS
from pilothouse.plan.document import Plan
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
    why = [found.topology.strip(), *(f"{what}: {reason}" for what, reason in found.mechanisms.items())]
    return replace(found, plans=[replace(plan, blueprint=found.name, why=why) for plan in found.plans])


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
    except ConfigError as error:
        problems += [Problem(f"{where}.{problem.where}", problem.what) for problem in error.problems]
    try:
        read_workload(plan.workload, Path())
    except ConfigError as error:
        problems += [Problem(f"{where}.workload.{problem.where}", problem.what) for problem in error.problems]
    return problems
