"""Whether a pair behind the gateway says what one engine says, and fetches what it has not: the first half of pd_real."""

import asyncio
import json
import random
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
from rig.metrics import fetched_tokens
from rig.model import tiny_model

Body = dict[str, Any]
BLOCK = 32  # tokens
LONGEST = 3000
TOGETHER = 8
PREFIXES = 4
ARGS = ("--kv-cache-memory-bytes", "256M")  # all prompts fit, so what is cached can be foretold
ALWAYS = {"like": "marginal_cost", "decider": {"type": "always", "fallback": "error"}}
WORDS = "the fleet sails at dawn past cold grey harbours while engines hum below and lamps burn low over charts".split()


@dataclass
class Tokens:
    """One pass over the requests."""

    name: str
    requests: int = 0
    prompt_tokens: int = 0
    gaps: list[float] = field(default_factory=list)  # one for each difference
    fetched: int = 0  # prompt tokens
    wanted: int = 0  # that it should have fetched; 0 = not foretold
    fetched_wrong: int = 0  # requests
    not_split: int = 0


@dataclass
class Said:
    """One greedy answer."""

    prompt: list[int]
    tokens: list[int]
    gaps: list[float]  # between the two best tokens, at each


async def tokens(rig: Rig, directory: Path, count: int) -> list[Tokens]:
    say("starting a prefill and a decode engine, one that exchanges nothing, and the gateway ...")
    model = tiny_model()
    with Exchange(rig, "nixl") as exchange:
        prefill, decode = (exchange.start(role, model, ARGS) for role in (Role.PREFILL, Role.DECODE))
        single = rig.start(model, args=ARGS)
        for engine in (prefill, decode, single):
            engine.wait_ready()
        pools = [exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, decode)]
        with single, Gateway.start(directory, fleet(pools=pools, policy=ALWAYS)) as gateway:
            assert await asyncio.to_thread(wait_until, gateway.is_steering, 30), gateway.said()
            async with aiohttp.ClientSession() as session:
                check = Check(session, gateway, decode, single)
                return [await check.alone(requests(count, 0)), await check.together(requests(count, 1))]


@dataclass
class Check:
    """Asks both, and compares."""

    session: aiohttp.ClientSession
    gateway: Gateway
    decode: Engine
    single: Engine
    held: set[tuple[int, ...]] = field(default_factory=set)  # beginnings of whole blocks that the decode engine has

    async def alone(self, asked: list[tuple[str, Body]]) -> Tokens:
        """One at a time, each with its own count of fetched tokens."""
        found = Tokens("one at a time")
        for path, body in asked:
            before = fetched_tokens(self.decode.url)
            said = await self.compare(path, body, found)
            wanted = len(said.prompt) - self.cached(said.prompt)
            fetched = fetched_tokens(self.decode.url) - before
            found.fetched, found.wanted = found.fetched + fetched, found.wanted + wanted
            found.fetched_wrong += fetched != wanted
            self.hold(said.prompt + said.tokens[:-1])
        return found

    async def together(self, asked: list[tuple[str, Body]]) -> Tokens:
        found, queue = Tokens(f"{TOGETHER} at a time"), list(asked)
        before = fetched_tokens(self.decode.url)

        async def client() -> None:
            while queue:
                await self.compare(*queue.pop(), found)

        await asyncio.gather(*(client() for _ in range(TOGETHER)))
        found.fetched = fetched_tokens(self.decode.url) - before
        return found

    async def compare(self, path: str, body: Body, found: Tokens) -> Said:
        right, _ = await ask(self.session, self.single.url, path, body | {"stream": False})
        said, request = await ask(self.session, self.gateway.url, path, body)
        found.requests += 1
        found.prompt_tokens += len(right.prompt)
        if said.tokens != right.tokens:
            same = sum(1 for _ in iter_same(said.tokens, right.tokens))
            found.gaps.append(right.gaps[same] if same < len(right.gaps) else float("inf"))
        _, receipt = await asyncio.to_thread(self.gateway.get, f"/explain/{request}")
        found.not_split += msgspec.json.decode(receipt, type=Story).routes[-1].prefill is None
        return right

    def cached(self, prompt: list[int]) -> int:
        """Tokens of a prompt that the decode engine has: whole blocks, and never the last token."""
        size = 0
        while size + BLOCK < len(prompt) and tuple(prompt[: size + BLOCK]) in self.held:
            size += BLOCK
        return size

    def hold(self, tokens: list[int]) -> None:
        self.held |= {tuple(tokens[:size]) for size in range(BLOCK, len(tokens) + 1, BLOCK)}


def iter_same(one: list[int], other: list[int]) -> list[int]:
    """The common beginning."""
    return [a for i, (a, _) in enumerate(zip(one, other, strict=False)) if one[: i + 1] == other[: i + 1]]


def requests(count: int, seed: int) -> list[tuple[str, Body]]:
    """Path and body of each: a third of token ids, a third of text, a third of chats; half of each is streamed."""
    luck = random.Random(seed)
    prefixes = [[luck.randrange(300, 4000) for _ in range(luck.randrange(100, 1000))] for _ in range(PREFIXES)]
    systems = [" ".join(luck.choices(WORDS, k=luck.randrange(100, 600))) for _ in range(PREFIXES)]
    asked = []
    for number in range(count):
        length = min(LONGEST, int(1.3 ** luck.uniform(0, 30.6)))  # as many of each order of magnitude, 1 to 3,000
        shared = luck.random() < 0.3
        body: Body = {"model": "tiny", "max_tokens": luck.choice([1, 2, 8, 16, 32]), "temperature": 0}
        body |= {"stream": number % 2 == 1, "return_token_ids": True}
        if number % 3 == 2:
            system = luck.choice(systems) if shared else f"chat {seed} {number}"
            messages = [{"role": "system", "content": system}, {"role": "user", "content": text(luck, length // 2)}]
            asked.append(("/v1/chat/completions", body | {"messages": messages, "logprobs": True, "top_logprobs": 2}))
            continue
        ids = [luck.randrange(300, 4000) for _ in range(length)]
        ids = (luck.choice(prefixes) + ids)[:LONGEST] if shared else ids
        prompt: list[int] | str = ids if number % 3 == 0 else text(luck, max(1, length // 2))
        asked.append(("/v1/completions", body | {"prompt": prompt, "logprobs": 2}))
    return asked


def text(luck: random.Random, words: int) -> str:
    """About two tokens a word."""
    return f"{luck.randrange(10**6)} " + " ".join(luck.choices(WORDS, k=words))


async def ask(session: aiohttp.ClientSession, url: str, path: str, body: Body) -> tuple[Said, str]:
    """The answer, and the gateway's name for the request."""
    async with session.post(url + path, json=body) as answer:
        heard = await answer.text()
        assert answer.status == 200, heard
        name = answer.headers.get("x-request-id", "")
    if body["stream"]:
        events = [line.removeprefix("data: ") for line in heard.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]", heard
        parts = [json.loads(event) for event in events[:-1]]
    else:
        parts = [json.loads(heard)]
    said = Said([], [], [])
    for part in parts:
        for choice in part["choices"]:
            said.prompt += choice.get("prompt_token_ids") or part.get("prompt_token_ids") or []
            said.tokens += choice.get("token_ids") or []
            said.gaps += gaps(choice.get("logprobs") or {})
    return said, name


def gaps(logprobs: Body) -> list[float]:
    """Between the two best tokens, of each token; completions and chats write them down differently."""
    if "content" in logprobs:
        best = [[top["logprob"] for top in token["top_logprobs"]] for token in logprobs["content"]]
    else:
        best = [list(tops.values()) for tops in logprobs.get("top_logprobs") or []]
    return [abs(each[0] - each[1]) if len(each) > 1 else 0.0 for each in map(sorted, best)]
