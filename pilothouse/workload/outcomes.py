"""What came of a workload: each request's times, and the metrics as the trade defines them.

Times count from the scheduled send time, so that a late client or a stalled server cannot hide queueing.

TTFT   first output that is not empty, minus the scheduled send time: client, gateway, queue and prefill included.
       inference-perf, guidellm and `vllm bench serve` count from the moment the client really sent
TPOT   (E2E - TTFT) / (output - 1), one value per request, none for answers of one token. The same in inference-perf and
       `vllm bench serve`; guidellm's includes the first token: E2E / output, which is NTPOT here
ITL    every gap between two outputs of one answer, over all answers, so long answers weigh more. Measured, a gap lies between
       chunks: where one carries several tokens, ITL exceeds TPOT. guidellm's is TPOT here: a mean per request
NTPOT  E2E / output tokens; the name is inference-perf's
E2E    last output minus the scheduled send time
Throughput over send + drain: counted tokens / (last answer - start of the stage), as in inference-perf and
       `vllm bench serve`; over the steady window: between the first end of an answer and the last send, when requests both
       come and go, with an answer's tokens spread evenly over its time. guidellm cuts off a warm-up and a cool-down by share
Goodput: requests per second over send + drain that meet every objective of their class
Requests that were refused, broke, timed out or were not sent count as `refused`, by reason in `errors`; they have no times in
       the figures above. `vllm bench serve` and guidellm leave them out of their request counts
Tokens are the server's own (`usage`) where it says; inference-perf tokenises the text anew and gets a few percent fewer
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log

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
    tenant: str = ""
    error: str = ""  # why it was refused, broke or was not sent; empty = it was served

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
    ttft_us_per_1k: Micros = Micros(0)  # added to `ttft_us` for each 1,000 prompt tokens

    def met(self, outcome: Outcome) -> bool:
        if outcome.refused:
            return False
        more_us = self.ttft_us_per_1k * outcome.prompt_tokens / 1000
        asked = (
            (self.ttft_us, outcome.ttft_us - more_us),
            (self.tpot_us, outcome.tpot_us),
            (self.e2e_us, outcome.e2e_us),
        )
        return all(limit is None or value <= limit for limit, value in asked)


class Spread(msgspec.Struct, frozen=True):
    """Mean and percentiles over requests [seconds]."""

    mean: float
    p50: float
    p90: float
    p99: float


REASONS_MAX = 20  # told apart in one summary
BUCKET = log(1.02)  # width of a histogram's buckets: two percent


def bucket_of(us: float) -> int:
    """The histogram's bucket of a duration. Everything below a microsecond is in the first."""
    return int(log(us) / BUCKET) if us > 1 else 0


@dataclass(slots=True)
class Histogram:
    """Durations by two-percent buckets: bounded, mergeable, exact in mean and count, percentiles within one percent."""

    counts: dict[int, int] = field(default_factory=dict)
    count: int = 0
    total_us: float = 0.0

    def add(self, us: float, times: int = 1) -> None:
        self.put(bucket_of(us), times, us * times)

    def put(self, bucket: int, times: int, total_us: float) -> None:
        """So many durations of one bucket, which add up to `total_us`."""
        self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.count += times
        self.total_us += total_us

    def merge(self, other: "Histogram") -> None:
        for bucket, times in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.count += other.count
        self.total_us += other.total_us

    def percentile_us(self, share: float) -> float:
        """Middle of the bucket in which that share of all durations is reached; 0 when there are none."""
        wanted, seen = share * self.count, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return exp((bucket + 0.5) * BUCKET)
        return 0.0

    def spread(self) -> Spread:
        p50, p90, p99 = (self.percentile_us(share) / SECOND for share in (0.5, 0.9, 0.99))
        return Spread(self.total_us / self.count / SECOND if self.count else 0.0, p50, p90, p99)


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
    itl: Spread = Spread(0.0, 0.0, 0.0, 0.0)  # over gaps, not over requests
    errors: dict[str, int] = {}  # reason -> requests, of `refused`
    steady_seconds: float = 0.0  # from the first end of an answer to the last send; 0 = there was no such time
    steady_output_per_second: float = 0.0  # counted tokens within it


class Moment(msgspec.Struct, frozen=True):
    """What the requests sent within one slice of a stage met. Times in seconds, `at_s` from the stage's beginning."""

    at_s: float
    sent: int  # requests
    ttft: Spread
    tpot: Spread
    output_per_second: float  # tokens of the answers that ended within the slice
    hit_ratio: float


class Sample(msgspec.Struct, frozen=True):
    """One replica at one moment, as its metrics would say."""

    at_s: float
    endpoint: EndpointId
    running: int
    waiting: int
    kv_used_ratio: float


class StageRun(msgspec.Struct, frozen=True):
    """One stage as it went."""

    name: str
    summary: Summary
    timeline: list[Moment] = []
    replicas: list[Sample] = []
    tenants: dict[str, Summary] = {}  # where there is more than one
    notes: list[str] = []  # what a reader must know, e.g. that the client itself was the bottleneck


class Run(msgspec.Struct, frozen=True):
    """One policy, or one address, under one load with one seed: what tables and reports are made of."""

    name: str  # policy, or where it was measured
    label: str  # Simulated, Emulated or Measured
    scenario: str
    load: float  # factor on the workload's own rate
    seed: int
    stages: list[StageRun]
    notes: list[str] = []

    @property
    def good_ratio(self) -> float:
        """Share of the requests that met every objective; refused ones did not."""
        stages = [stage.summary for stage in self.stages]
        good = sum(stage.goodput * stage.seconds for stage in stages)
        return good / max(1, sum(stage.requests for stage in stages))


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
    outcomes: Sequence[Outcome],
    start_us: Micros,
    offered_rate: float,
    label: str,
    objectives: Objectives,
    gaps: Histogram | None = None,
    tenants: Mapping[str, Objectives] | None = None,
) -> Summary:
    """Figures of one stage that began at `start_us`. `tenants`: those who have objectives of their own."""
    served = [outcome for outcome in outcomes if not outcome.refused]
    end_us = max((outcome.end_us for outcome in served), default=start_us + 1)
    seconds = (end_us - start_us) / SECOND
    prompts, own = sum(outcome.prompt_tokens for outcome in served), tenants or {}
    steady_seconds, steady_rate = steady(served)
    return Summary(
        label=label,
        requests=len(outcomes),
        refused=len(outcomes) - len(served),
        seconds=seconds,
        offered_rate=offered_rate,
        achieved_rate=len(served) / seconds,
        output_per_second=sum(outcome.counted_tokens for outcome in served) / seconds,
        goodput=sum(own.get(outcome.tenant, objectives).met(outcome) for outcome in served) / seconds,
        hit_ratio=sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
        ttft=spread([outcome.ttft_us for outcome in served]),
        tpot=spread([outcome.tpot_us for outcome in served if outcome.output_tokens > 1]),
        ntpot=spread([outcome.ntpot_us for outcome in served]),
        e2e=spread([outcome.e2e_us for outcome in served]),
        itl=(gaps or Histogram()).spread(),
        errors=reasons(outcomes),
        steady_seconds=steady_seconds,
        steady_output_per_second=steady_rate,
    )


def steady(served: Sequence[Outcome]) -> tuple[float, float]:
    """Seconds and output tokens per second of the time in which requests both come and go."""
    begin = min((outcome.end_us for outcome in served), default=0)
    end = max((outcome.sent_us for outcome in served), default=0)
    if end <= begin:
        return 0.0, 0.0
    tokens = 0.0
    for outcome in served:
        shared = min(end, outcome.end_us) - max(begin, outcome.first_us)
        lasted = outcome.end_us - outcome.first_us
        if lasted > 0 and shared > 0:
            tokens += outcome.counted_tokens * shared / lasted
        elif lasted == 0 and begin <= outcome.end_us <= end:
            tokens += outcome.counted_tokens
    seconds = (end - begin) / SECOND
    return seconds, tokens / seconds


def reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Why requests were not served, most frequent first; what is rare among very many reasons goes by one name."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.refused:
            why = outcome.error or "refused"
            counts[why] = counts.get(why, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[REASONS_MAX:])
    return dict(ordered[:REASONS_MAX]) | ({"other reasons": rest} if rest else {})
