"""The process that simulates: tasks in, progress and runs out, until the pipe closes."""

import gc
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import msgspec

from pilothouse.build import simulate
from pilothouse.config.scenario_load import Ready
from pilothouse.experiments.tasks import Ended, Subject, Task
from pilothouse.plugins import load_plugins
from pilothouse.workload.outcomes import Run

GARBAGE_OBJECTS = 50_000  # made before any are looked through: little of a simulation is in a circle; saves a sixth
STEP = 0.01  # of a run, between two words on its progress


class Progressed(msgspec.Struct, frozen=True, tag=True):
    share: float


class Over(msgspec.Struct, frozen=True, tag=True):
    run: Run | None
    error: str


Said = Progressed | Over


def work(pipe: Connection, scenarios: Sequence[Ready | Subject]) -> None:
    """The parent stops us by a signal of its own, so Ctrl-C, which goes to everybody at the terminal, is its business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load_plugins()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)

    def tell(said: Said) -> None:
        pipe.send_bytes(msgspec.msgpack.encode(said))

    try:
        while True:
            task: Task = pipe.recv()
            ended = run_one(task, scenarios, lambda share: tell(Progressed(share)))
            tell(Over(ended.run, ended.error))
    except (EOFError, BrokenPipeError):  # nobody is there any more
        pass


def run_one(task: Task, scenarios: Sequence[Ready | Subject], heard: Callable[[float], None]) -> Ended:
    """A run that fails is told, with what and where; the others go on."""
    subject, told = scenarios[task.scenario], 0.0

    def progress(share: float) -> None:
        nonlocal told
        if share >= told + STEP:
            told = share
            heard(share)

    try:
        if isinstance(subject, Ready):
            return Ended(task, simulate(subject.scenario, subject.recipe, task.policy, task.load, task.seed, progress))
        return Ended(task, subject.run(task.policy, task.load, task.seed, progress))
    except BrokenPipeError:  # of `heard`
        raise
    except Exception as error:  # noqa: BLE001 - one run's failure must not cost the others
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Ended(task, None, f"{what} ({frame.name}, line {frame.lineno} of {frame.filename.rpartition('/')[2]})")
