"""The busiest requests of a workload, at a rate that stays: what is simulated to see whether a plan keeps what it promises.

A workload need not be as busy for as long as percentiles take to be told: so the time between its requests is drawn out or
pressed together until they come as often as the plan says, all the time. What each asks, and shares with others, stays.
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from pilothouse.core.units import SECOND, Micros, RequestId
from pilothouse.plan.asks import CELL_REQUESTS, users_of
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.requests import Stage, Workload

WARM_MAX = 1000  # requests of a stage that only warms up


def trimmed(workload: Workload, counted: int, lead: int) -> tuple[Workload, int]:
    """What warms up, and the busiest requests with those that lead to them; how many lead."""
    warm = [replace(stage, requests=stage.requests[:WARM_MAX]) for stage in workload.stages if not stage.reported]
    best, quickest = workload.stages[0], float("inf")
    first = 0
    for stage in workload.stages:
        if stage.reported and stage.requests:
            times = [planned.arrival_us for planned in stage.requests]
            at, gap_us = _busiest(times, counted, min(lead, len(times) // 3))
            if gap_us < quickest:
                best, first, quickest = stage, at, gap_us
    begin = max(0, first - lead)
    kept = best.requests[begin : first + counted]
    kept = [replace(p, arrival_us=Micros(p.arrival_us - kept[0].arrival_us)) for p in kept]
    return replace(workload, stages=[*warm, replace(best, requests=kept)]), first - begin


def looped(workload: Workload, requests: int) -> Workload:
    """What warms up, and of the stage with most users the first so many requests, twice as many as there are users at least."""
    warm = [replace(stage, requests=stage.requests[:WARM_MAX]) for stage in workload.stages if not stage.reported]
    best = max(workload.stages, key=lambda stage: stage.reported * users_of(stage))
    begun = [i for i, planned in enumerate(best.requests) if planned.after is None]
    least = 2 * (begun[-1] + 1)  # whoever begins last is among them, and so is what follows
    return replace(workload, stages=[*warm, replace(best, requests=best.requests[: max(requests, least)])])


def while_all_ask(stage: Stage, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those sent before the first of the users had nothing more to ask."""
    whose: dict[RequestId, RequestId] = {}
    for planned in stage.requests:
        whose[planned.request] = planned.request if planned.after is None else whose[planned.after]
    done_us: dict[RequestId, int] = {}
    for outcome in outcomes:
        user = whose[outcome.request]
        done_us[user] = max(done_us.get(user, 0), outcome.end_us)
    first = min(done_us.values(), default=0)
    return [outcome for outcome in outcomes if outcome.sent_us <= first]


def _busiest(times: Sequence[int], counted: int, lead: int) -> tuple[int, float]:
    """(where so many ascending times, behind `lead` others, are closest together, mean gap there)."""
    counted = min(counted, len(times) - lead)
    starts = range(lead, len(times) - counted + 1)
    first = min(starts, key=lambda i: times[i + counted - 1] - times[i])
    return first, (times[first + counted - 1] - times[first]) / counted


def paced(workload: Workload, lead: int, rate: float) -> Workload:
    """The same requests at a rate that stays: each `CELL_REQUESTS` of them, those that lead and those that count, take as
    long as so many take at `rate`. Within them, they come as they did."""

    def at_rate(stage: Stage) -> Stage:
        if not stage.reported or not stage.requests:
            return stage
        times = [planned.arrival_us for planned in stage.requests]
        ends = [*_parts(0, lead), *_parts(lead, len(times) - 1), len(times) - 1]
        now, slow = list[float](), [0.0]
        for first, last in pairwise(ends):
            took, takes = times[last] - times[first], (last - first) / rate * SECOND
            now += [slow[-1] + (times[i] - times[first]) * (takes / took if took else 0.0) for i in range(first, last)]
            slow.append(slow[-1] + takes)
        now.append(slow[-1])
        later = [replace(p, arrival_us=Micros(round(at))) for p, at in zip(stage.requests, now, strict=True)]
        return replace(stage, requests=later, rate=rate, seconds=slow[-1] / SECOND)

    return replace(workload, stages=[at_rate(stage) for stage in workload.stages])


def _parts(first: int, last: int) -> list[int]:
    """Where equal parts of about `CELL_REQUESTS` begin."""
    count = max(1, round((last - first) / CELL_REQUESTS))
    return [first + (last - first) * i // count for i in range(count)] if last > first else []
