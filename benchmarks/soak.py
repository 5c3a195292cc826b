"""Hours in minutes: mixed load on a real gateway and real replicas that are killed, hung and restarted all the time.

    python -m benchmarks.soak [--minutes 20] [--workers 2] [--replicas 3] [--seed 1] [--quick] [--json]

At the end nothing may be left of it: no request, no ledger entry, no connection, no task, no growing memory. Each request
ended exactly once by the client's account, the journal's and the log's; a client saw a failure only where bytes of the
answer had been sent; the journal replays without a difference, and does differ once it is tampered with.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean
from time import monotonic

import aiohttp
import msgspec

from pilothouse import build
from pilothouse.core.commands import Reject, Route
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished
from pilothouse.core.random_stream import stream
from pilothouse.journal.log import read, segments
from pilothouse.journal.replay import verify
from rig.clients import Answer, Client
from rig.engines import Engine, Rig, wait_until
from rig.gateways import Gateway, fleet
from rig.model import tiny_model

TARGETS: dict[str, tuple[str, float]] = {
    "requests": (">=", 100),
    "engine_faults": (">=", 1),
    "failed_before_a_byte": ("<=", 0),  # clients that got anything but a good answer, of whose answer nothing was sent
    "broken_connections": ("<=", 0),  # answers that did not end as HTTP demands, though the client stayed
    "missing_log_lines": ("<=", 0),
    "double_log_lines": ("<=", 0),
    "not_ended_once_in_journal": ("<=", 0),
    "outcomes_that_disagree": ("<=", 0),  # client and log
    "ledger_left": ("<=", 0),
    "requests_left": ("<=", 0),
    "open_files_growth": ("<=", 8),
    "tasks_growth": ("<=", 4),
    "rss_growth_mb": ("<=", 32),
    "loop_failures": ("<=", 0),
    "exit_status": ("<=", 0),
    "replay_differences": ("<=", 0),
    "replay_differences_if_an_event_changes": (">=", 1),
    "replay_differences_if_the_policy_changes": (">=", 1),
}
GROUPS, CONCURRENCY = 12, 10
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Asked:
    """One request by its client's account."""

    request: str
    kind: str  # unary, stream, leaver, slow
    answer: Answer | None = None  # None: it left
    ended: bool = False

    @property
    def outcome(self) -> str:
        """What the log should say."""
        if self.answer is None:
            return "left"
        if self.answer.is_good:
            return "finished"
        return "failed" if self.answer.status == 200 else "refused"


@dataclass
class Sample:
    """The gateway at one moment; sums over its processes."""

    at_s: float
    rss_mb: float
    open_files: int
    tasks: int
    in_flight: int


@dataclass
class Soak:
    """Everything that is known in the end."""

    options: argparse.Namespace
    asked: list[Asked] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)
    started_s: float = field(default_factory=monotonic)

    gateway: Gateway | None = None

    def knows(self, request: str) -> bool:
        """Whether the gateway has taken this request."""
        return self.gateway is not None and self.gateway.get(f"/explain/{request}")[0] == 200

    @property
    def passed_s(self) -> float:
        return monotonic() - self.started_s

    def say(self, text: str) -> None:
        print(f"{self.passed_s:7.1f} s  {text}", file=sys.stderr, flush=True)


async def soak(options: argparse.Namespace) -> Soak:
    """The whole run."""
    run = Soak(options)
    with Rig() as rig, tempfile.TemporaryDirectory(prefix="soak-") as directory:
        engines = [rig.start(tiny_model()) for _ in range(options.replicas)]
        await asyncio.to_thread(lambda: [engine.wait_ready() for engine in engines])
        limits = {"token_cache": "16MiB"}  # small, so that it is full before growth is measured
        config = fleet(*(e.url for e in engines), workers=options.workers, limits=limits)
        config["journal"] = {"directory": f"{directory}/journal", "segment": "512KiB"}
        with await asyncio.to_thread(lambda: Gateway.start(Path(directory), config)) as gateway:
            run.say(f"{len(engines)} engines, gateway {gateway.process.pid} at {gateway.url}")
            await until(lambda: gateway.states() == " ".join(["up"] * len(engines)))
            run.gateway = gateway
            await drive(run, rig, engines, gateway)
            await asyncio.to_thread(settle, run, gateway)
        compare(run, gateway)
        replay(run, Path(directory), gateway)
    return run


async def drive(run: Soak, rig: Rig, engines: list[Engine], gateway: Gateway) -> None:
    """Load, faults and samples for so many seconds; then waits for what is under way."""
    seconds, seed = run.options.seconds, run.options.seed
    async with Client(gateway.url) as client, slow_client(gateway.url) as slow:
        await load_one(run, client, slow, stream(seed, "warm"), lambda: len(run.asked) < CONCURRENCY)
        run.samples.append(sample(run, gateway))
        run.started_s = monotonic()
        async with asyncio.TaskGroup() as tasks:
            for i in range(CONCURRENCY):
                luck = stream(seed, f"client {i}")
                tasks.create_task(load_one(run, client, slow, luck, lambda: run.passed_s < seconds))
            tasks.create_task(hurt(run, rig, engines, stream(seed, "faults")))
            tasks.create_task(watch(run, gateway))


# Load


async def load_one(run: Soak, client: Client, slow: Client, luck: Random, more: Callable[[], bool]) -> None:
    """One client in a closed loop."""
    kinds, weights = ["unary", "stream", "leaver", "slow"], [40, 46, 10, 4]
    while more():
        asked = Asked(f"soak-{len(run.asked)}", luck.choices(kinds, weights)[0])
        run.asked.append(asked)
        group, words = luck.randrange(GROUPS), luck.randrange(5, 60)
        shared = " ".join(str(group * 7919 * i % 9973) for i in range(1, 80 + 20 * group))
        text = f"{group} {shared} " + " ".join(str(luck.randrange(9999)) for _ in range(words))
        headers = {"x-request-id": asked.request}
        if asked.kind == "unary":
            asked.answer = await client.ask(text, headers=headers, max_tokens=luck.randrange(1, 80))
        elif asked.kind == "stream":
            asked.answer = await client.ask(text, headers=headers, max_tokens=luck.randrange(8, 160), stream=True)
        elif asked.kind == "slow":
            asked.answer = await read_slowly(slow, text, headers, luck)
        else:
            await leave(run, client, text, headers, luck)
        asked.ended = True


async def leave(run: Soak, client: Client, text: str, headers: dict[str, str], luck: Random) -> None:
    """Hangs up in the middle: after some bytes of a stream, or while a unary answer is being computed."""
    if luck.random() < 0.3:
        task = asyncio.create_task(client.ask(text, headers=headers, max_tokens=2000))
        with suppress(TimeoutError):  # what the gateway has not seen yet cannot be in its accounts
            await until(lambda: task.done() or run.knows(headers["x-request-id"]))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return
    with suppress(aiohttp.ClientError, OSError, StopAsyncIteration):
        async with client.stream(text, headers=headers, max_tokens=2000) as answer:
            for _ in range(luck.randrange(1, 20)):
                await answer.more()


async def read_slowly(client: Client, text: str, headers: dict[str, str], luck: Random) -> Answer:
    """Takes a long stream with pauses, so that the gateway has to hold its engine back."""
    answer = Answer()
    try:
        async with client.stream(text, headers=headers, max_tokens=400, logprobs=True, top_logprobs=10) as taken:
            answer = taken.answer
            while await taken.more():
                await asyncio.sleep(luck.uniform(0, 0.01))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        answer.broke = f"{type(error).__name__}: {error}"
    return answer


def slow_client(url: str) -> Client:
    return Client(url, receive_buffer=8192)


# Faults


async def hurt(run: Soak, rig: Rig, engines: list[Engine], luck: Random) -> None:
    """One engine at a time is killed or hung, stays so for a while, and comes back.

    A request that two engines died of is refused on purpose, so the next fault waits until nobody is left of the last one.
    """
    slowest = 3.0 if run.options.quick else 8.0
    while True:
        await asyncio.sleep(luck.uniform(1.0, slowest))
        if run.passed_s > run.options.seconds - 2:
            return
        engine, fault = luck.choice(engines), luck.choices(["killed", "hung"], [70, 30])[0]
        run.faults[fault] += 1
        run.say(f"engine {engines.index(engine)} {fault}")
        met = [asked for asked in run.asked if not asked.ended]
        if fault == "hung":
            engine.suspend()
            await asyncio.sleep(luck.uniform(1.0, 4.0))
            engine.resume()
        else:
            await asyncio.to_thread(engine.kill)
            await asyncio.sleep(luck.uniform(0.0, 2.0))
            await asyncio.to_thread(rig.restart, engine)
            await asyncio.to_thread(engine.wait_ready)
        await until(lambda met=met: all(asked.ended for asked in met), 120)  # type: ignore[misc]


# What is left


async def watch(run: Soak, gateway: Gateway) -> None:
    """A sample now and then, and a line for who watches."""
    every_s, said_s = 1.0, 0.0
    while run.passed_s < run.options.seconds:
        await asyncio.sleep(every_s)
        run.samples.append(found := await asyncio.to_thread(sample, run, gateway))
        if run.passed_s - said_s > (5 if run.options.quick else 20):
            said_s = run.passed_s
            run.say(
                f"{len(run.asked)} requests, {found.in_flight} in flight, {found.rss_mb:.0f} MB, "
                f"{found.open_files} files, {found.tasks} tasks"
            )


def sample(run: Soak, gateway: Gateway) -> Sample:
    status = gateway.status()
    pids = [gateway.process.pid, *gateway.children()]
    rss = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE for pid in pids)
    files = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return Sample(run.passed_s, rss / 1e6, files, status["process"]["tasks"], status["requests_in_flight"])


def settle(run: Soak, gateway: Gateway) -> None:
    """After the last request: everything back to where it was, then a stop."""
    first = run.samples[0]
    wait_until(gateway.is_idle, 20)
    wait_until(lambda: sample(run, gateway).open_files <= first.open_files, 8)  # kept-alive connections go
    last, status, figures = sample(run, gateway), gateway.status(), run.figures
    figures["ledger_left"] = sum(abs(e["in_flight"]) + abs(e["prefill_tokens"]) for e in status["endpoints"])
    figures["requests_left"] = status["requests_in_flight"] + status["requests_waiting"]
    figures["open_files_growth"] = last.open_files - first.open_files
    figures["tasks_growth"] = last.tasks - first.tasks
    figures["loop_failures"] = sum(status["loop_failures"].values())
    run.say(f"loop failures: {status['loop_failures']}, feeds: {[e['kv_feed'] for e in status['endpoints']]}")
    third = [s.rss_mb for s in run.samples if 0.25 <= s.at_s / run.options.seconds <= 0.4]
    figures["rss_mb"] = last.rss_mb
    figures["rss_growth_mb"] = last.rss_mb - mean(third or [first.rss_mb])
    figures["exit_status"] = abs(gateway.stop())


def compare(run: Soak, gateway: Gateway) -> None:
    """Three accounts of the same requests: the clients', the log's, the journal's."""
    figures = run.figures
    lines: dict[str, list[str]] = {}
    logged = gateway.requests()
    for line in logged:
        lines.setdefault(line["request"].rpartition("~")[0], []).append(line["outcome"])
    for name in ("ttft_us", "e2e_us", "queue_us"):
        times = sorted(line[name] or 0 for line in logged if name in line)
        figures |= {f"{name[:-3]}_ms_p{p}": times[len(times) * p // 100] / 1e3 for p in (50, 99)}
    ends = Counter(journal_ends(gateway))
    outcomes = Counter(asked.outcome for asked in run.asked)
    figures |= {"requests": len(run.asked), "engine_faults": run.faults.total()}
    figures |= {f"clients_{outcome}": count for outcome, count in sorted(outcomes.items())}
    figures |= {f"engine_{fault}": count for fault, count in sorted(run.faults.items())}
    figures["retried"] = sum(a.answer is not None and a.answer.attempts > 1 for a in run.asked)
    answers = [asked.answer for asked in run.asked if asked.answer is not None]
    bad = [answer for answer in answers if not answer.is_good]
    for answer in bad[:20]:
        run.say(f"not good: {answer.status} {answer.error} {answer.broke} {len(answer.body)} bytes")
    figures["failed_before_a_byte"] = sum(not (a.is_stream and a.status == 200) for a in bad)
    figures["failed_after_a_byte"] = len(bad) - figures["failed_before_a_byte"]
    figures["broken_connections"] = sum(bool(a.broke) for a in bad)
    figures["cached_tokens"] = sum(a.cached for a in answers if a.is_good)
    figures["expected_cached_tokens"] = sum(a.expected for a in answers if a.is_good)
    figures["missing_log_lines"] = sum(asked.request not in lines for asked in run.asked)
    figures["double_log_lines"] = sum(len(found) > 1 for found in lines.values())
    figures["not_ended_once_in_journal"] = sum(ends[asked.request] != 1 for asked in run.asked)
    figures["outcomes_that_disagree"] = sum(not agrees(asked, lines.get(asked.request, [])) for asked in run.asked)
    run.figures = figures


def agrees(asked: Asked, logged: list[str]) -> bool:
    """A client that left may have been too late, or have met its engine's death first."""
    if asked.outcome == "left":
        return logged in (["cancelled"], ["finished"], ["failed"])
    return logged == [asked.outcome]


def journal_ends(gateway: Gateway) -> list[str]:
    """The request of each arrival that ended, once per end, and of each that did not, never."""
    ended: list[str] = []
    for entry in gateway.entries():
        event = entry.event
        if isinstance(event, Finished | Cancelled) or (isinstance(event, Failed) and event.sent):
            ended.append(event.request.rpartition("~")[0])
        ended += [c.request.rpartition("~")[0] for c in entry.commands if isinstance(c, Reject)]
    return ended


def replay(run: Soak, directory: Path, gateway: Gateway) -> None:
    """The journal must replay, and a tampered copy must not."""
    result = gateway.verified()
    run.figures |= {"journal_events": result.events, "journal_segments": result.segments}
    run.figures["replay_differences"] = result.differences
    if result.first is not None:
        run.say(f"first difference: {result.first}")
    event, policy = directory / "event", directory / "policy"
    tamper(gateway.journal, event, change_event=True)
    tamper(gateway.journal, policy, change_event=False)
    run.figures["replay_differences_if_an_event_changes"] = verify(event, build.replayed_dispatcher).differences
    run.figures["replay_differences_if_the_policy_changes"] = verify(policy, build.replayed_dispatcher).differences


def tamper(journal: Path, copy: Path, *, change_event: bool) -> None:
    """Copies a journal; one prompt has other blocks in the copy, or the header names another policy."""
    copy.mkdir()
    for path in segments(journal):
        segment = read(path)
        if segment is None:
            continue
        header = segment.header if change_event else msgspec.structs.replace(segment.header, policy="round_robin")
        with (copy / path.name).open("wb") as out:
            for frame in (msgspec.msgpack.encode(header), segment.snapshot):
                out.write(len(frame).to_bytes(4, "big") + frame)
            for entry in segment.entries:
                event = entry.event
                hit = any(isinstance(c, Route) and c.cached_tokens for c in entry.commands)
                if change_event and hit and isinstance(event, Arrived):
                    event, change_event = msgspec.structs.replace(event, blocks=[]), False
                frame = msgspec.msgpack.encode((event, entry.commands))
                out.write(len(frame).to_bytes(4, "big") + frame)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def missed(figures: dict[str, float]) -> list[str]:
    """The targets that were not met."""
    tests = {"<=": float.__le__, ">=": float.__ge__}
    return [name for name, (sign, value) in TARGETS.items() if not tests[sign](float(figures[name]), float(value))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="15 seconds of load")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.seconds = 15.0 if options.quick else options.minutes * 60
    run = asyncio.run(soak(options))
    figures = {name: round(value, 1) for name, value in run.figures.items()}
    if options.json:
        print(json.dumps({"figures": figures, "targets": {name: list(target) for name, target in TARGETS.items()}}))
    else:
        bad = missed(figures)
        for name, value in figures.items():
            sign, target = TARGETS.get(name, ("", ""))
            print(f"{name:44} {value:12,.1f}   {sign} {target:<6} {'MISSED' if name in bad else ''}".rstrip())
    sys.exit(1 if missed(figures) else 0)


if __name__ == "__main__":
    main()
