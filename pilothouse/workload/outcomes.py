"""What came of a workload: each request's times, and the metrics as the trade defines them.

TTFT   first output minus the scheduled send time: client, gateway, queue and prefill included
TPOT   (E2E - TTFT) / (output - 1), one value per request; the first token is not in it (guidellm counts it in)
ITL    gaps between chunks; with one token per chunk, as here, its mean over one request is its TPOT
NTPOT  E2E / output tokens
E2E    last output minus the scheduled send time
Throughput over send + drain: counted tokens / (last answer - start of the stage), as inference-perf does
Goodput: requests per second that meet every objective of their class
"""

from collections.abc import Sequence

import msgspec

from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId


class Outcome(msgspec.Struct, frozen=True):
    """One request, from its scheduled send time on. `refused` requests have no times, and count."""

    request: RequestId
    sent_us: Micros
    first_us: Micros
    end_us: Micros
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    counted_tokens: int
    endpoint: EndpointId
    refused: bool = False

    @property
    def ttft_us(self) -> int:
        return self.first_us - self.sent_us

    @property
    def e2e_us(self) -> int:
        return self.end_us - self.sent_us

    @property
    def tpot_us(self) -> float:
        return (self.end_us - self.first_us) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0

    @property
    def ntpot_us(self) -> float:
        return self.e2e_us / self.output_tokens


class Objectives(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service level: every one of these, for each request. None = not asked for."""

    ttft_us: Micros | None = None
    tpot_us: Micros | None = None
    e2e_us: Micros | None = None

    def met(self, outcome: Outcome) -> bool:
        if outcome.refused:
            return False
        asked = ((self.ttft_us, outcome.ttft_us), (self.tpot_us, outcome.tpot_us), (self.e2e_us, outcome.e2e_us))
        return all(limit is None or value <= limit for limit, value in asked)


class Spread(msgspec.Struct, frozen=True):
    """Mean and percentiles over requests [seconds]."""

    mean: float
    p50: float
    p90: float
    p99: float


class Summary(msgspec.Struct, frozen=True):
    """One stage. `label` says where the figures come from: Measured, Simulated, Emulated."""

    label: str
    requests: int
    refused: int
    seconds: float  # send + drain
    offered_rate: float  # requests per second
    achieved_rate: float  # requests per second over send + drain
    output_per_second: float  # counted tokens over send + drain
    goodput: float  # requests per second that met the objectives, over send + drain
    hit_ratio: float  # of prompt tokens
    ttft: Spread
    tpot: Spread
    ntpot: Spread
    e2e: Spread


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ascending values, linear between neighbours; `share` 0..1."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(values_us: Sequence[float]) -> Spread:
    """All zero where there are no values."""
    ordered = sorted(value / SECOND for value in values_us)
    if not ordered:
        return Spread(0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
    return Spread(sum(ordered) / len(ordered), p50, p90, p99)


def summarise(
    outcomes: Sequence[Outcome], start_us: Micros, offered_rate: float, label: str, objectives: Objectives
) -> Summary:
    """Figures of one stage that began at `start_us`."""
    served = [outcome for outcome in outcomes if not outcome.refused]
    end_us = max((outcome.end_us for outcome in served), default=start_us + 1)
    seconds = (end_us - start_us) / SECOND
    prompts = sum(outcome.prompt_tokens for outcome in served)
    return Summary(
        label=label,
        requests=len(outcomes),
        refused=len(outcomes) - len(served),
        seconds=seconds,
        offered_rate=offered_rate,
        achieved_rate=len(served) / seconds,
        output_per_second=sum(outcome.counted_tokens for outcome in served) / seconds,
        goodput=sum(objectives.met(outcome) for outcome in served) / seconds,
        hit_ratio=sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
        ttft=spread([outcome.ttft_us for outcome in served]),
        tpot=spread([outcome.tpot_us for outcome in served if outcome.output_tokens > 1]),
        ntpot=spread([outcome.ntpot_us for outcome in served]),
        e2e=spread([outcome.e2e_us for outcome in served]),
    )
