"""Starts the bare front door for benchmarks/dataplane.py: real data plane, trivial steering, one engine URL.

python -m benchmarks.dataplane_starter PORT URL...
"""

import asyncio
import sys
from typing import Any

import uvloop

from pilothouse.core.commands import Route, Why
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished, FirstToken
from pilothouse.core.units import EndpointId
from pilothouse.live.clock import Clock
from pilothouse.live.steering import Answer
from pilothouse.serving.front import FrontDoor
from pilothouse.serving.record import Record
from pilothouse.serving.settings import FrontSettings

WHY = Why("round robin", [], [], 1)


class RoundRobin:
    """Each request to the next URL: the least that a steering can do."""

    def __init__(self, urls: list[str]) -> None:
        self._urls, self._next = urls, 0

    def arrive(self, arrived: Arrived, answer: Answer) -> None:
        self._next = (self._next + 1) % len(self._urls)
        answer(Route(arrived.request, EndpointId(f"engine-{self._next}"), self._urls[self._next], 1, 0, WHY))

    def tell(self, event: FirstToken | Finished | Failed | Cancelled) -> None:
        assert not isinstance(event, Failed), event


class OneModel:
    """The model of the canned server, which nobody describes."""

    def models(self) -> list[dict[str, Any]]:
        return [{"id": "m", "object": "model"}]

    def default_model(self) -> str | None:
        return "m"

    def tokens(self, model: str) -> None:
        return None

    def block_size(self, model: str) -> int:
        return 0


async def serve(port: int, urls: list[str]) -> None:
    """Serves until the process is ended."""
    records = 0

    def observe(record: Record) -> None:
        nonlocal records
        records += 1

    door = FrontDoor(FrontSettings(), steering=RoundRobin(urls), directory=OneModel(), clock=Clock(), observe=observe)
    await door.start("127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2:]))
