"""The hit curve of `advise tiers`: is it exact on recorded traffic, and how long does it take for a million requests?

    python -m benchmarks.tiers [--quick] [--json]

Exact: on each trace, hits at ten capacities against a simulated LRU cache of that capacity, block by block. Time: process
time, of requests that were made before; the requests are conversations that share system prompts. Traces are looked for
beside the repository (`../shared/traces`); those that are missing are not measured.
"""

import argparse
import gc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from time import process_time

from benchmarks.report import Target, finish, say, table
from pilothouse.core.random_stream import stream
from pilothouse.core.units import BlockKey, Micros, RequestId
from pilothouse.workload.demand import succession, survey
from pilothouse.workload.requests import Planned, Stage, Workload
from pilothouse.workload.reuse import HitCurve, Reuse
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe
from pilothouse.workload.texts import held
from pilothouse.workload.traces import agentic, mooncake
from pilothouse.workload.traces.agentic import AgenticTrace
from pilothouse.workload.traces.mooncake import Mooncake

TRACES = Path(__file__).parents[2] / "shared" / "traces"
TARGETS: dict[str, Target] = {
    "conversation_differences": ("<=", 0),
    "synthetic_differences": ("<=", 0),
    "agentic_differences": ("<=", 0),
    "short_million_s": ("<=", 30),
    "long_million_s": ("<=", 30),
    "short_survey_million_s": ("<=", 60),
    "long_survey_million_s": ("<=", 60),
}
SIZES = 10
QUICK = 1500  # requests of each trace
SIZE = 16  # tokens of a block
USERS = 500  # conversations at a time
SYSTEM_PROMPTS, SYSTEM_BLOCKS = 50, 20


def recorded(name: str) -> Workload:
    """Answers included, as an engine would keep them."""
    if name == "agentic":
        sessions = agentic.parse([path.read_bytes() for path in sorted((TRACES / name).glob("*.json"))])
        spec = AgenticTrace("agentic", [Phase(users=10, count=len(sessions))])
        return Recipe(spec, conversations=sessions).make(1)
    rows = mooncake.parse((TRACES / f"mooncake_{name}_trace.jsonl").read_bytes())
    return Recipe(Mooncake("trace", answers=True), rows).make(1)


def at_once(_: Planned) -> float:
    """Every request is answered at once: any order will do, as long as both sides have the same."""
    return 0.0


def simulated(workload: Workload, requests: list[Planned], capacity: int) -> int:
    """Hits of one LRU cache: looks up block after block, then touches all from the tail on, then evicts."""
    cache: OrderedDict[object, None] = OrderedDict()
    hits, size = 0, workload.block_size
    for planned in requests:
        usable = min(len(planned.blocks), (planned.prompt_tokens - 1) // size)
        for key in planned.blocks[:usable]:
            if key not in cache:
                break
            hits += 1
        chain: list[object] = [*planned.blocks, *planned.output_blocks]
        full = held(planned.prompt_tokens, planned.output_tokens, size)
        chain += [(planned.request, i) for i in range(full - len(chain))]
        for key in reversed(chain):
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


def sizes(curve: HitCurve) -> list[int]:
    """Ten capacities, from a few blocks to more than enough, evenly in ratio."""
    most = max(curve.enough, 2)
    return [max(1, round(most ** (i / (SIZES - 2)))) for i in range(SIZES - 1)] + [curve.blocks]


def exactness(name: str, quick: bool) -> dict[str, float]:
    if not (TRACES / ("agentic" if name == "agentic" else f"mooncake_{name}_trace.jsonl")).exists():
        say(f"{name}: no trace in {TRACES}")
        return {}
    workload = recorded(name)
    (stage,) = workload.stages
    ordered = [planned for _, planned in succession(stage, at_once)][: QUICK if quick else None]
    if quick:
        kept = {planned.request for planned in ordered}
        stage = type(stage)(stage.name, stage.rate, stage.seconds, [p for p in stage.requests if p.request in kept])
        workload = Workload(workload.model, workload.block_size, [stage])
    start = process_time()
    curve = survey(workload, at_once).curve
    ours_s = process_time() - start
    start = process_time()
    rows, differences = [], 0
    for capacity in sizes(curve):
        expected, found = simulated(workload, ordered, capacity), curve.hits(capacity)
        differences += abs(expected - found)
        rows.append([f"{capacity:,}", f"{found:,}", f"{expected:,}", f"{found / curve.lookups:.2%}"])
    theirs_s = process_time() - start
    title = f"{name}: {len(ordered):,} requests, {curve.lookups:,} lookups, {curve.blocks:,} distinct blocks"
    table(title, ["blocks", "hits by the curve", "hits simulated", "of lookups"], rows)
    say(f"  all capacities {ours_s:.2f} s, ten simulated {theirs_s:.2f} s")
    return {f"{name}_differences": differences, f"{name}_s": ours_s, f"{name}_ceiling": curve.ceiling / curve.lookups}


def conversations(count: int, blocks: int) -> list[list[BlockKey]]:
    """Prompts of that many blocks in the mean, of users who speak in no order, begin anew, and share system prompts."""
    luck = stream(1, "tiers")
    turns = 8
    added = max(1, round((blocks - SYSTEM_BLOCKS) * 2 / turns))  # a conversation's mean prompt is half its last
    heads = [[BlockKey((head << 20) + i) for i in range(SYSTEM_BLOCKS)] for head in range(SYSTEM_PROMPTS)]
    said: list[list[BlockKey]] = [list(heads[user % SYSTEM_PROMPTS]) for user in range(USERS)]
    left = [luck.randrange(turns) for _ in range(USERS)]
    made, key = [], 1 << 40
    for _ in range(count):
        user = luck.randrange(USERS)
        if not left[user]:
            left[user], said[user] = turns, heads[luck.randrange(SYSTEM_PROMPTS)]
        left[user] -= 1
        said[user] = said[user] + [BlockKey(key + i) for i in range(added)]
        key += added
        made.append(said[user])
    return made


def speed(count: int, blocks: int, name: str) -> dict[str, float]:
    """Time of the requests, and what a million of them would take at that rate."""
    prompts = conversations(count, blocks)
    lookups = sum(map(len, prompts))
    gc.collect()
    start, counted = process_time(), Reuse()
    for prompt in prompts:
        counted.take(prompt, len(prompt))
    curve = counted.curve()
    spent = process_time() - start
    share = curve.ceiling / curve.lookups
    say(
        f"{name} prompts: {count:,} requests of {lookups / count:.0f} blocks: {spent:.1f} s, {share:.0%} of lookups can hit"
    )
    figures = {f"{name}_million_s": spent * 1_000_000 / count}
    requests = [
        Planned(RequestId(str(i)), Micros(i), prompt, len(prompt) * SIZE + 1, 1, 1) for i, prompt in enumerate(prompts)
    ]
    workload = Workload("m", SIZE, [Stage("all", 1.0, 1.0, requests)])
    gc.collect()
    start = process_time()
    assert survey(workload, at_once).curve.ceiling == curve.ceiling
    figures[f"{name}_survey_million_s"] = (process_time() - start) * 1_000_000 / count
    say(f"  all that advice needs of them, as a workload: {figures[f'{name}_survey_million_s']:.1f} s per million")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    parts: list[Callable[[], dict[str, float]]] = [
        lambda: exactness("conversation", options.quick),
        lambda: exactness("synthetic", options.quick),
        lambda: exactness("agentic", options.quick),
        lambda: speed(100_000 if options.quick else 1_000_000, 40, "short"),
        lambda: speed(30_000 if options.quick else 300_000, 200, "long"),
    ]
    for part in parts:
        figures |= part()
        gc.collect()
    finish(figures, TARGETS, options.json)


if __name__ == "__main__":
    main()
