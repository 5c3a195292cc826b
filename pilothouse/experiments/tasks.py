"""What there is to run, and what came of it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from pilothouse.config.scenario_load import policy_named
from pilothouse.workload.outcomes import Run

STOPPED = "stopped before its end"


class Task(msgspec.Struct, frozen=True):
    """One run. `scenario` is the place of its scenario in the list that goes with the tasks."""

    policy: Any  # a name, a profile, or one spelled out as in YAML
    load: float
    seed: int
    scenario: int = 0

    @property
    def title(self) -> str:
        """As people know it, in messages and beside bars."""
        return f"{policy_named(self.policy).name}, load x {self.load:g}, seed {self.seed}"


class Subject(Protocol):
    """What can be simulated and is no scenario. Goes to other processes."""

    def run(self, policy: Any, load: float, seed: int, progress: Callable[[float], None]) -> Run: ...


class Ended(msgspec.Struct, frozen=True):
    """One of the two is there: a run, or why there is none."""

    task: Task
    run: Run | None = None
    error: str = ""


class Listener(Protocol):
    """Who wants to know how it goes. Runs are known by their place in the list of tasks."""

    def started(self, place: int) -> None: ...

    def progressed(self, place: int, share: float) -> None: ...

    def ended(self, place: int, ended: Ended) -> None: ...


class Deaf:
    """Nobody wants to know."""

    def started(self, place: int) -> None:
        pass

    def progressed(self, place: int, share: float) -> None:
        pass

    def ended(self, place: int, ended: Ended) -> None:
        pass


def tasks_of(policies: Sequence[object], loads: Sequence[float], seeds: Sequence[int]) -> list[Task]:
    """All of them, in the order of tables: by policy, then load, then seed."""
    return [Task(policy, load, seed) for policy in policies for load in loads for seed in seeds]
