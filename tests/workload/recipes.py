"""One small recipe of every kind, traces included, and the laws that all workloads keep."""

import json
from itertools import pairwise

from pilothouse.core.units import BlockKey, Micros, Seconds
from pilothouse.workload.agentic import Agentic
from pilothouse.workload.arrivals import Arrivals, Bursts, Diurnal, Gamma
from pilothouse.workload.batch import Batch
from pilothouse.workload.chat import Chat
from pilothouse.workload.lengths import Lognormal
from pilothouse.workload.mix import Mix, Tenant
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.rag import Rag
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase
from pilothouse.workload.shared_prefix import Load, SharedPrefix
from pilothouse.workload.spec import Recipe
from pilothouse.workload.traces import agentic, azure, mooncake, sharegpt
from pilothouse.workload.traces.agentic import AgenticTrace
from pilothouse.workload.traces.azure import Azure, Prefixes
from pilothouse.workload.traces.mooncake import Mooncake
from pilothouse.workload.traces.sharegpt import ShareGpt

SECOND = 1_000_000
RATE = [Phase(rate=3, seconds=Seconds(5)), Phase(rate=6, seconds=Seconds(5))]
USERS = [Phase(users=3, count=7, ramp_us=Micros(2 * SECOND), pause_us=Micros(SECOND))]


def mooncake_rows() -> bytes:
    """Two ticks of 3 s; the third row continues the first, the second shares only the block that all share."""
    rows = [
        (0, 1500, 700, [0, 1, 2]),
        (0, 1100, 5, [0, 3, 4]),
        (3000, 2600, 9, [0, 1, 5, 6, 7, 8]),
        (3000, 512, 1, [0]),
        (6000, 40, 2, [9]),
        (6000, 40, 2, [10]),
    ]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    return "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows).encode()


def azure_rows(count: int = 120) -> bytes:
    lines = [
        f"2023-11-16 18:{15 + i * 5 // 60}:{i * 5 % 60:02}.{i:03}0000,{60 + i * 97 % 1500},{7 + i * 31 % 200}"
        for i in range(count)
    ]
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]).encode()


def sharegpt_rows() -> bytes:
    system = list(range(100, 140))
    rows = [
        {"arrival_time_ns": i * 10**8, "input_tok_ids": [*system, *range(i, i + 30)], "output_tok_ids": [7] * (20 + i)}
        for i in range(6)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def agentic_session(sub_agents: bool = True) -> bytes:
    """Tools and system prompt of three blocks; with sub-agents side by side after the first request."""

    def request(t: float, tokens: int, output: int, ids: list[int]) -> dict[str, object]:
        return {"t": t, "type": "s", "in": tokens, "out": output, "hash_ids": ids, "api_time": 1.0}

    subs = [
        {"t": 4.0, "type": "subagent", "requests": [request(4, 400, 10, [1, 2, 3, 21, 22, 23])]},
        {"t": 4.0, "type": "subagent", "requests": [request(4, 350, 90, [1, 2, 3, 31, 32])]},
    ]
    first, second = request(0, 330, 140, [1, 2, 3, 4, 5]), request(9, 600, 20, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    third = request(500, 700, 20, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    head = {"block_size": 64, "tool_tokens": 128, "system_tokens": 64}
    return json.dumps(head | {"requests": [first, *(subs if sub_agents else []), second, third]}).encode()


CHAT = Recipe(Chat(USERS, turns=(1, 4), context_max=9000))
RECIPES = {
    "shared_prefix": Recipe(SharedPrefix(loads=[Load(5, Seconds(4)), Load(8, Seconds(4))], groups=4)),
    "open_loop": Recipe(OpenLoop(4, Seconds(5), prefixes=2, prefix_tokens=100)),
    "open_loop stages": Recipe(OpenLoop(phases=[*RATE, *USERS], arrivals=Gamma(0.5))),
    "chat users": CHAT,
    "chat rate": Recipe(Chat(RATE, Diurnal(Micros(4 * SECOND)), turns=3)),
    "rag": Recipe(Rag(RATE, Bursts(Micros(SECOND), Micros(SECOND)), documents=5, document_tokens=(300, 900))),
    "agentic": Recipe(Agentic(USERS, branches=0.3, steps=(2, 6), system_tokens=900, context_max=30_000)),
    "batch": Recipe(Batch(9, system_tokens=100)),
    "batch steady": Recipe(Batch(9, Micros(3 * SECOND), output_tokens=Lognormal(100, 500, 400))),
    "mix": Recipe(Mix([Tenant("a", {}), Tenant("b", {}, 2.0)]), parts=[CHAT, Recipe(OpenLoop(2, Seconds(5)))]),
    "mooncake": Recipe(Mooncake("f", answers=True), mooncake.parse(mooncake_rows())),
    "azure": Recipe(Azure("f"), azure.parse(azure_rows())),
    "azure system": Recipe(Azure("f", prefixes=Prefixes.SYSTEM), azure.parse(azure_rows())),
    "azure none": Recipe(Azure("f", prefixes=Prefixes.NONE), azure.parse(azure_rows())),
    "sharegpt": Recipe(ShareGpt("f"), sharegpt.parse(sharegpt_rows(), 16)),
    "agentic trace": Recipe(
        AgenticTrace("f", USERS), conversations=agentic.parse([agentic_session(), agentic_session(False)])
    ),
    "agentic trace rate": Recipe(
        AgenticTrace("f", RATE, Arrivals.UNIFORM), conversations=agentic.parse([agentic_session()])
    ),
}


def check(workload: Workload) -> None:
    """What every workload keeps."""
    size = workload.block_size
    names = [planned.request for stage in workload.stages for planned in stage.requests]
    assert len(set(names)) == len(names) > 0
    before: dict[BlockKey, BlockKey | None] = {}  # the block in front of a block
    for stage in workload.stages:
        seen = set()
        clocked = [planned.arrival_us for planned in stage.requests if planned.after is None]
        assert clocked == sorted(clocked)
        for planned in stage.requests:
            assert planned.arrival_us >= 0 and planned.prompt_tokens > 0 and planned.output_tokens > 0
            assert planned.after is None or planned.after in seen
            seen.add(planned.request)
            assert len(planned.blocks) == planned.prompt_tokens // size
            full = [*planned.blocks, *planned.output_blocks]
            assert len(full) <= max((planned.prompt_tokens + planned.output_tokens - 1) // size, len(planned.blocks))
            assert full[:1] == [] or before.setdefault(full[0], None) is None
            assert all(before.setdefault(key, previous) == previous for previous, key in pairwise(full))
