"""Sequences of varied lengths on one engine: how many fit its KV space, with windows, states and what prompts share."""

from collections.abc import Sequence

from msgspec import Struct

from pilothouse.perf.memory import KV_BYTES
from pilothouse.perf.models import Model
from pilothouse.plan.memory import context_bytes
from pilothouse.plan.occupancy import of_pairs, overflow_probability, sequences_that_fit
from pilothouse.plan.size import Size


class Varied(Struct, frozen=True, kw_only=True):
    """Of one engine; each data-parallel rank by itself, added up."""

    sequences: int  # that fit
    by_means: float  # that would fit if all were half way through an answer of the mean length
    overflow: float  # allowed probability that those which run need more than there is
    overflow_by_means: float  # probability of it with as many as means tell
    mean_gb: float  # of a running sequence [1e9 B], all GPUs of its rank together
    prompt_tokens: float  # mean of those that arrive
    output_tokens: float
    source: str  # of the lengths
    limit: int = 0  # sequences that the engine runs at once, whatever fits; 0 = not known


def varied(
    model: Model,
    found: Size,
    pairs: Sequence[tuple[float, float, float]],
    shared: int,
    overflow: float,
    source: str,
    limit: int = 0,
) -> Varied:
    """pairs: (prompt, answer, weight) [tokens]; shared: the beginning of each prompt that all have, kept once [tokens]."""
    layout, byte = found.layout, KV_BYTES[found.kv_precision]
    ranks = layout.gpus // layout.dp  # GPUs that hold one sequence
    common = shared * found.kv_token_bytes

    def takes(tokens: float) -> float:
        return ranks * context_bytes(model, layout, tokens, byte) - min(common, tokens * found.kv_token_bytes)

    running = of_pairs(pairs, takes)
    space = max(0.0, found.kv_gb * 1e9 / layout.dp - common)
    total = sum(weight for _, _, weight in pairs)
    prompt = sum(prompt * weight for prompt, _, weight in pairs) / total
    output = sum(output * weight for _, output, weight in pairs) / total
    means = space / takes(prompt + output / 2)
    return Varied(
        sequences=sequences_that_fit(running, space, overflow) * layout.dp if space else 0,
        by_means=means * layout.dp,
        overflow=overflow,
        overflow_by_means=overflow_probability(running, space, int(means)) if means >= 1 else 1.0,
        mean_gb=running.mean / 1e9,
        prompt_tokens=prompt,
        output_tokens=output,
        source=source,
        limit=limit,
    )
