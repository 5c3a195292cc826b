"""A plan tried in the simulator, at the rate that it promises to serve: the busiest time of its workload, at that rate.

A workload need not be as busy for as long as percentiles take to be told: so the time between its requests is drawn out or
pressed together until they come as often as the plan says, all the time. What each asks, and shares with others, stays.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from msgspec.structs import replace

from pilothouse.build import ENGINES_TAKE, Setting, played, ran
from pilothouse.config.scenario_load import policy_named
from pilothouse.core.dispatcher import DispatcherSettings
from pilothouse.core.units import SECOND, Micros
from pilothouse.plan.asks import CELL_REQUESTS, Asks
from pilothouse.plan.document import Confidence, Objective, Plan
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.simulated import Hardware, fleet_of
from pilothouse.sim.world import Fleet, settle
from pilothouse.workload.outcomes import Objectives, Run, percentile
from pilothouse.workload.requests import Stage, Workload

COUNTED_MIN = 1500  # requests of which figures are made: fewer tell little of a 95th percentile
LEAD_MIN = (
    1500  # requests before them, which fill caches; those that are older are missed, so hits are a little too few
)
LIVES, LIVES_LEAD = 6, 2.5  # the same, of the requests under way at a time
WARM_MAX = 1000  # requests of a stage that only warms up
TPOT_MAX_S = 0.2  # where a fleet cannot keep up
TELLING = 0.1  # sums and simulation may be as far apart before it is said


class Job(msgspec.Struct, frozen=True):
    """One simulation, ready to be sent to a process."""

    fleet: Fleet
    policy: Any
    workload: Workload
    percentile: int
    seed: int
    lead: int  # requests that come before caches and batches are as they stay, and do not count


class Rehearsed(msgspec.Struct, frozen=True):
    """What came of it. Times in seconds, at the percentile; infinite if so many requests got no answer."""

    requests: int
    ttft_s: float
    tpot_s: float
    output_per_s: float
    hit_ratio: float


Rehearse = Callable[[Sequence[Job]], list[Rehearsed]]  # on how many processes is for the caller to decide


def job(plan: Plan, hardware: Hardware, asks: Asks, workload: Workload, seed: int = 1, load: float = 1.0) -> Job:
    """`workload`: one by the clock. `load`: of the rate that the plan promises to serve."""
    expected = expected_of(plan)
    rate = expected.requests_per_s * load
    under_way = rate * asks.demand.output_mean * min(expected.tpot_s, TPOT_MAX_S)
    counted, lead = max(COUNTED_MIN, int(LIVES * under_way)), max(LEAD_MIN, int(LIVES_LEAD * under_way))
    asked, lead = trimmed(workload, counted, lead)
    if asks.rate:  # else all are there at once
        asked = paced(asked, lead, rate)
    fleet = fleet_of(plan, hardware, asks.demand.context_mean, asked.block_size)
    return Job(fleet, plan.policy, asked, plan.objective.percentile, seed, lead)


def rehearse(job: Job) -> Rehearsed:
    """In this process."""
    rules = DispatcherSettings(seed=job.seed, strict=True, waiting_max=ENGINES_TAKE)
    driver = played(job.fleet, rules, policy_named(job.policy), job.workload)
    reported = [result for result in driver.results if result.stage.reported]
    outcomes = [outcome for result in reported for outcome in settle(result, job.lead)]
    served, share = [outcome for outcome in outcomes if not outcome.refused], job.percentile / 100
    lost = [float("inf")] * (len(outcomes) - len(served))
    ttft = sorted(outcome.ttft_us / SECOND for outcome in served) + lost
    tpot = sorted(outcome.tpot_us / SECOND for outcome in served if outcome.output_tokens > 1) + lost
    seconds = (max(o.sent_us for o in outcomes) - min(o.sent_us for o in outcomes)) / SECOND if outcomes else 0.0
    prompts = sum(outcome.prompt_tokens for outcome in served)
    return Rehearsed(
        len(outcomes),
        percentile(ttft, share) if ttft else 0.0,
        percentile(tpot, share) if tpot else 0.0,
        sum(outcome.output_tokens for outcome in served) / seconds if seconds else 0.0,
        sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
    )


def confirmed(plan: Plan, done: Rehearsed) -> Plan:
    """With what the simulation gave; where sums gave something else, that is said."""
    expected = expected_of(plan)
    notes = [f"simulated: {done.requests:,} requests, hits {done.hit_ratio:.1%} of prompt tokens"]
    for name, summed, simulated, unit, scale in (
        ("TTFT", expected.ttft_s, done.ttft_s, "ms", 1e3),
        ("TPOT", expected.tpot_s, done.tpot_s, "ms", 1e3),
    ):
        if simulated and abs(summed / simulated - 1) > TELLING:
            notes.append(f"sums are {summed / simulated - 1:+.0%} off: {name} {summed * scale:.3g} {unit} by sums")
    made = replace(
        expected,
        ttft_s=done.ttft_s,
        tpot_s=done.tpot_s,
        output_per_s=done.output_per_s,
        confidence=Confidence.SIMULATED,
        notes=[*notes, *expected.notes],
    )
    return replace(plan, expected=made)


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
