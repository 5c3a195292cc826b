"""Runs tasks on several processes, each started anew (`spawn`), so that nothing of this one is shared by accident.

A process that dies (out of memory, a bug in an extension) is named with the run it was at, and replaced. That is why this
is no `ProcessPoolExecutor`, which gives up all that is left when one of its processes dies.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import msgspec

from pilothouse.config.scenario_load import Ready
from pilothouse.experiments.tasks import STOPPED, Deaf, Ended, Listener, Subject, Task
from pilothouse.experiments.worker import Progressed, Said, run_one, work

STOP_S = 5.0  # a process that is told to end has as long


@dataclass(slots=True)
class Worker:
    """One process and the place of the task that it is at."""

    process: SpawnProcess
    pipe: Connection
    place: int = -1


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    scenarios: Sequence[Ready | Subject],
    tasks: Sequence[Task],
    jobs: int | None = None,
    listener: Listener | None = None,
) -> list[Ended]:
    """What came of each task, in the order of the tasks, whatever the number of processes.

    jobs   processes at once; default: one per core. With one, all happens in this process.
    Ctrl-C ends it early: what was not finished says so.
    """
    heard, jobs = listener or Deaf(), min(jobs or cores(), len(tasks))
    ended: dict[int, Ended] = {}
    try:
        if jobs <= 1:
            _run_here(scenarios, tasks, heard, ended)
        else:
            _Pool(scenarios, tasks, jobs, heard, ended).run()
    except KeyboardInterrupt:
        pass
    return [ended.get(place) or Ended(task, None, STOPPED) for place, task in enumerate(tasks)]


def _run_here(
    scenarios: Sequence[Ready | Subject], tasks: Sequence[Task], heard: Listener, ended: dict[int, Ended]
) -> None:
    for place, task in enumerate(tasks):
        heard.started(place)
        ended[place] = run_one(task, scenarios, lambda share, place=place: heard.progressed(place, share))  # type: ignore[misc]
        heard.ended(place, ended[place])


class _Pool:
    def __init__(
        self,
        scenarios: Sequence[Ready | Subject],
        tasks: Sequence[Task],
        jobs: int,
        heard: Listener,
        ended: dict[int, Ended],
    ) -> None:
        self._scenarios, self._tasks, self._heard, self._ended = list(scenarios), tasks, heard, ended
        self._context, self._decoder = get_context("spawn"), msgspec.msgpack.Decoder(Said)
        # The longest first: so the last ones to end are short ones.
        self._left = deque(sorted(range(len(tasks)), key=lambda place: -tasks[place].load))
        self._jobs = jobs
        self._workers: list[Worker] = []

    def run(self) -> None:
        try:
            for _ in range(self._jobs):
                self._give(self._start())
            while busy := [worker for worker in self._workers if worker.place >= 0]:
                ready = wait([worker.pipe for worker in busy])
                for worker in busy:
                    if worker.pipe in ready:
                        self._hear(worker)
        finally:
            self._stop()

    def _start(self) -> Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self._scenarios), daemon=True)
        process.start()
        theirs.close()  # ours alone is left: the pipe ends when the process does
        worker = Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _give(self, worker: Worker) -> None:
        """The next task; -1 if there is none."""
        worker.place = self._left.popleft() if self._left else -1
        if worker.place >= 0:
            worker.pipe.send(self._tasks[worker.place])
            self._heard.started(worker.place)

    def _hear(self, worker: Worker) -> None:
        try:
            said = self._decoder.decode(worker.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            self._bury(worker)
            return
        if isinstance(said, Progressed):
            self._heard.progressed(worker.place, said.share)
        else:
            self._end(worker.place, said.run, said.error)
            self._give(worker)

    def _bury(self, worker: Worker) -> None:
        worker.process.join(STOP_S)
        code = worker.process.exitcode
        why = f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
        memory = "; the system may have been out of memory" if code == -9 else ""
        self._workers.remove(worker)
        self._end(worker.place, None, f"its process ended {why}{memory}")
        if self._left:
            self._give(self._start())

    def _end(self, place: int, run: object, error: str) -> None:
        self._ended[place] = Ended(self._tasks[place], run, error)  # type: ignore[arg-type]
        self._heard.ended(place, self._ended[place])

    def _stop(self) -> None:
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(STOP_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
