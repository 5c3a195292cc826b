"""An asyncio event loop on virtual time: when nothing is ready, its clock jumps to the next timer.

Time is whole microseconds, and timers of one moment fire in the order in which they were set, so a run is a function of
its inputs alone. No file descriptor is ever polled: connections are `network.py`'s, and work for a thread is done at
once, in no time. A loop on which nothing can happen any more says so instead of hanging.
"""

import asyncio
import selectors
from collections.abc import Callable
from heapq import heappush
from typing import Any

from rig.virtual.network import Network


class NothingLeft(RuntimeError):
    """Everybody waits and no timer is set: without virtual time this would be a test that hangs."""


class Alarm(asyncio.TimerHandle):
    """A timer that knows its place among those of its moment: a plain heap would not keep their order."""

    __slots__ = ("number",)

    def __init__(self, number: int, when: float, *rest: Any) -> None:
        super().__init__(when, *rest)
        self.number = number

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, Alarm)
        return (self.when(), self.number) < (other.when(), other.number)


class Jump(selectors.SelectSelector):
    """Where a loop would wait for so long, so much time has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("no callback is ready and no timer is set")
        self.now_us += max(0, round(timeout * 1e6))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 0."""

    def __init__(self) -> None:
        self._jump = Jump()
        self._alarms = 0
        super().__init__(self._jump)
        self.network = Network(self)

    @property
    def now_us(self) -> int:
        return self._jump.now_us

    def time(self) -> float:
        return self._jump.now_us / 1e6

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]
        self._alarms += 1
        alarm = Alarm(self._alarms, round(when * 1e6) / 1e6, callback, args, self, context)
        heappush(self._scheduled, alarm)  # type: ignore[attr-defined]
        alarm._scheduled = True  # type: ignore[attr-defined]
        return alarm

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as a thread would hand it on
            done.set_exception(error)
        return done

    # Connections

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return await self.network.connect(factory, (host, port))

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return self.network.listen(factory, (host, port))

    async def create_unix_connection(self, factory: Any, path: Any = None, **_: Any) -> Any:
        return await self.network.connect(factory, (str(path), 0))

    async def create_unix_server(self, factory: Any, path: Any = None, **_: Any) -> Any:
        return self.network.listen(factory, (str(path), 0))
