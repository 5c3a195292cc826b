"""Many runs: the same results on any number of processes; failures are named and cost nobody else anything."""

import multiprocessing
import os
from typing import Any

import pytest

from pilothouse.build import simulate
from pilothouse.config.scenario_load import Ready, scenario_from_data
from pilothouse.experiments.pool import run_all
from pilothouse.experiments.tasks import STOPPED, Deaf, Ended, Task, tasks_of

READY = scenario_from_data(
    {
        "pools": [{"name": "a", "replicas": 2, "model": "qwen3-8b", "gpu": "h100"}],
        "workload": {"kind": "open_loop", "rate": 10, "duration": "5s"},
    }
)


class Deadly:
    """Whoever is sent this dies of it, as by a lack of memory."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


class Notes(Deaf):
    """Remembers what was heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def started(self, place: int) -> None:
        self.heard.append(("started", place))

    def ended(self, place: int, ended: Ended) -> None:
        self.heard.append(("ended", place))


def test_tasks_come_in_the_order_of_tables() -> None:
    tasks = tasks_of(["a", "b"], [1, 2], [3, 4])
    assert [(t.policy, t.load, t.seed) for t in tasks] == [(p, x, s) for p in "ab" for x in (1, 2) for s in (3, 4)]


def test_two_processes_give_what_one_gives_in_the_order_of_the_tasks() -> None:
    tasks = tasks_of(["cache_and_load", "kube_service"], [0.5, 2], [1])
    notes = Notes()
    one, two = run_all([READY], tasks, 1), run_all([READY], tasks, 2, notes)
    assert one == two and [ended.task for ended in two] == tasks and all(ended.run for ended in two)
    assert sorted(notes.heard) == sorted((word, place) for word in ("started", "ended") for place in range(4))
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_named_and_costs_only_its_run() -> None:
    tasks = [Task(Deadly(), 9.0, 1), *tasks_of(["random", "round_robin"], [0.5], [1])]
    dead, *others = run_all([READY], tasks, 2)
    assert dead.run is None and dead.error == "its process ended with exit status 7" and dead.task is tasks[0]
    assert all(ended.run for ended in others)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_says_what_and_where(jobs: int) -> None:
    bad, good = run_all([READY], [Task("no such policy", 1, 1), Task("random", 1, 1)], jobs)
    assert bad.run is None and "unknown policy 'no such policy'" in bad.error and "scenario_load.py" in bad.error
    assert good.run is not None


class Interrupted(Deaf):
    """Ctrl-C as soon as anything is under way."""

    def progressed(self, place: int, share: float) -> None:
        raise KeyboardInterrupt

    def ended(self, place: int, ended: Ended) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_stops_all_and_loses_nothing_that_was_finished(jobs: int) -> None:
    tasks = tasks_of(["random"], [0.5, 1, 2], [1])
    ended = run_all([READY], tasks, jobs, Interrupted())
    assert len(ended) == 3 and sum(part.error == STOPPED for part in ended) >= 1
    assert all(part.run or part.error == STOPPED for part in ended)
    assert not multiprocessing.active_children()


def test_no_tasks_no_results() -> None:
    assert run_all([READY], [], 4) == []


def test_progress_rises_and_ends_within_the_run() -> None:
    heard: list[float] = []
    simulate(READY.scenario, READY.recipe, "random", 4.0, 1, heard.append)
    assert heard == sorted(heard) and all(0 <= share <= 1 for share in heard)


def test_a_scenario_of_another_place_is_the_one_that_runs() -> None:
    other = Ready(
        scenario_from_data(
            {
                "name": "other",
                "pools": [{"name": "a", "model": "qwen3-8b", "gpu": "h100"}],
                "workload": {"kind": "open_loop", "rate": 2, "duration": "5s"},
            }
        ).scenario,
        READY.recipe,
    )
    first, second = run_all([READY, other], [Task("random", 1, 1), Task("random", 1, 1, 1)], 1)
    assert first.run is not None and second.run is not None
    assert (first.run.scenario, second.run.scenario) == ("scenario", "other")
