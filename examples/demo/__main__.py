"""Two real engines, three chats, two routing policies: what it is worth to know which engine holds which prompt.

    python -m examples.demo [--against POLICY]

Reads like the README beside it: the traffic, one run, the reason of each choice, the comparison, the processes.
"""

import argparse
import asyncio
import statistics
import time
from pydoc_data.topics import topics  # the manual that Python's own help() shows: real prose, no download
from typing import Any

import aiohttp
import msgspec
from openai import AsyncOpenAI

from examples.demo.fleet import ENGINES, MODEL, DemoFailed, fleet, say
from examples.demo.running import run, talking
from pilothouse.live.stories import Story
from pilothouse.policies.profiles import DEFAULT
from rig.model import Shape, tiny_model

Transcript = dict[tuple[str, int], str]  # what a chat was answered in a turn

SHAPE = Shape(layers=4, hidden=256, heads=4, kv_heads=2, head_size=64, feed_forward=768)  # 10,000 words take seconds
APPLICATIONS = {"grammar": slice(0, 10_000), "library": slice(10_000, 20_000)}  # words of the manual in their prompts
CHATS = {"ada": "grammar", "ben": "grammar", "cleo": "library"}
ROUNDS = (("ada", "cleo"), ("ben", "ada"), ("ada", "ben", "cleo"), ("cleo", "ben", "ada"))  # who asks, in this order
STAGGER_S, PAUSE_S = 0.2, 0.5  # between the requests of a round; between rounds
OUTPUT_TOKENS = 16


class Answered(msgspec.Struct):
    """One request: who asked, which engine answered, how soon, and why that engine."""

    chat: str
    turn: int
    replica: str
    prompt_tokens: int
    cached_tokens: int
    first_token_s: float
    why: str


async def main(against: str) -> None:
    started, seconds = time.monotonic(), {}
    say(f"Making a small model with random weights ({SHAPE.layers} layers x {SHAPE.hidden}) and its own tokenizer ...")
    model = await asyncio.to_thread(tiny_model, shape=SHAPE)
    seconds["model"] = time.monotonic() - started
    transcript: Transcript = {}
    runs = {}
    for policy in (DEFAULT, against):
        say(f"\n== {policy}: {ENGINES} fresh engines with empty caches")
        begun = time.monotonic()
        async with (
            fleet(model, policy, f"--replicas={ENGINES}", f"--policy={policy}") as (api, control),
            talking(api) as client,
        ):
            seconds[f"{policy}: engines"] = time.monotonic() - begun
            begun = time.monotonic()
            runs[policy] = await traffic(client, control, transcript)
            seconds[f"{policy}: traffic"] = time.monotonic() - begun
    compare(runs)
    say("\n" + ", ".join(f"{phase} {took:.0f} s" for phase, took in seconds.items()))
    say(f"Done in {time.monotonic() - started:.0f} s. Every process that was started has ended.")


# The traffic: the same requests, in the same order, with the same pauses in every run


async def traffic(client: AsyncOpenAI, control: str, transcript: Transcript) -> list[Answered]:
    """All rounds. A round's requests overlap; a chat's next question carries its whole history."""
    await asyncio.gather(
        *(ask(client, f"guest {n}", [{"role": "user", "content": "Hello"}]) for n in range(ENGINES))
    )  # first steps
    turns, answered = dict.fromkeys(CHATS, 0), list[Answered]()
    for number, chats in enumerate(ROUNDS, 1):
        say(f"Round {number} of {len(ROUNDS)}: {', '.join(chats)} ask ...")
        async with asyncio.TaskGroup() as group:
            tasks = []
            for chat in chats:
                turns[chat] += 1
                tasks.append(group.create_task(turn(client, control, chat, turns[chat], transcript)))
                await asyncio.sleep(STAGGER_S)
        answered += [task.result() for task in tasks]
        await asyncio.sleep(PAUSE_S)
    return answered


async def turn(client: AsyncOpenAI, control: str, chat: str, number: int, transcript: Transcript) -> Answered:
    """One question, and the gateway's own account of what it did with it."""
    answer, request_id, first_token_s, usage = await ask(client, chat, conversation(chat, number, transcript))
    transcript.setdefault((chat, number), answer)  # the second run repeats the first one's words, whatever it hears
    async with aiohttp.request("GET", f"{control}/explain/{request_id}", raise_for_status=True) as receipt:
        story = msgspec.json.decode(await receipt.read(), type=Story)
    cached = (usage.prompt_tokens_details.cached_tokens or 0) if usage.prompt_tokens_details else 0
    done = Answered(chat, number, story.endpoint, usage.prompt_tokens, cached, first_token_s, reason(story))
    say(f"  {chat:<4} turn {number}  {done.replica}  {cached:>6,} of {done.prompt_tokens:,} prompt tokens from cache,"
        f" first token after {first_token_s:.2f} s\n               {done.why}")  # fmt: skip
    return done


def conversation(chat: str, number: int, transcript: Transcript) -> list[dict[str, str]]:
    """The application's prompt of about 10,000 words, then all turns so far, then the next question."""
    manual = " ".join(" ".join(topics[name] for name in sorted(topics)).split()[APPLICATIONS[CHATS[chat]]])
    messages = [{"role": "system", "content": f"You explain Python's {CHATS[chat]}. The manual:\n{manual}"}]
    for past in range(1, number):
        messages.append({"role": "user", "content": f"{chat} asks question {past}."})
        messages.append({"role": "assistant", "content": transcript[chat, past]})
    return [*messages, {"role": "user", "content": f"{chat} asks question {number}."}]


async def ask(client: AsyncOpenAI, user: str, messages: list[dict[str, str]]) -> tuple[str, str, float, Any]:
    """Answer, request id, seconds to the first token, and what the engine counted."""
    sent, first_token_s, answer, usage = time.monotonic(), 0.0, "", None
    response = await client.chat.completions.with_raw_response.create(
        model=MODEL, user=user, messages=messages, max_tokens=OUTPUT_TOKENS, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # type: ignore[call-overload]  # fmt: skip
    async for chunk in response.parse():
        if chunk.choices:
            first_token_s = first_token_s or time.monotonic() - sent
            answer += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    if usage is None:
        raise DemoFailed("an answer ended without the engine's count of tokens")
    return answer, response.headers["x-request-id"], first_token_s, usage


# What is told


def reason(story: Story) -> str:
    """The receipt of a choice in one sentence."""
    why, prompt = story.routes[-1].why, story.prompt_tokens
    chosen, other = why.candidates[0], max(why.candidates[1:], key=lambda each: each.cached_tokens)
    held = f"{chosen.endpoint} holds {chosen.cached_tokens:,} of {prompt:,} prompt tokens"
    if not why.scorers:
        return f"{held}; {other.endpoint} holds {other.cached_tokens:,}. {why.profile} asks neither"
    if chosen.cached_tokens > other.cached_tokens:
        return f"{held}; {other.endpoint} would have to compute {prompt - other.cached_tokens:,}"
    queued = f"{other.endpoint} has {other.prefill_tokens:,} others to compute first"
    if chosen.cached_tokens < other.cached_tokens:
        return f"{other.endpoint} holds {other.cached_tokens:,} of {prompt:,} prompt tokens, but {queued}"
    equal = f"both hold {chosen.cached_tokens:,}" if chosen.cached_tokens else "no engine holds any"
    if other.prefill_tokens > chosen.prefill_tokens:
        return f"{equal} of {prompt:,} prompt tokens; {queued}"
    if other.in_flight > chosen.in_flight:
        return f"{equal} of {prompt:,} prompt tokens; {other.endpoint} has more requests running"
    return f"{equal} of {prompt:,} prompt tokens, and both are equally busy"


def compare(runs: dict[str, list[Answered]]) -> None:
    """Request by request, then in total."""
    first, *_ = runs.values()
    if not sum(each.cached_tokens for each in first):
        raise DemoFailed("no engine served a single token from its cache; that should not happen")
    say("\n== Side by side: time to first token\n")
    say(f"{'':<26}" + "".join(f"{policy:>28}" for policy in runs))
    for pair in zip(*runs.values(), strict=True):
        cells = "".join(f"{each.replica + f'{each.first_token_s:9.2f} s':>28}" for each in pair)
        say(f"{f'{pair[0].chat}, turn {pair[0].turn}':<26}{cells}")
    times = [[each.first_token_s for each in run] for run in runs.values()]
    computed = [sum(each.prompt_tokens - each.cached_tokens for each in run) for run in runs.values()]
    say(f"{'sum':<26}" + "".join(f"{sum(each):>26.2f} s" for each in times))
    say(f"{'median':<26}" + "".join(f"{statistics.median(each):>26.2f} s" for each in times))
    say(f"{'prompt tokens computed':<26}" + "".join(f"{count:>28,}" for count in computed))
    say(f"{'of prompt tokens asked':<26}" + "".join(f"{sum(e.prompt_tokens for e in r):>28,}" for r in runs.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description="What it is worth to know who holds what."
    )
    parser.add_argument("--against", metavar="POLICY", default="round_robin", help="the policy to compare with")
    chosen = parser.parse_args()
    run(main(chosen.against))
