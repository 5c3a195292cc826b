"""A prefill and a decode engine against two engines that do both: what long prompts do to short questions.

    python -m examples.demo_pd

Reads like the README beside it: both arrangements, the traffic, what is told. The processes are those of examples/demo.
"""

import asyncio
import time
from itertools import pairwise
from pydoc_data.topics import topics  # the manual that Python's own help() shows: real prose, no download
from typing import Any

import aiohttp
import msgspec
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from examples.demo.fleet import MODEL, DemoFailed, fleet, say
from examples.demo.running import run, talking
from pilothouse.live.stories import Story
from rig.metrics import fetched_tokens
from rig.model import Shape, tiny_model

SHAPE = Shape(layers=4, hidden=256, heads=4, kv_heads=2, head_size=64, feed_forward=768)
PAIR, BOTH = "prefill + decode", "two that do both"
STARTED_BY = {PAIR: ("--prefill=1", "--decode=1"), BOTH: ("--replicas=2",)}
# Prompts are computed in small parts, between which others get a token: the kindest to those who wait.
ENGINE = ("--engine-arg=--max-num-batched-tokens=512", "--engine-arg=--max-model-len=16384")
CHATS = ("ada", "ben")
LONG_PROMPTS, LONG_WORDS, GAP_S = 3, 3000, 4.0
SHORT_TOKENS, LONG_TOKENS = 48, 16  # to answer


class Measured(msgspec.Struct):
    """One arrangement under the traffic."""

    short_first_s: list[float] = []
    gaps_s: list[float] = []  # between the tokens of short answers
    long_first_s: list[float] = []
    long_answers: list[str] = []
    split: int = 0  # long prompts that another engine computed than the one that answered
    handed: int = 0  # of those, tokens
    fetched: int = 0  # tokens whose KV the answering engine got from elsewhere, by its own count


class Heard(msgspec.Struct):
    """One answer as it came."""

    request: str
    text: str
    prompt_tokens: int
    first_s: float
    gaps_s: list[float]


async def main() -> None:
    began, runs = time.monotonic(), dict[str, Measured]()
    say(f"Making a small model with random weights ({SHAPE.layers} layers x {SHAPE.hidden}) and its own tokenizer ...")
    model = await asyncio.to_thread(tiny_model, shape=SHAPE)
    for name, words in STARTED_BY.items():
        say(f"\n== {name}")
        async with fleet(model, name.split()[0], *words, *ENGINE) as (api, control), talking(api) as client:
            runs[name] = await traffic(client, control)
    compare(runs)
    say(f"Done in {time.monotonic() - began:.0f} s. Every process that was started has ended.")


# The traffic


async def traffic(client: AsyncOpenAI, control: str) -> Measured:
    """Short questions, one after the other in each chat, while long prompts come every few seconds."""
    say("First steps of the engines, which are not measured ...")
    for number in range(2):
        await asyncio.gather(
            chat(client, "guest", Measured(), asyncio.Event(), 1), ask(client, long_prompt(9 - number), 1)
        )
    measured, over = Measured(), asyncio.Event()
    answering = [each["url"] for each in (await get(control, "status"))["endpoints"] if each["role"] != "prefill"]
    before = await fetched(answering)
    async with asyncio.TaskGroup() as group:
        for name in CHATS:
            group.create_task(chat(client, name, measured, over))
        await asyncio.sleep(1)
        asked = []
        for number in range(LONG_PROMPTS):
            asked.append(group.create_task(long(client, control, number, measured)))
            await asyncio.sleep(GAP_S)
        measured.long_answers = [(await each).text for each in asked]
        over.set()
    measured.fetched = await fetched(answering) - before
    return measured


async def chat(client: AsyncOpenAI, name: str, measured: Measured, over: asyncio.Event, most: int = 1000) -> None:
    for number in range(most):
        if over.is_set():
            return
        heard = await ask(client, f"{name} asks question {number}: what is a pilot?", SHORT_TOKENS)
        measured.short_first_s.append(heard.first_s)
        measured.gaps_s += heard.gaps_s


async def long(client: AsyncOpenAI, control: str, number: int, measured: Measured) -> Heard:
    heard = await ask(client, long_prompt(number), LONG_TOKENS)
    story = msgspec.convert(await get(control, f"explain/{heard.request}"), Story)
    measured.long_first_s.append(heard.first_s)
    route = story.routes[-1]
    who = f"{route.endpoint} alone"
    if route.prefill is not None:
        who = f"{route.prefill.endpoint} computed it, {route.endpoint} answered"
        measured.split += 1
        measured.handed += heard.prompt_tokens - route.cached_tokens
    say(f"  long prompt {number + 1}: {heard.prompt_tokens:,} tokens, first one after {heard.first_s:.2f} s; {who}")
    if story.prefilled_us and story.first_token_us:
        computed_s, handed_ms = (
            (story.prefilled_us - story.routed_us[-1]) / 1e6,
            (story.first_token_us - story.prefilled_us) / 1e3,
        )
        say(f"      computed in {computed_s:.2f} s, handed over and answered {handed_ms:.0f} ms later")
    if route.why.split is not None:
        say(f"      because: {route.why.split.reason}")
    return heard


def long_prompt(number: int) -> str:
    """A part of Python's manual; no two begin alike."""
    words = " ".join(topics[name] for name in sorted(topics)).split()
    return f"{number}. Sum this up:\n{' '.join(words[number * LONG_WORDS : (number + 1) * LONG_WORDS])}"


async def ask(client: AsyncOpenAI, question: str, tokens: int) -> Heard:
    """Greedy, and streamed; the clock starts when the request is sent."""
    sent, times, text, usage = time.monotonic(), list[float](), "", None
    response = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": question}], max_tokens=tokens, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    async for chunk in response.parse():
        if chunk.choices:
            times.append(time.monotonic())
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    if usage is None or len(times) < 2:
        raise DemoFailed("an answer ended without the engine's count of tokens")
    times = times[1:]  # the first chunk says only who speaks
    gaps = [b - a for a, b in pairwise(times)]
    return Heard(response.headers["x-request-id"], text, usage.prompt_tokens, times[0] - sent, gaps)


async def get(control: str, path: str) -> Any:
    async with aiohttp.request("GET", f"{control}/{path}", raise_for_status=True) as answer:
        return msgspec.json.decode(await answer.read())


async def fetched(engines: list[str]) -> int:
    """Asks the engines themselves."""
    return sum(await asyncio.gather(*(asyncio.to_thread(fetched_tokens, url) for url in engines)))


# What is told


def compare(runs: dict[str, Measured]) -> None:
    pair, both = runs[PAIR], runs[BOTH]
    table = Table(
        "", *runs, title="Short questions while long prompts arrive (Measured)", title_justify="left", box=None
    )
    rows = {
        "short: first token, median": [part(each.short_first_s, 0.5) for each in runs.values()],
        "short: first token, slowest": [part(each.short_first_s, 1) for each in runs.values()],
        "short: between tokens, median": [part(each.gaps_s, 0.5) for each in runs.values()],
        "short: between tokens, 99th of 100": [part(each.gaps_s, 0.99) for each in runs.values()],
        "short: between tokens, slowest": [part(each.gaps_s, 1) for each in runs.values()],
        "long: first token, median": [part(each.long_first_s, 0.5) for each in runs.values()],
        "long: computed elsewhere": [f"{each.split} of {LONG_PROMPTS}" for each in runs.values()],
        "prompt tokens fetched from elsewhere": [f"{each.fetched:,}" for each in runs.values()],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    console = Console()
    console.width = max(console.width, 100)
    say("")
    console.print(table)
    same = sum(a == b for a, b in zip(pair.long_answers, both.long_answers, strict=True))
    say(f"\nThe same greedy answer from the pair as from one engine alone: {same} of {LONG_PROMPTS} long prompts.")
    say(f"KV that the decode engine fetched, by its own count: {pair.fetched:,} of {pair.handed:,} tokens handed over.")
    if not pair.split:
        raise DemoFailed("no prompt was split; the reasons are above")


def part(values: list[float], share: float) -> str:
    """The value below which this share of them lies."""
    return f"{sorted(values)[int(share * (len(values) - 1))] * 1000:,.0f} ms"


if __name__ == "__main__":
    run(main())
