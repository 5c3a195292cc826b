"""How many concurrent streams the load generator holds on one core before it measures itself.

    python -m benchmarks.client [--quick] [--json] [--tries N]

A light server in another process sends each stream a chunk of vLLM's shape every 40 ms, by its own clock, and keeps count of
the gaps that it really made. The client, with everything that `pilothouse bench` does, is pinned to one core, the server to
another, both before other work of the machine where that is allowed: what is asked is the client's limit, not how busy the
machine is. A level is held when the late sends' p99 stays below 5 ms and the client below 90 % of its core. A level that was
not held is tried again, the best try counts, and all tries are shown, with the time that the client was ready to run and the
system did not let it.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import uvloop

from benchmarks.report import finish, say, table
from pilothouse.bench.load import StageResult
from pilothouse.bench.run import Bench, Origin
from pilothouse.bench.settings import Api, Prompts, Settings
from pilothouse.live.clock import Clock
from pilothouse.workload.open_loop import OpenLoop, generate

PERIOD_US, TOKENS = 40_000, 100  # of one stream: four seconds
WANTED = 500
LEVELS = (WANTED, 1000, 1500, 2000, 2500)
TARGETS = {"streams": (">=", 500.0), "late_send_p99_ms": ("<=", 5.0), "itl_ratio": ("<=", 1.02)}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: dict[str, object] | str) -> bytes:
    text = b"data: %b\n\n" % (data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))).encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


TOKEN = chunk({"id": "cmpl-1f6de0ac1f6de0ac", "object": "text_completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "text": " word", "logprobs": None, "finish_reason": None, "stop_reason": None}]})  # fmt: skip


class Streams(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, server: "Server") -> None:
        self.server, self.data, self.left, self.last_us = server, b"", 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.left = -1

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if not found or len(body) < size:
            return
        self.data = b""
        if head.startswith(b"GET"):
            self.transport.write(self.server.said(head.split(b" ")[1]))
            return
        asked = json.loads(body)
        self.left = asked["max_tokens"]
        self.usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": self.left,
                      "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip
        self.last_us = 0
        self.transport.write(STREAM)
        self.server.begin(self)

    def send(self, now_us: int) -> bool:
        """The next chunk; whether there is another one."""
        if self.left <= 0:
            return False
        self.left -= 1
        if self.last_us:
            self.server.gaps += 1
            self.server.total_us += now_us - self.last_us
        self.last_us = now_us
        self.transport.write(TOKEN)
        if not self.left:
            self.transport.write(chunk({"choices": [], "usage": self.usage}) + chunk("[DONE]") + b"0\r\n\r\n")
        return self.left > 0


class Server:
    """A wheel with a slot for each millisecond of a period; a stream stays in its slot."""

    def __init__(self) -> None:
        self.clock, self.gaps, self.total_us = Clock(), 0, 0
        self.wheel: list[list[Streams]] = [[] for _ in range(PERIOD_US // 1000)]
        self.done = self.clock.now_us() // 1000

    def begin(self, stream: Streams) -> None:
        self.wheel[(self.done + 2) % len(self.wheel)].append(stream)

    def said(self, path: bytes) -> bytes:
        body: dict[str, object] = {"gaps": self.gaps, "mean_us": self.total_us / max(1, self.gaps)}
        if path == b"/v1/models":
            body = {"data": [{"id": "m"}]}
        data = json.dumps(body).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)

    async def run(self, report: int) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Streams(self), "127.0.0.1", 0, backlog=4096)
        os.write(report, b"%d\n" % server.sockets[0].getsockname()[1])
        while True:
            now = self.clock.now_us() // 1000
            while self.done < now:
                self.done += 1
                slot = self.done % len(self.wheel)
                if self.wheel[slot]:
                    self.wheel[slot] = [stream for stream in self.wheel[slot] if stream.send(self.clock.now_us())]
            await asyncio.sleep(0.001)


async def measure(url: str, streams: int, seconds: float) -> StageResult:
    """One level: arrivals evenly spaced, so that after four seconds that many streams are open."""
    rate = streams / (TOKENS * PERIOD_US / 1e6)
    spec = OpenLoop(rate=rate, seconds=seconds, prompt_tokens=(512, 512), output_tokens=(TOKENS, TOKENS),
                    prefixes=8, prefix_tokens=256)  # fmt: skip
    found: list[StageResult] = []
    settings = Settings(url=url, model="m", api=Api.COMPLETIONS, prompts=Prompts.TOKENS)
    bench = Bench(generate(spec, streams, 1.0), settings, Origin("client", 1.0, 1), lambda load, stages: None)
    bench.heard = found.append
    await bench.run()
    return found[0]


def first(process: int, cores: set[int]) -> None:
    """On these cores; before others, if we may."""
    os.sched_setaffinity(process, cores)
    try:
        os.sched_setscheduler(process, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pass


def as_before(cores: list[int]) -> None:
    """Like everybody else again."""
    os.sched_setaffinity(0, cores)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def waited_s() -> float:
    """For how long this process was ready to run and did not; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def one(streams: int, seconds: float) -> dict[str, float]:
    """A fresh server for each try, on the last core; the client on the first."""
    cores = sorted(os.sched_getaffinity(0))
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.client", "--serve"], stdout=subprocess.PIPE)
    try:
        first(child.pid, {cores[-1]})
        first(0, {cores[0]})
        assert child.stdout is not None
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        waited = waited_s()
        result = uvloop.run(measure(url, streams, seconds))
        waited = waited_s() - waited
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/pacing", timeout=10) as answer:
            pacing = json.load(answer)
    finally:
        child.terminate()
        child.wait()
        as_before(cores)
    gaps = result.gaps[""]
    ratio = gaps.total_us / gaps.count / pacing["mean_us"]
    failed = sum(outcome.refused for outcome in result.outcomes)
    client = result.client
    figures = {
        "streams": client.in_flight_max, "late_p99_ms": client.late_p99_us / 1000, "lag_p99_ms": client.lag_p99_us / 1000,
        "cpu_ratio": client.cpu_ratio, "itl_ms": gaps.total_us / gaps.count / 1000, "itl_ratio": max(ratio, 1 / ratio),
        "gaps": gaps.count, "failed": failed, "server_itl_ms": pacing["mean_us"] / 1000, "waited_s": waited,
    }  # fmt: skip
    figures["held"] = float(figures["late_p99_ms"] < 5 and client.cpu_ratio < 0.9 and not failed)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the wanted level only, shorter")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tries", type=int, default=4, help="of each level")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        uvloop.run(Server().run(sys.stdout.fileno()))
        return
    rows, best = [], {}
    for level in LEVELS[:1] if args.quick else LEVELS:
        tries = []
        for _ in range(args.tries):
            tries.append(one(level, 6.0 if args.quick else 10.0))
            f = tries[-1]
            rows.append([
                str(level), f"{f['streams']:.0f}", f"{f['late_p99_ms']:.2f}", f"{f['lag_p99_ms']:.2f}", f"{f['cpu_ratio']:.0%}",
                f"{f['server_itl_ms']:.3f}", f"{f['itl_ms']:.3f}", f"{f['gaps']:.0f}", f"{f['failed']:.0f}",
                f"{f['waited_s']:.2f}", "yes" if f["held"] else "no",
            ])  # fmt: skip
            say(f"  {level} streams: {'held' if f['held'] else 'not held'}, late p99 {f['late_p99_ms']:.2f} ms")
            if f["held"]:
                break
        best[level] = min(tries, key=lambda f: (-f["held"], f["late_p99_ms"]))
        if not best[level]["held"]:
            break
    table("the client on one core", ["level", "in flight", "late p99 ms", "lag p99 ms", "CPU", "server's gap ms",
          "measured ITL ms", "gaps", "failed", "waited s", "held"], rows)  # fmt: skip
    figures = {
        "streams": max((f["streams"] for f in best.values() if f["held"]), default=0),
        "late_send_p99_ms": best[WANTED]["late_p99_ms"],
        "itl_ratio": best[WANTED]["itl_ratio"],
        "cpu_ratio": best[WANTED]["cpu_ratio"],
    }
    finish(figures, TARGETS, args.json)


if __name__ == "__main__":
    main()
