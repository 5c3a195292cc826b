"""sim PLAN: what a plan's fleet does at shares of the rate that it is planned for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.cli.plan_given import How, judge
from pilothouse.plan.plan_file import read_plan
from pilothouse.plan.rehearsal import Trials, job

LOADS = [0.5, 1.0, 1.2]  # of the rate that is planned for


class Defaults(msgspec.Struct, frozen=True):
    """Where the command line does not say."""

    policies: list[Any]
    loads: list[float]
    seeds: list[int]


def plan_defaults(path: Path) -> Defaults:
    return Defaults([read_plan(path).policy], LOADS, [1])


def trials(path: Path, loads: Sequence[float], seeds: Sequence[int]) -> Trials:
    """Raises ConfigError for what cannot be simulated."""
    plan, jobs = read_plan(path), {}
    made = plan
    for seed in seeds:
        found = judge(plan, {}, path.parent, How(simulate=False, seed=seed))
        made, asks = found.plan, found.question.asks
        for load in loads:
            jobs[load, seed] = job(made, found.hardware, asks, found.source.workload, seed, load)
    return Trials(made, jobs)
