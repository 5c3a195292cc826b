"""The seam between a front door and the dispatcher, wherever that runs: in this process or in the picker's."""

from collections.abc import Callable
from typing import Protocol

from pilothouse.core.commands import AnyCommand
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished, FirstToken, PrefillDone

Answer = Callable[[AnyCommand], None]


class Steering(Protocol):
    """Reports what happens to a request and hears what to do with it.

    `arrive` is answered by `Route` or `Reject`, now or later; a `Failed` with `sent` false is answered once more.
    Each request ends with exactly one of: `Reject` heard, `Finished`, `Cancelled`, `Failed` with `sent` true.
    After that its `answer` is never called again. `at_us` of every event is stamped by the caller from `live.clock`.
    """

    def arrive(self, arrived: Arrived, answer: Answer) -> None: ...

    def tell(self, event: PrefillDone | FirstToken | Finished | Failed | Cancelled) -> None: ...
