"""Eight emulated engines on one core, a hundred streams each: do tokens come when the simulated steps end?

    python -m benchmarks.emulator [--quick] [--json]

The engines run in one process bound to one core, the client in another bound to another core. The client counts what
arrives and when, with as little work as that takes. `itl_ratio` is the mean gap between tokens at the client over the
mean length of the simulated decode steps: 1 means that the emulator keeps up. A step is late if it is ended more than
10 ms after its time. Most of a token's cost is the kernel's (one send for each stream); engines whose steps end together
wait for one another, and `core_waited_ratio` says how long the emulator waited for other programs on its core. Emulated.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import process_time, thread_time
from urllib.request import urlopen

import uvloop

from benchmarks.report import finish, say, table
from pilothouse.emulate.server import emulators
from pilothouse.emulate.settings import Wanted, settle
from pilothouse.live.clock import Clock

ENGINES, STREAMS = 8, 100
PROMPT_TOKENS = 512
BUSY = 0.1  # share of the time that the emulator waited for its core, worth saying
TARGETS = {
    "itl_ratio": ("<=", 1.05),
    "itl_ratio_low": (">=", 0.95),
    "complete_ratio": (">=", 1.0),
}


def serve(told: Connection, core: int, cache: str) -> None:
    """The engines' process."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    uvloop.run(_serve(told, cache))


async def _serve(told: Connection, cache: str) -> None:
    settings = settle(Wanted(model="qwen3-32b", gpu="h100", tp=2, served_name="m"))
    async with emulators(settings, ENGINES, cache=Path(cache)) as running:
        told.send([each.port for each in running])
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(told.fileno(), over.set)
        used_s, waited_s = process_time(), core_waited_s()
        await over.wait()
        loop.remove_reader(told.fileno())
        told.recv()
        told.send((process_time() - used_s, core_waited_s() - waited_s, [each.status() for each in running]))


def core_waited_s() -> float:
    """How long the main thread was ready to run and did not; 0 where the kernel does not tell."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@dataclass(slots=True, eq=False)
class Stream(asyncio.Protocol):
    """One request and what came of it."""

    request: bytes
    started_us: int = 0
    first_us: int = 0
    last_us: int = 0
    tokens: int = 0
    done: bool = False
    over: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _tail: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.started_us = Clock().now_us()
        transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        tokens = data.count(b'"text":')
        if tokens:
            self.last_us = Clock().now_us()
            self.first_us = self.first_us or self.last_us
            self.tokens += tokens
        if b"[DONE]" in self._tail + data:
            self.done = True
            self._end()
        self._tail = data[-8:]

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def load(ports: list[int], output_tokens: int) -> list[Stream]:
    """All streams, begun within a second."""
    loop, streams, transports = asyncio.get_running_loop(), [], []
    for i in range(STREAMS):
        for engine, port in enumerate(ports):
            prompt = [(i * 31 + engine * 7 + j) % 2000 for j in range(PROMPT_TOKENS)]
            body = json.dumps(
                {"model": "m", "prompt": prompt, "max_tokens": output_tokens, "ignore_eos": True, "stream": True}
            ).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            transport, stream = await loop.create_connection(
                lambda request=head + body: Stream(request), "127.0.0.1", port
            )
            streams.append(stream)
            transports.append(transport)
        await asyncio.sleep(1 / STREAMS)
    await asyncio.gather(*(stream.over for stream in streams))
    for transport in transports:
        transport.close()
    return streams


def scraped(port: int, name: str) -> float:
    """One value of an engine's metrics."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="200 tokens a stream instead of 800")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = (cores[0], cores[1]) if len(cores) > 1 else (-1, -1)
    if theirs >= 0:
        os.sched_setaffinity(0, {ours})
    mine, his = multiprocessing.get_context("spawn").Pipe()
    with TemporaryDirectory() as cache:
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(his, theirs, cache))
        server.start()
        ports = mine.recv()
        say(f"{ENGINES} emulated engines on core {theirs}, {ENGINES * STREAMS} streams from core {ours}")
        started_us, used_s = Clock().now_us(), thread_time()
        streams = uvloop.run(load(ports, 200 if chosen.quick else 800))
        wall_s, client_s = (Clock().now_us() - started_us) / 1e6, thread_time() - used_s
        gaps = [scraped(port, "vllm:inter_token_latency_seconds_sum") for port in ports]
        counts = [scraped(port, "vllm:inter_token_latency_seconds_count") for port in ports]
        mine.send("over")
        server_s, waited_s, statuses = mine.recv()
        server.join()
    report(streams, wall_s, client_s, server_s, waited_s, statuses, sum(gaps) / sum(counts), chosen.quick, chosen.json)


def report(
    streams: list[Stream], wall_s: float, client_s: float, server_s: float, waited_s: float, statuses: list[dict[str, float]],
    simulated_s: float, quick: bool, as_json: bool,
) -> None:  # fmt: skip
    wanted = 200 if quick else 800
    whole = [s for s in streams if s.done and s.tokens == wanted]
    measured_s = mean((s.last_us - s.first_us) / (s.tokens - 1) for s in whole) / 1e6 if whole else float("nan")
    steps = sum(status["steps"] for status in statuses)
    figures = {
        "streams": len(streams),
        "complete_ratio": len(whole) / len(streams),
        "tokens_per_s": sum(s.tokens for s in streams) / wall_s,
        "itl_ms_simulated": simulated_s * 1000,
        "itl_ms_at_client": measured_s * 1000,
        "itl_ratio": measured_s / simulated_s,
        "itl_ratio_low": measured_s / simulated_s,
        "steps": steps,
        "late_steps_ratio": sum(status["steps_late"] for status in statuses) / steps,
        "lateness_ms_mean": sum(status["lateness_ms_mean"] * status["steps"] for status in statuses) / steps,
        "lateness_ms_max": max(status["lateness_ms_max"] for status in statuses),
        "core_waited_ratio": waited_s / wall_s,
        "emulator_cpu_ratio": server_s / wall_s,
        "emulator_cpu_us_per_token": server_s * 1e6 / sum(s.tokens for s in streams),
        "client_cpu_ratio": client_s / wall_s,
    }
    rows = [[name, f"{value:.6g}"] for name, value in figures.items() if name != "itl_ratio_low"]
    table("eight emulated engines on one core (Emulated; times measured at the client)", ["figure", "value"], rows)
    if figures["core_waited_ratio"] > BUSY:
        say(f"  the machine was busy: other programs had the core for {figures['core_waited_ratio']:.0%} of the time")
    finish(figures, TARGETS, as_json)


if __name__ == "__main__":
    main()
