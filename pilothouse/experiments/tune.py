"""Searches the numbers of a policy on training seeds, and tells on held-back seeds whether what was found is better.

A candidate is always compared with the policy as it is on the same seeds, so that both meet the same arrivals, lengths and
luck. The best of many candidates looks better than it is on the seeds it was chosen by; on seeds that nobody looked at
it does not. They are looked at once, at the end, for one candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import msgspec

from pilothouse.config.scenario_load import Ready
from pilothouse.core.errors import PilothouseError
from pilothouse.core.random_stream import stream
from pilothouse.core.selection import Profile
from pilothouse.experiments.parameters import Point, Space
from pilothouse.experiments.pool import run_all
from pilothouse.experiments.search import Found, Look, Stopped, mean_or_loss, search
from pilothouse.experiments.tasks import STOPPED, Ended, Listener, Task
from pilothouse.report.estimates import Estimate, estimate
from pilothouse.report.metrics import METRICS, Metric
from pilothouse.workload.outcomes import Run, Summary

GAIN_MIN = 0.01  # less is not worth settings of one's own, even where it is certain
SEEDS_APART = 1000  # between the seeds of two searches
OBJECTIVES = {"ttft": "ttft_mean", "e2e": "e2e_mean", "itl": "itl_mean", "throughput": "output"}  # beside METRICS' own


class Settings(msgspec.Struct, frozen=True):
    """How much is looked at."""

    metric: Metric
    seed: int = 1
    seeds_train: int = 4
    seeds_held_back: int = 6
    evaluations: int = 120  # candidates x seeds
    jobs: int | None = None

    @property
    def training(self) -> list[int]:
        first = SEEDS_APART * self.seed
        return list(range(first, first + self.seeds_train))

    @property
    def held_back(self) -> list[int]:
        first = SEEDS_APART * self.seed + self.seeds_train
        return list(range(first, first + self.seeds_held_back))


class Heard(Listener, Protocol):
    """Who wants to know how it goes."""

    def begins(self, what: str, tasks: Sequence[Task]) -> None:
        """So many runs are to come."""

    def searched(self, found: Found) -> None:
        """A round is over."""


@dataclass(slots=True)
class Tuned:
    """What came of it."""

    found: Found
    policy: Profile | None  # the best one; None = nothing was better than the start
    training: float = 0.0  # gain on the training seeds, too good by selection
    held_back: Estimate | None = None  # gain on the held-back seeds; None: they were not looked at
    before: list[Run] = field(default_factory=list)  # on the held-back seeds
    after: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def is_better(self) -> bool:
        """Certainly, and by enough to matter."""
        return self.held_back is not None and self.held_back.low > 0 and self.held_back.mean >= GAIN_MIN


def metric_named(name: str) -> Metric | None:
    return METRICS.get(OBJECTIVES.get(name, name))


def value_of(run: Run, metric: Metric) -> float:
    """Mean over the stages. A policy must not win by refusing: a time counts as if those not served had taken longer."""
    return sum(_value(stage.summary, metric) for stage in run.stages) / len(run.stages)


def _value(summary: Summary, metric: Metric) -> float:
    value, served = metric.of(summary), summary.requests - summary.refused
    if metric.better == "high" or summary.refused == 0:
        return value
    return value * summary.requests / served if served else inf


def gain(before: float, after: float, metric: Metric) -> float:
    """By how much it is better, as a share of the mean of both: 0 where nothing changed, never beyond 2."""
    if before == after:
        return 0.0
    if inf in (before, after):
        better = after == inf if metric.better == "high" else before == inf
        return 2.0 if better else -2.0
    share = 2 * (after - before) / (abs(after) + abs(before))
    return share if metric.better == "high" else -share


def change(gained: float, metric: Metric) -> float:
    """A gain as people say it: the change of the figure, as a share of what it was before."""
    gained = min(1.99, max(-1.99, gained))  # twice the mean is all there is: from nothing, or to nothing
    share = (2 + gained) / (2 - gained)
    return share - 1 if metric.better == "high" else 1 / share - 1


def tune(ready: Ready, space: Space, settings: Settings, heard: Heard) -> Tuned:
    """Ctrl-C ends the search; what was found until then is told, and not confirmed."""
    runner = _Runner(ready, settings, heard)
    start = space.start
    try:
        runner.measure("the policy as it is, on training seeds", [space.base], settings.training)
    except Stopped:
        return Tuned(Found(stopped=True), None, failures=runner.failures)
    if runner.failures:
        raise PilothouseError(f"policy {space.base.name} cannot be simulated as it is: {runner.failures[0]}")

    def judge(looks: Sequence[Look]) -> Sequence[float]:
        policies = [space.policy(point) for point, _ in looks]
        return runner.gains(space.base, policies, [settings.training[place] for _, place in looks])

    def allowed(point: Point) -> bool:
        return space.policy(point) is not None

    luck = stream(settings.seed, "tune")
    found = search(start, judge, settings.seeds_train, settings.evaluations, luck, allowed, heard.searched)
    best = space.policy(found.best) if found.best is not None else None
    tuned = Tuned(found, best, found.gain, failures=runner.failures)
    if best is None or found.stopped:
        return tuned
    try:
        runner.measure("both on held-back seeds", [space.base, best], settings.held_back)
    except Stopped:
        found.stopped = True
        return tuned
    tuned.before, tuned.after = (runner.runs_of(policy, settings.held_back) for policy in (space.base, best))
    tuned.held_back = estimate([runner.gain(space.base, best, seed) for seed in settings.held_back])
    return tuned


class _Runner:
    """Runs each policy on each seed under each load of the scenario, once."""

    def __init__(self, ready: Ready, settings: Settings, heard: Heard) -> None:
        self._ready, self._settings, self._heard = ready, settings, heard
        self._done: dict[tuple[bytes, int, float], Run | None] = {}
        self.failures: list[str] = []

    def measure(self, what: str, policies: Sequence[Profile], seeds: Sequence[int]) -> None:
        self._run(what, [(policy, seed) for policy in policies for seed in seeds])

    def gains(self, base: Profile, policies: Sequence[Profile | None], seeds: Sequence[int]) -> list[float]:
        pairs = list(zip(policies, seeds, strict=True))
        self._run("candidates on training seeds", [(policy, seed) for policy, seed in pairs if policy is not None])
        return [-inf if policy is None else self.gain(base, policy, seed) for policy, seed in pairs]

    def gain(self, base: Profile, policy: Profile, seed: int) -> float:
        gains, metric = [], self._settings.metric
        for load in self._ready.scenario.loads:
            before, after = self._done[_key(base, seed, load)], self._done[_key(policy, seed, load)]
            if before is None or after is None:
                return -inf
            gains.append(gain(value_of(before, metric), value_of(after, metric), metric))
        return mean_or_loss(gains)

    def runs_of(self, policy: Profile, seeds: Sequence[int]) -> list[Run]:
        found = [self._done[_key(policy, seed, load)] for load in self._ready.scenario.loads for seed in seeds]
        return [run for run in found if run is not None]

    def _run(self, what: str, pairs: Sequence[tuple[Profile, int]]) -> None:
        wanted = {
            _key(policy, seed, load): Task(policy, load, seed)
            for policy, seed in pairs
            for load in self._ready.scenario.loads
        }
        tasks = {key: task for key, task in wanted.items() if key not in self._done}
        if not tasks:
            return
        self._heard.begins(what, list(tasks.values()))
        ended = run_all([self._ready], list(tasks.values()), self._settings.jobs, self._heard)
        for key, part in zip(tasks, ended, strict=True):
            if part.error != STOPPED:
                self._done[key] = part.run
                self._note(part)
        if any(part.error == STOPPED for part in ended):
            raise Stopped

    def _note(self, part: Ended) -> None:
        if part.error and part.error not in self.failures:
            self.failures.append(part.error)


def _key(policy: Profile, seed: int, load: float) -> tuple[bytes, int, float]:
    return msgspec.msgpack.encode(policy), seed, load
