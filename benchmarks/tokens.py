"""What it takes to know a prompt's tokens and block keys: from a decoded body to a `Prompt`, cold and from memory.

    python -m benchmarks.tokens [--json] [--quick]

Each case is a chat; "again" is the median over requests that share all but the end with earlier ones. Engine settings:
blocks of 32 tokens under sha256_cbor, the slower of the two algorithms that a fleet can share.
"""

import argparse
import asyncio
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from pilothouse.live.tokens.describe import Limits, ModelTokens, Prompt
from pilothouse.live.tokens.dialect import NO_SCOPE, Dialect
from pilothouse.live.tokens.template import ChatTemplate
from rig.model import tiny_model

ROUTE = "/v1/chat/completions"
DIALECT = Dialect("sha256_cbor", 32)
WORDS = [
    "the", "a", "request", "engine", "cache", "block", "prefix", "token", "of", "to",
    "and", "in", "fleet", "steers", "it", "reads", "waits", "value", "error",
]  # fmt: skip
TARGETS: dict[str, list[Any]] = {"prefix_10k_again_ms": ["<=", 1.0]}


def prose(random: Random, words: int) -> str:
    """Text that a small vocabulary does not swallow whole."""
    return " ".join(
        random.choice(WORDS) if random.random() < 0.8 else str(random.randrange(10_000)) for _ in range(words)
    )


def tokens_for(model: Path) -> ModelTokens:
    return ModelTokens(model, DIALECT, limits=Limits())


async def described(tokens: ModelTokens, body: dict[str, Any]) -> Prompt:
    """As the gateway does it: at once if possible, else in the pool."""
    return tokens.describe(ROUTE, body) or await tokens.describe_slowly(ROUTE, body)


async def timed_ms(tokens: ModelTokens, body: dict[str, Any]) -> tuple[float, Prompt]:
    start = time.perf_counter()
    prompt = await described(tokens, body)
    return (time.perf_counter() - start) * 1e3, prompt


def chat(system: str, question: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}]}


async def shared_prefix(model: Path, name: str, words: int, requests: int) -> dict[str, float]:
    """One long system prompt, a new question of about 100 tokens in every request."""
    random, tokens = Random(1), tokens_for(model)
    system = prose(random, words)
    cold, prompt = await timed_ms(tokens, chat(system, prose(random, 60)))
    again = []
    for _ in range(requests):
        body = chat("".join([system[:1], system[1:]]), prose(random, 60))  # another string object, as from a new body
        again.append((await timed_ms(tokens, body))[0])
    return {
        f"{name}_tokens": prompt.tokens,
        f"{name}_cold_ms": cold,
        f"{name}_again_ms": statistics.median(again),
        f"{name}_again_p95_ms": sorted(again)[int(0.95 * len(again))],
    }


async def many_turns(model: Path, turns: int, conversations: int) -> dict[str, float]:
    """Conversations that grow: each request repeats all before it and adds an answer and a question."""
    random, tokens, spent, last = Random(2), tokens_for(model), list[float](), 0
    for _ in range(conversations):
        body = chat(prose(random, 200), prose(random, 60))
        for _ in range(turns):
            ms, prompt = await timed_ms(tokens, body)
            spent.append(ms)
            last = prompt.tokens
            body["messages"] += [
                {"role": "assistant", "content": prose(random, 150)},
                {"role": "user", "content": prose(random, 60)},
            ]
    return {
        f"turns_{turns}_tokens": last,
        f"turns_{turns}_each_ms": statistics.median(spent),
        f"turns_{turns}_each_p95_ms": sorted(spent)[int(0.95 * len(spent))],
    }


def parts_of_10k(model: Path, repeats: int) -> dict[str, float]:
    """Where the time of a known prompt goes."""
    random, tokens = Random(1), tokens_for(model)
    body = chat(prose(random, 5000), "Why?")
    asyncio.run(described(tokens, body))
    exact = tokens._exact
    assert exact is not None
    template: ChatTemplate = exact.template
    text = template.render(body["messages"], None, {"add_generation_prompt": True})
    cut = exact.encoder.cut(text, False)

    def median_ms(work: Callable[[], Any]) -> float:
        spent = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            spent.append((time.perf_counter() - start) * 1e3)
        return statistics.median(spent)

    def walk() -> None:
        path = tokens._memo.walk(tokens._memo.root(NO_SCOPE), cut.flat)
        assert len(path) > len(cut.chunks)

    return {
        "part_10k_render_ms": median_ms(
            lambda: template.render(body["messages"], None, {"add_generation_prompt": True})
        ),
        "part_10k_cut_ms": median_ms(lambda: exact.encoder.cut("".join([text[:1], text[1:]]), False)),
        "part_10k_walk_ms": median_ms(walk),
        "part_10k_all_ms": median_ms(lambda: tokens.describe(ROUTE, body)),
    }


def inline_costs(model: Path) -> dict[str, float]:
    """What the two inline bounds allow the event loop to be held for."""
    random, limits, tokens = Random(3), Limits(), tokens_for(model)
    assert tokens._exact is not None
    encode, hashes = [], []
    for _ in range(20):
        text = prose(random, 2000)[: limits.inline_chars]
        start = time.perf_counter()
        tokens._exact.encoder.encode([text])
        encode.append((time.perf_counter() - start) * 1e3)
        ids = [random.randrange(4000) for _ in range(limits.inline_tokens)]
        start = time.perf_counter()
        DIALECT.chain(ids)
        hashes.append((time.perf_counter() - start) * 1e3)
    return {"inline_encode_bound_ms": statistics.median(encode), "inline_hash_bound_ms": statistics.median(hashes)}


async def measured(quick: bool) -> dict[str, float]:
    model, requests = tiny_model(), 60 if quick else 300
    figures = await shared_prefix(model, "prefix_10k", 5_000, requests)
    figures |= await shared_prefix(model, "prefix_100k", 50_000, requests // 3)
    return figures | await many_turns(model, 20, 3 if quick else 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object with figures and targets")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments = parser.parse_args()
    gc.freeze()
    figures = asyncio.run(measured(arguments.quick))
    model = tiny_model()
    figures |= parts_of_10k(model, 50 if arguments.quick else 200) | inline_costs(model)
    if arguments.json:
        print(json.dumps({"figures": figures, "targets": TARGETS}))
        return
    for name, value in figures.items():
        target = f"   target {' '.join(map(str, TARGETS[name]))}" if name in TARGETS else ""
        print(f"{name:32} {value:12,.3f}{target}")


if __name__ == "__main__":
    main()
