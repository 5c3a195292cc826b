"""What routing by cache and load is worth on two real vLLM replicas, against the policies without a view of the cache.

    python -m benchmarks.routing_real [--quick] [--json] [--rounds N] [--requests N]

More shared prefixes than one replica's KV cache holds, fewer than both hold together; a closed loop of streaming clients.
Every policy gets the same requests on freshly started engines, the policies take turns, and another one goes first in
each round. Figures are ratios of medians over rounds within this run: the machine is shared, its absolute speed means
little. TTFT is the time to the first part of the answer's body.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.report import finish, say, table
from rig.engines import Engine, Rig, wait_until
from rig.gateways import Gateway, fleet
from rig.model import LARGER, tiny_model

POLICIES = ("cache_and_load", "round_robin", "random", "least_requests")
PREFIXES, PREFIX_WORDS = 12, 900
BLOCKS = 420  # of 32 tokens, per replica: eight or nine of the prefixes
CLIENTS, OUTPUT_TOKENS = 4, 8
WORDS = "the fleet sails at dawn past cold grey harbours while engines hum below and lamps burn low over charts".split()


@dataclass
class Run:
    """One policy in one round."""

    ttft_ms: list[float]
    seconds: float
    cached_tokens: int
    prompt_tokens: int

    @property
    def requests_per_s(self) -> float:
        return len(self.ttft_ms) / self.seconds


def requests(count: int, seed: int) -> list[list[dict[str, str]]]:
    luck = random.Random(seed)
    systems = [" ".join(luck.choices(WORDS, k=PREFIX_WORDS)) + f" {i}" for i in range(PREFIXES)]
    order = [system for _ in range(count // PREFIXES + 1) for system in luck.sample(systems, PREFIXES)][:count]
    return [
        [{"role": "system", "content": s}, {"role": "user", "content": " ".join(luck.choices(WORDS, k=20)) + f" {i}"}]
        for i, s in enumerate(order)
    ]


async def load(url: str, chats: list[list[dict[str, str]]]) -> Run:
    """A closed loop: each client sends its next request when its last is answered."""
    queue, ttft_ms, cached, prompt = list(reversed(chats)), list[float](), 0, 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal cached, prompt
        while queue:
            body = {"model": "tiny", "messages": queue.pop(), "max_tokens": OUTPUT_TOKENS, "stream": True,
                    "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip
            started = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                first, text = None, b""
                async for part in answer.content.iter_any():
                    first = first or time.perf_counter()
                    text += part
            ttft_ms.append(((first or started) - started) * 1000)
            cached += int(text.rpartition(b'"cached_tokens":')[2].partition(b",")[0])
            prompt += int(text.rpartition(b'"prompt_tokens":')[2].partition(b",")[0])

    started = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    return Run(ttft_ms, time.perf_counter() - started, cached, prompt)


def one(rig: Rig, engines: list[Engine], policy: str, chats: list[list[dict[str, str]]]) -> Run:
    for engine in engines:  # fresh caches for everybody
        if engine.alive:
            engine.kill()
        rig.restart(engine)
    for engine in engines:
        engine.wait_ready()
    config = fleet(*(engine.url for engine in engines), policy=policy)
    with tempfile.TemporaryDirectory() as folder, Gateway.start(Path(folder), config) as gateway:
        assert wait_until(gateway.is_steering, 30), gateway.said()
        asyncio.run(load(gateway.url, warm_up()))
        run = asyncio.run(load(gateway.url, chats))
    say(f"    {policy}: mean TTFT {statistics.mean(run.ttft_ms):.0f} ms, {run.requests_per_s:.2f} requests/s")
    return run


def warm_up() -> list[list[dict[str, str]]]:
    """The first requests of a process pay for things that later ones do not; none of their blocks is shared."""
    return [[{"role": "user", "content": f"warm up {i}"}] for i in range(8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, within a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=96)
    args = parser.parse_args()
    rounds, count = (1, 36) if args.quick else (args.rounds, args.requests)
    runs: dict[str, list[Run]] = {policy: [] for policy in POLICIES}
    with Rig() as rig:
        say("building the model and starting two vLLM replicas ...")
        args_ = (
            "--num-gpu-blocks-override",
            str(BLOCKS),
            "--max-model-len",
            "4096",
            "--max-num-batched-tokens",
            "1024",
        )
        engines = [rig.start(tiny_model(shape=LARGER), args=args_) for _ in range(2)]
        for engine in engines:
            engine.wait_ready()
        for i in range(rounds):
            say(f"  round {i + 1} of {rounds}")
            chats = requests(count, seed=i)
            for policy in (*POLICIES[i % 4 :], *POLICIES[: i % 4]):
                runs[policy].append(one(rig, engines, policy, chats))
    report(runs, args.json)


def report(runs: dict[str, list[Run]], as_json: bool) -> None:
    def median(policy: str, figure: str) -> float:
        values = {
            "p50": [statistics.median(r.ttft_ms) for r in runs[policy]],
            "mean": [statistics.mean(r.ttft_ms) for r in runs[policy]],
            "rate": [r.requests_per_s for r in runs[policy]],
            "hit": [r.cached_tokens / r.prompt_tokens for r in runs[policy]],
        }
        return statistics.median(values[figure])

    ours, rows, figures = POLICIES[0], [], {}
    for policy in POLICIES:
        ratios = {
            "ttft_p50": median(policy, "p50") / median(ours, "p50"),
            "ttft_mean": median(policy, "mean") / median(ours, "mean"),
            "throughput": median(ours, "rate") / median(policy, "rate"),
        }
        rows.append(
            [policy, f"{median(policy, 'p50'):.0f}", f"{median(policy, 'mean'):.0f}", f"{median(policy, 'rate'):.2f}",
             f"{median(policy, 'hit'):.0%}", *(f"{ratio:.2f}x" for ratio in ratios.values())]
        )  # fmt: skip
        if policy != ours:
            figures |= {f"{name}_against_{policy}": ratio for name, ratio in ratios.items()}
        figures[f"hit_ratio_{policy}"] = median(policy, "hit")
    table(
        f"{ours} on two real vLLM replicas (CPU), medians of {len(runs[ours])} rounds",
        ["policy", "TTFT p50 ms", "mean ms", "requests/s", "tokens cached", "its p50 / ours", "its mean / ours",
         "our rate / its"],
        rows,
    )  # fmt: skip
    targets = {
        f"{name}_against_{policy}": (">=", 1.0) for policy in POLICIES[1:] for name in ("ttft_mean", "throughput")
    }
    finish(figures, targets, as_json)


if __name__ == "__main__":
    main()
