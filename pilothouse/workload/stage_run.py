"""One stage's outcomes to what tables and reports show: its summary, its timeline, its tenants."""

from collections.abc import Mapping, Sequence

from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.outcomes import (
    Histogram,
    Moment,
    Objectives,
    Outcome,
    Sample,
    StageRun,
    spread,
    summarise,
)

SLICES_MAX = 60


def stage_run(
    name: str,
    outcomes: Sequence[Outcome],
    start_us: Micros,
    rate: float,
    label: str,
    objectives: Objectives,
    gaps: Mapping[str, Histogram],
    tenants: Mapping[str, Objectives] = {},
    replicas: Sequence[Sample] = (),
    notes: Sequence[str] = (),
) -> StageRun:
    """`gaps` by tenant; `tenants` have objectives of their own, the others those of all."""
    every = Histogram()
    for histogram in gaps.values():
        every.merge(histogram)
    summary = summarise(outcomes, start_us, rate, label, objectives, every)
    names = sorted({outcome.tenant for outcome in outcomes})
    parts = {}
    for tenant in names if len(names) > 1 else ():
        own = [outcome for outcome in outcomes if outcome.tenant == tenant]
        share = rate * len(own) / len(outcomes)
        parts[tenant] = summarise(own, start_us, share, label, tenants.get(tenant, objectives), gaps.get(tenant))
    return StageRun(name, summary, timeline(outcomes, start_us), list(replicas), parts, list(notes))


def timeline(outcomes: Sequence[Outcome], start_us: Micros) -> list[Moment]:
    """Slices of equal length, a second or more, over send + drain."""
    if not outcomes:
        return []
    end_us = max(max(outcome.sent_us, outcome.end_us) for outcome in outcomes)
    slice_us = max(SECOND, -(-(end_us - start_us + 1) // SLICES_MAX))
    count = (end_us - start_us) // slice_us + 1
    sent: list[list[Outcome]] = [[] for _ in range(count)]
    ended = [0] * count
    for outcome in outcomes:
        sent[max(0, outcome.sent_us - start_us) // slice_us].append(outcome)
        if not outcome.refused:
            ended[(outcome.end_us - start_us) // slice_us] += outcome.counted_tokens
    moments = []
    for i, (group, tokens) in enumerate(zip(sent, ended, strict=True)):
        served = [outcome for outcome in group if not outcome.refused]
        prompts = sum(outcome.prompt_tokens for outcome in served)
        moments.append(
            Moment(
                at_s=i * slice_us / SECOND,
                sent=len(group),
                ttft=spread([outcome.ttft_us for outcome in served]),
                tpot=spread([outcome.tpot_us for outcome in served if outcome.output_tokens > 1]),
                output_per_second=tokens * SECOND / slice_us,
                hit_ratio=sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
            )
        )
    return moments
