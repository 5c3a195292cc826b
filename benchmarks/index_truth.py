"""Is the prefix index true? Predicted cached tokens against what real vLLM replicas report, with forced evictions.

    python -m benchmarks.index_truth [--quick] [--json] [--requests N] [--concurrency N]

Two replicas with little KV space, prompts that share prefixes of random length, more of them than fit. Half of the
requests are streamed. In the middle one replica is killed and started again; afterwards the prediction must hold as before.
A request counts as predicted when the header `x-pilothouse-cached-tokens` equals the engine's own
`usage.prompt_tokens_details.cached_tokens`.
"""

import argparse
import asyncio
import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.report import finish, say, table
from pilothouse.core.events import BlocksRemoved
from rig.engines import Rig, wait_until
from rig.gateways import Gateway, fleet
from rig.model import tiny_model

BLOCKS = 320  # per replica, of 32 tokens: about ten of the prompts below
PREFIXES, PREFIX_WORDS, OWN_WORDS = 30, (20, 700), (1, 120)
WORDS = "the fleet sails at dawn past cold grey harbours while engines hum below and lamps burn low over charts".split()


@dataclass
class Outcome:
    phase: str
    endpoint: str
    predicted: int
    actual: int
    prompt: int
    request: str


def prompts(count: int, luck: random.Random) -> list[list[dict[str, str]]]:
    """Chats over shared system prompts, some of them continued by further turns."""
    systems = [" ".join(luck.choices(WORDS, k=luck.randint(*PREFIX_WORDS))) + f" {i}" for i in range(PREFIXES)]
    chats: list[list[dict[str, str]]] = []
    for i in range(count):
        if chats and luck.random() < 0.3:
            earlier = chats[luck.randrange(max(0, len(chats) - 12), len(chats))]
            reply = {"role": "assistant", "content": " ".join(luck.choices(WORDS, k=luck.randint(1, 40)))}
            chat = [*earlier, reply, {"role": "user", "content": f"and then? {i}"}]
            if sum(len(m["content"]) for m in chat) < 6000:
                chats.append(chat)
                continue
        question = " ".join(luck.choices(WORDS, k=luck.randint(*OWN_WORDS)))
        system = systems[min(int(luck.expovariate(0.12)), PREFIXES - 1)]
        chats.append([{"role": "system", "content": system}, {"role": "user", "content": question}])
    return chats


async def ask(
    session: aiohttp.ClientSession, url: str, chat: list[dict[str, str]], stream: bool, phase: str
) -> Outcome:
    body = {"model": "tiny", "messages": chat, "max_tokens": 6, "stream": stream, "ignore_eos": True}
    if stream:
        body["stream_options"] = {"include_usage": True}
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        raw = await answer.text()
        assert answer.status == 200, raw
        predicted = int(answer.headers["x-pilothouse-cached-tokens"])
        endpoint, request = answer.headers["x-pilothouse-endpoint"], answer.headers["x-request-id"]
    if stream:
        raw = next(line[6:] for line in raw.splitlines() if line.startswith("data: {") and '"prompt_tokens"' in line)
    usage = json.loads(raw)["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Outcome(phase, endpoint, predicted, cached, usage["prompt_tokens"], request)


async def run_phase(
    gateway: Gateway, chats: list[list[dict[str, str]]], concurrency: int, phase: str, luck: random.Random
) -> list[Outcome]:
    """All chats, `concurrency` at a time, each slot going on as soon as its request is answered."""
    queue = [(chat, luck.random() < 0.5) for chat in reversed(chats)]
    outcomes: list[Outcome] = []

    async def slot(session: aiohttp.ClientSession) -> None:
        while queue:
            chat, stream = queue.pop()
            outcomes.append(await ask(session, gateway.url, chat, stream, phase))

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(slot(session) for _ in range(concurrency)))
    good = sum(o.predicted == o.actual for o in outcomes)
    say(f"  {phase}: {good} of {len(outcomes)} predicted exactly")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests, within a minute")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=700)
    parser.add_argument("--concurrency", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    count = 220 if args.quick else args.requests
    luck = random.Random(args.seed)
    chats = prompts(count, luck)
    parts = [chats[i * count // 4 : (i + 1) * count // 4] for i in range(4)]
    small = ("--num-gpu-blocks-override", str(BLOCKS), "--max-model-len", "3072")
    with Rig() as rig:
        say("starting two vLLM replicas ...")
        engines = [rig.start(tiny_model(), args=small) for _ in range(2)]
        for engine in engines:
            engine.wait_ready()
        config = fleet(*(engine.url for engine in engines))
        with tempfile.TemporaryDirectory() as folder, Gateway.start(Path(folder), config) as gateway:
            assert wait_until(gateway.is_steering, 30), gateway.said()
            many = args.concurrency
            outcomes = asyncio.run(run_phase(gateway, parts[0], 1, "one at a time", luck))
            outcomes += asyncio.run(run_phase(gateway, parts[1], many, f"{many} at once", luck))
            say("  killing replica b and starting it again ...")
            resets = feed(gateway)["resets"]
            engines[1].kill()
            rig.restart(engines[1]).wait_ready()
            assert wait_until(lambda: followed_again(gateway, resets), 30), gateway.said()
            outcomes += asyncio.run(run_phase(gateway, parts[2], 1, "restarted, one at a time", luck))
            outcomes += asyncio.run(run_phase(gateway, parts[3], many, f"restarted, {many} at once", luck))
            gateway.stop()
            evicted = sum(len(e.event.blocks) for e in gateway.entries() if isinstance(e.event, BlocksRemoved))
    report(outcomes, evicted, args.json)


def feed(gateway: Gateway) -> dict[str, Any]:
    return dict(gateway.status()["endpoints"][1]["kv_feed"])


def followed_again(gateway: Gateway, resets: int) -> bool:
    """The gateway has noticed the restart and hears the new process."""
    return feed(gateway)["resets"] > resets and gateway.is_steering()


def report(outcomes: list[Outcome], evicted: int, as_json: bool) -> None:
    rows, figures = [], {}
    phases = list(dict.fromkeys(o.phase for o in outcomes))
    for phase in [*phases, "all"]:
        part = [o for o in outcomes if phase in (o.phase, "all")]
        exact = sum(o.predicted == o.actual for o in part)
        over = sum(o.predicted > o.actual for o in part)
        used = {e: sum(o.endpoint == e for o in part) for e in sorted({o.endpoint for o in part})}
        hit = sum(o.actual for o in part) / sum(o.prompt for o in part)
        rows.append([phase, str(len(part)), f"{exact / len(part):.2%}", str(over), f"{hit:.1%}", str(used)])
        figures[f"exact_ratio_{phase.replace(', ', '_').replace(' ', '_')}"] = exact / len(part)
    table("predicted cached tokens against the engines' own (real vLLM)",
          ["phase", "requests", "exact", "too high", "tokens from cache", "by replica"], rows)  # fmt: skip
    say(f"  blocks that the engines evicted: {evicted}")
    for o in [o for o in outcomes if o.predicted != o.actual][:10]:
        say(f"  differs: {o}")
    figures |= {"requests": len(outcomes), "evicted_blocks": evicted}
    restarted = "exact_ratio_restarted_one_at_a_time"  # a drift would show here: nothing overtakes a prediction
    finish(
        figures,
        {
            "exact_ratio_all": (">=", 0.99),
            restarted: (">=", 0.99),
            "requests": (">=", 200),
            "evicted_blocks": (">=", BLOCKS),
        },
        as_json,
    )


if __name__ == "__main__":
    main()
