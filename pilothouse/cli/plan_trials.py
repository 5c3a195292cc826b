"""sim PLAN: what a plan's fleet does at shares of the rate that it is planned for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.cli.plan_judging import How, Judged, judge
from pilothouse.plan.plan_file import read_plan
from pilothouse.plan.rehearsal import Trials, job

LOADS = [0.5, 1.0, 1.2]  # of the rate that is planned for


class Defaults(msgspec.Struct, frozen=True):
    """Where the command line does not say."""

    policies: list[Any]
    loads: list[float]
    seeds: list[int]


class Planned:
    """A plan's file. The workload of each seed is read once."""

    def __init__(self, path: Path) -> None:
        self.path, self.plan = path, read_plan(path)
        self._judged: dict[int, Judged] = {}

    @property
    def defaults(self) -> Defaults:
        return Defaults([self.plan.policy], LOADS if self._at(1).question.asks.rate else [1.0], [1])

    @property
    def workload(self) -> Any:
        return self.plan.workload

    def subject(self, loads: Sequence[float], seeds: Sequence[int]) -> Trials:
        """Raises ConfigError for what cannot be simulated."""
        jobs = {}
        for seed in seeds:
            one = self._at(seed)
            for load in loads:
                jobs[load, seed] = job(one.plan, one.hardware, one.question.asks, one.source.workload, seed, load)
        return Trials(self._at(seeds[0]).plan, jobs)

    def _at(self, seed: int) -> Judged:
        if seed not in self._judged:
            how = How(simulate=False, seed=seed, late=True)
            self._judged[seed] = judge(self.plan, {}, self.path.parent, how, str(self.path))
        return self._judged[seed]
