"""What a workload is, in a few figures: how much, how long, how much of it shared. Before anything was sent."""

from collections.abc import Sequence

import msgspec

from pilothouse.core.units import BlockKey
from pilothouse.workload.outcomes import percentile
from pilothouse.workload.requests import Workload


class TokenSpread(msgspec.Struct, frozen=True):
    """Tokens per request."""

    mean: float
    p50: float
    p99: float
    most: int


class Profile(msgspec.Struct, frozen=True):
    """Of the reported stages; what came before them is in the cache."""

    requests: int
    conversations: int  # sessions with a key
    prompt: TokenSpread
    output: TokenSpread
    shared_ratio: float  # of prompt tokens: the hit rate of one cache without limit
    seconds: float  # of stages by the clock
    rate: float  # requests per second, where all of them go by the clock; else 0
    prompt_per_second: float  # offered tokens, likewise
    output_per_second: float


def describe(workload: Workload) -> Profile:
    """Counts every request of every stage, in the order of the list."""
    prompts: list[int] = []
    outputs: list[int] = []
    seen: set[BlockKey] = set()
    sessions: set[int] = set()
    hits = 0
    for stage in workload.stages:
        for planned in stage.requests:
            # The last token is always computed: an engine needs it to go on.
            held = _held(seen, planned.blocks)
            usable = min(held, (planned.prompt_tokens - 1) // workload.block_size)
            seen.update(planned.blocks[held:])
            seen.update(planned.output_blocks)
            if stage.reported:
                hits += usable * workload.block_size
                prompts.append(planned.prompt_tokens)
                outputs.append(planned.output_tokens)
                if planned.session:
                    sessions.add(planned.session)
    reported = [stage for stage in workload.stages if stage.reported]
    by_clock = all(abs(stage.rate * stage.seconds - len(stage.requests)) < 1 for stage in reported)
    seconds = sum(stage.seconds for stage in reported)
    per_second = 1 / seconds if by_clock and seconds else 0.0
    return Profile(
        requests=len(prompts),
        conversations=len(sessions),
        prompt=_spread(prompts),
        output=_spread(outputs),
        shared_ratio=hits / sum(prompts) if prompts else 0.0,
        seconds=seconds,
        rate=len(prompts) * per_second,
        prompt_per_second=sum(prompts) * per_second,
        output_per_second=sum(outputs) * per_second,
    )


def _held(seen: set[BlockKey], blocks: Sequence[BlockKey]) -> int:
    """How many of the first blocks are there: keys are chained, so none is missing before one that is there."""
    low, high = 0, len(blocks)
    while low < high:
        middle = (low + high) // 2
        if blocks[middle] in seen:
            low = middle + 1
        else:
            high = middle
    return low


def _spread(tokens: list[int]) -> TokenSpread:
    if not tokens:
        return TokenSpread(0.0, 0.0, 0.0, 0)
    ordered = sorted(tokens)
    return TokenSpread(sum(ordered) / len(ordered), percentile(ordered, 0.5), percentile(ordered, 0.99), ordered[-1])
