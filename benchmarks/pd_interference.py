"""What long prompts do to chats that stream, on a pair and on two engines that do all: the second half of pd_real."""

import asyncio
import os
import random
import statistics
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.report import say
from pilothouse.core.events import Role
from pilothouse.live.stories import Story
from rig.engines import Engine, Rig, wait_until
from rig.exchange import Exchange
from rig.gateways import Gateway, fleet
from rig.model import Shape, tiny_model

SHAPE = Shape(layers=2, hidden=1024, heads=8, kv_heads=4, head_size=64, feed_forward=4096)  # a step takes 8 ms
ARGS = (  # a chunk of a long prompt is short enough that chats get a token in between, and that p99 sees it
    *("--max-model-len", "10240", "--max-num-batched-tokens", "512", "--kv-cache-memory-bytes", "256M"),
)
LONG_TOKENS, LONG_OUTPUT = 8000, 8
CHATS, CHAT_TOKENS, CHAT_OUTPUT = 4, 300, 200
GAP_S = 6.0  # between long prompts, each of which takes a core four
PATIENT = {"health": {"every": "1s", "timeout": "30s"}}  # nobody is left out for being busy
PAIR, BOTH = "prefill + decode", "two that do all"


@dataclass
class Run:
    """One arrangement, one round or several."""

    gaps_s: list[float] = field(default_factory=list)  # between tokens of the chats
    chat_first_s: list[float] = field(default_factory=list)
    long_first_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    split: int = 0

    def itl_ms(self, part: float) -> float:
        return sorted(self.gaps_s)[int(part * (len(self.gaps_s) - 1))] * 1000

    @property
    def chat_ttft_ms(self) -> float:
        return statistics.median(self.chat_first_s) * 1000

    @property
    def long_ttft_ms(self) -> float:
        return statistics.median(self.long_first_s) * 1000

    @property
    def long_prompts(self) -> int:
        return len(self.long_first_s)

    @property
    def tokens_per_s(self) -> float:
        return len(self.gaps_s) / self.seconds

    def add(self, other: "Run") -> None:
        self.gaps_s += other.gaps_s
        self.chat_first_s += other.chat_first_s
        self.long_first_s += other.long_first_s
        self.seconds, self.split = self.seconds + other.seconds, self.split + other.split


@dataclass
class Interference:
    """Both arrangements, and by how much the pair is better: medians over rounds."""

    pooled: dict[str, Run]
    ratios: dict[str, float]
    rounds: int
    chats: int = CHATS
    long_tokens: int = LONG_TOKENS


def interference(rig: Rig, directory: Path, rounds: int, long_prompts: int, decider: str) -> Interference:
    say("starting a pair and two engines that do all, each pinned to a core, and a gateway in front of either ...")
    model = tiny_model(shape=SHAPE)
    with ExitStack() as held:
        exchange = held.enter_context(Exchange(rig, "nixl"))
        prefill, decode = (exchange.start(role, model, ARGS) for role in (Role.PREFILL, Role.DECODE))
        both = [rig.start(model, args=ARGS) for _ in range(2)]
        for core, engine in zip(cores() * 2, (prefill, decode, *both), strict=True):
            held.enter_context(engine)
            pin(engine, core)
        pools = [exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, decode)]
        configs = {
            PAIR: fleet(pools=pools, policy={"like": "marginal_cost", "decider": decider}, **PATIENT),
            BOTH: fleet(*(engine.url for engine in both), **PATIENT),
        }
        gateways = {name: held.enter_context(Gateway.start(directory / name, each)) for name, each in configs.items()}
        for gateway in gateways.values():
            assert wait_until(gateway.is_steering, 60), gateway.said()
            for pid in (os.getpid(), gateway.process.pid, *gateway.children()):
                prefer(pid, -15)
        for name, gateway in gateways.items():
            asyncio.run(traffic(gateway, f"warm up {name}", 1))
        runs: dict[str, list[Run]] = {name: [] for name in gateways}
        for number in range(rounds):
            say(f"  round {number + 1} of {rounds}")
            for name in sorted(gateways, reverse=number % 2 == 1):
                run = asyncio.run(traffic(gateways[name], str(number), long_prompts))
                say(f"    {name}: chats' ITL p99 {run.itl_ms(0.99):.1f} ms")
                runs[name].append(run)
    return Interference({name: pooled(each) for name, each in runs.items()}, ratios(runs), rounds)


def ratios(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Of the two that do all to the pair: above 1 where the pair is better."""
    figures = {
        "itl_p99_ratio": lambda run: run.itl_ms(0.99),
        "itl_p50_ratio": lambda run: run.itl_ms(0.5),
        "chat_ttft_ratio": lambda run: run.chat_ttft_ms,
        "long_ttft_ratio": lambda run: run.long_ttft_ms,
        "chat_time_per_token_ratio": lambda run: 1 / run.tokens_per_s,
    }
    pairs = list(zip(runs[BOTH], runs[PAIR], strict=True))
    return {name: statistics.median(of(both) / of(pair) for both, pair in pairs) for name, of in figures.items()}


def pooled(runs: list[Run]) -> Run:
    total = Run()
    for run in runs:
        total.add(run)
    return total


# The traffic


async def traffic(gateway: Gateway, name: str, long_prompts: int) -> Run:
    """Chats that go on while long prompts come, one every few seconds however long the last one takes."""
    run, over = Run(), asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        url, luck = f"{gateway.url}/v1/completions", random.Random(name)
        chats = [asyncio.create_task(chat(session, url, random.Random(f"{name}/{i}"), over, run)) for i in range(CHATS)]
        await asyncio.sleep(1)
        run.gaps_s.clear(), run.chat_first_s.clear()
        began = time.monotonic()
        asked = []
        async with asyncio.TaskGroup() as group:
            for number in range(long_prompts):
                await asyncio.sleep(max(0.0, began + number * GAP_S - time.monotonic()))
                asked.append(group.create_task(long_prompt(session, url, luck, run)))
        run.seconds = time.monotonic() - began
        over.set()
        await asyncio.gather(*chats)
    for each in asked:
        story = msgspec.json.decode(gateway.get(f"/explain/{each.result()}")[1], type=Story)
        run.split += story.routes[-1].prefill is not None
    return run


async def chat(session: aiohttp.ClientSession, url: str, luck: random.Random, over: asyncio.Event, run: Run) -> None:
    """One answer after the other."""
    while not over.is_set():
        sent, last = time.monotonic(), 0.0
        async with session.post(url, json=body(luck, CHAT_TOKENS, CHAT_OUTPUT)) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if over.is_set():
                    return
                if not line.startswith(b'data: {"id'):
                    continue
                now = time.monotonic()
                if last:
                    run.gaps_s.append(now - last)
                else:
                    run.chat_first_s.append(now - sent)
                last = now


async def long_prompt(session: aiohttp.ClientSession, url: str, luck: random.Random, run: Run) -> str:
    """The gateway's name for it."""
    sent, first = time.monotonic(), 0.0
    async with session.post(url, json=body(luck, LONG_TOKENS, LONG_OUTPUT)) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            first = first or (time.monotonic() if line.startswith(b"data: {") else 0.0)
        name = answer.headers["x-request-id"]
    run.long_first_s.append(first - sent)
    return name


def body(luck: random.Random, length: int, output: int) -> dict[str, Any]:
    """Nothing of it is in any cache."""
    prompt = [luck.randrange(300, 4000) for _ in range(length)]
    return {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


# The machine


def cores() -> list[int]:
    """Two of those that there are; with one, both engines share it."""
    allowed = sorted(os.sched_getaffinity(0))
    return [allowed[0], allowed[-1]]


def pin(engine: Engine, core: int) -> None:
    """All threads of both its processes, that which computes after that which talks. Later threads inherit it."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(process.name)) == engine.pid:
                for thread in (process / "task").iterdir():
                    os.sched_setaffinity(int(thread.name), {core})
                    prefer(int(thread.name), -10 if int(process.name) == engine.pid else -5)


def prefer(thread: int, niceness: int) -> None:
    """Where that is allowed: before other work of the machine, and gateway and client before engines, which in a
    fleet do not share their cores."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
