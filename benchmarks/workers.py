"""What it costs that all workers share one picker: the way to it and back, and how soon load is known to everybody.

    python -m benchmarks.workers [--quick] [--json]

A picker in a process of its own, eight endpoints, two workers' ends of the channel in this one. Round trip: from
`Arrived` to its `Route`, one at a time and 64 at once. Known: worker A has just been answered; worker B then asks, and
must see A's load in its decision. `known_ms` is A's question to B's answer, an upper bound for the age of what B saw.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import uvloop

from benchmarks.report import finish, say, table
from pilothouse.config.load import from_data
from pilothouse.core.commands import AnyCommand, Route
from pilothouse.core.events import Arrived, EndpointSeen, Finished
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.directory import Directory
from pilothouse.serving.picker import Picker
from pilothouse.serving.remote import RemoteSteering

ENDPOINTS, BLOCKS, BLOCK_SIZE = 8, 128, 16
CONFIG = {"pools": [{"endpoints": [{"url": "http://127.0.0.1:1"}]}]}


def picker_process(path: str, ready: Event) -> None:
    """The picker's end: no engines behind it, decisions only."""

    async def main() -> None:
        clock = Clock()
        picker = Picker(from_data(CONFIG), clock, None)
        for i in range(ENDPOINTS):
            picker.driver.post(EndpointSeen(clock.now_us(), EndpointId(f"e{i}"), f"http://e{i}", "p", ["m"]))
        async with await asyncio.get_running_loop().create_unix_server(picker.serve_worker, path):
            ready.set()
            await asyncio.Event().wait()

    uvloop.run(main())


class Asker:
    """One worker's end; asks and finishes, and times it."""

    def __init__(self, name: str, path: str) -> None:
        self.clock, self.name, self.count = Clock(), name, 0
        self.steering = RemoteSteering(path, Directory(1 << 20, None, {}), self.clock, 1_000_000)  # type: ignore[arg-type]

    async def ask(self, keys: int) -> tuple[float, Route]:
        """(milliseconds, the route). The request stays in flight."""
        self.count += 1
        answered: asyncio.Future[AnyCommand] = asyncio.get_running_loop().create_future()
        blocks = [BlockKey(keys * BLOCKS + i) for i in range(BLOCKS)]
        request = RequestId(f"{self.name}{self.count}")
        arrived = Arrived(self.clock.now_us(), request, "m", BLOCKS * BLOCK_SIZE + 9, blocks, BLOCK_SIZE)
        started = time.perf_counter()
        self.steering.arrive(arrived, answered.set_result)
        route = await answered
        assert isinstance(route, Route), route
        return (time.perf_counter() - started) * 1000, route

    def finish(self, route: Route) -> None:
        self.steering.tell(Finished(Micros(self.clock.now_us()), route.request))


async def measure(path: str, count: int) -> dict[str, float]:
    a, b = Asker("a", path), Asker("b", path)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(end.steering.run()) for end in (a, b)]
        for end in (a, b):
            await end.steering.informed.wait()
        figures = await rounds(a, b, count)
        for task in running:
            task.cancel()
    return figures


async def rounds(a: Asker, b: Asker, count: int) -> dict[str, float]:
    alone = []
    for i in range(count):
        ms, route = await a.ask(i % 50)
        alone.append(ms)
        a.finish(route)
    crowded: list[float] = []

    async def client(i: int) -> None:
        for j in range(count // 64):
            ms, route = await a.ask((i + j) % 50)
            crowded.append(ms)
            a.finish(route)

    started = time.perf_counter()
    await asyncio.gather(*(client(i) for i in range(64)))
    rate = len(crowded) / (time.perf_counter() - started)
    known, seen = [], 0
    for i in range(count // 4):  # new prompts of equal length: B must choose another endpoint than A did
        started = time.perf_counter()
        _, first = await a.ask(1000 + 2 * i)
        _, second = await b.ask(1001 + 2 * i)
        known.append((time.perf_counter() - started) * 1000)
        seen += first.endpoint != second.endpoint
        a.finish(first)
        b.finish(second)
    return {
        "round_trip_p50_ms": statistics.median(alone),
        "round_trip_p99_ms": statistics.quantiles(alone, n=100)[98],
        "round_trip_64_at_once_p50_ms": statistics.median(crowded),
        "round_trip_64_at_once_p99_ms": statistics.quantiles(crowded, n=100)[98],
        "decisions_per_s": rate,
        "known_ms_p99": statistics.quantiles(known, n=100)[98],
        "known_ratio": seen / len(known),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        path, ready = str(Path(directory) / "picker.sock"), context.Event()
        picker = context.Process(target=picker_process, args=(path, ready), daemon=True)
        picker.start()
        ready.wait(30)
        say("asking ...")
        figures = uvloop.run(measure(path, 800 if args.quick else 4000))
        picker.terminate()
        picker.join()
    table("one picker, two workers (prompts of 128 blocks, 8 endpoints)", ["figure", "value"],
          [[name, f"{value:.3f}"] for name, value in figures.items()])  # fmt: skip
    finish(figures, {"known_ms_p99": ("<=", 100.0), "known_ratio": (">=", 1.0)}, args.json)


if __name__ == "__main__":
    main()
