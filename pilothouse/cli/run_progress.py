"""How long runs go: bars that move on a terminal, one line per finished run anywhere else."""

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pilothouse.experiments.tasks import Ended, Task


class RunProgress:
    """Listens to `run_all`. The bar of all runs counts each by its load, which is about how long it takes."""

    def __init__(self, tasks: Sequence[Task], console: Console) -> None:
        self._tasks, self._console = tasks, console
        self._shares = [0.0] * len(tasks)
        self._finished = 0
        self._bars: dict[int, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._all = self._progress.add_task(self._said(), total=sum(task.load for task in tasks))

    def __enter__(self) -> "RunProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, place: int) -> None:
        if len(self._tasks) > 1:
            self._bars[place] = self._progress.add_task(f"  {self._tasks[place].title}", total=1.0)

    def progressed(self, place: int, share: float) -> None:
        self._shares[place] = share
        if place in self._bars:
            self._progress.update(self._bars[place], completed=share)
        done = sum(share * task.load for share, task in zip(self._shares, self._tasks, strict=True))
        self._progress.update(self._all, completed=done, description=self._said())

    def ended(self, place: int, ended: Ended) -> None:
        self._finished += 1
        self.progressed(place, 1.0)
        if place in self._bars:
            self._progress.remove_task(self._bars.pop(place))
        if not self._console.is_terminal and len(self._tasks) > 1:
            how = f"{ended.task.title}, failed" if ended.error else ended.task.title
            self._console.print(f"{self._said()}: {how}", markup=False, soft_wrap=True, highlight=False)

    def _said(self) -> str:
        return f"{self._finished} of {len(self._tasks)} runs" if len(self._tasks) > 1 else self._tasks[0].title
