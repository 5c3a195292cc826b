"""A stage over time, from the outcomes of its requests."""

from collections.abc import Sequence

from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.outcomes import Moment, Outcome, spread


def timeline(outcomes: Sequence[Outcome], start_us: Micros, moments: int = 60) -> list[Moment]:
    """The stage in at most `moments` slices of equal length; the last one ends with the last answer.

    A request belongs to the slice in which it was sent, its tokens to the slice in which its answer ended. Refused ones
    were sent, and have neither times nor tokens. Nothing was asked: no slices.
    """
    if not outcomes:
        return []
    lasts_us = max(1, max(outcome.end_us for outcome in outcomes) - start_us)
    length_us = -(-lasts_us // moments)
    count = -(-lasts_us // length_us)
    sent: list[list[Outcome]] = [[] for _ in range(count)]
    tokens = [0] * count
    for outcome in outcomes:
        sent[min(max(0, outcome.sent_us - start_us) // length_us, count - 1)].append(outcome)
        if not outcome.refused:
            tokens[max(0, outcome.end_us - start_us - 1) // length_us] += outcome.counted_tokens
    per_second = SECOND / length_us
    return [_moment(i * length_us, sent[i], tokens[i] * per_second) for i in range(count)]


def _moment(at_us: int, sent: list[Outcome], output_per_second: float) -> Moment:
    served = [outcome for outcome in sent if not outcome.refused]
    prompts = sum(outcome.prompt_tokens for outcome in served)
    return Moment(
        at_us / SECOND,
        len(sent),
        spread([outcome.ttft_us for outcome in served]),
        spread([outcome.tpot_us for outcome in served if outcome.output_tokens > 1]),
        output_per_second,
        sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
    )
