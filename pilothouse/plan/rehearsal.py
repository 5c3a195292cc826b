"""A plan tried in the simulator: the dispatcher that will be deployed, on engines as the plan has them.

A lane (`engines.py`) is simulated as an engine of its own: data-parallel ranks and stages each have their batch and their KV.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from pilothouse.build import ENGINES_TAKE, played
from pilothouse.config.scenario import Lateness, Link
from pilothouse.config.scenario_load import policy_named
from pilothouse.core.dispatcher import DispatcherSettings
from pilothouse.core.events import Role
from pilothouse.core.units import SECOND, Micros
from pilothouse.perf.catalog import Gpu, Model
from pilothouse.plan.analytic import Fleet as SumFleet
from pilothouse.plan.analytic import Pool as Sums
from pilothouse.plan.asks import Asks
from pilothouse.plan.document import ClassExpected, Confidence, Expected, Objective, Plan
from pilothouse.plan.engines import engine_of
from pilothouse.sim.delays import Delays
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Fleet, Pool
from pilothouse.workload.outcomes import Outcome, percentile
from pilothouse.workload.requests import Stage, Workload

COUNTED_MIN = 1500  # requests of which figures are made: fewer tell little of a 95th percentile
LEAD_MIN = (
    1500  # requests before them, which fill caches; those that are older are missed, so hits are a little too few
)
LIVES, LIVES_LEAD = 6, 2.5  # the same, of the requests under way at a time
WARM_MAX = 1000  # requests of a stage that only warms up
TPOT_MAX_S = 0.2  # where a fleet cannot keep up
CLASS_MIN = 100  # requests of one class
TELLING = 0.1  # sums and simulation may be as far apart before it is said


class Job(msgspec.Struct, frozen=True):
    """One simulation, ready to be sent to a process."""

    fleet: Fleet
    policy: Any
    workload: Workload
    percentile: int
    seed: int
    lead: int  # requests that come before caches and batches are as they stay, and do not count
    classes: dict[str, Objective] = {}  # by tenant, where one has its own


class Rehearsed(msgspec.Struct, frozen=True):
    """What came of it. Times in seconds, at the percentile; infinite if so many requests got no answer."""

    requests: int
    ttft_s: float
    tpot_s: float
    output_per_s: float
    hit_ratio: float
    classes: dict[str, "Met"] = {}


class Met(msgspec.Struct, frozen=True):
    """What one class met, likewise."""

    requests: int
    ttft_s: float
    tpot_s: float


Rehearse = Callable[[Sequence[Job]], list[Rehearsed]]  # on how many processes is for the caller to decide


def job(plan: Plan, model: Model, gpu: Gpu, asks: Asks, workload: Workload, seed: int = 1) -> Job:
    """As `pilothouse sim` takes a fleet of which nothing else is said. The workload is one by the clock."""
    expected = expected_of(plan)
    under_way = expected.requests_per_s * asks.demand.output_mean * min(expected.tpot_s, TPOT_MAX_S)
    counted, lead = max(COUNTED_MIN, int(LIVES * under_way)), max(LEAD_MIN, int(LIVES_LEAD * under_way))
    asked, lead = trimmed(workload, counted, lead)
    load = expected.requests_per_s / asks.rate
    asked = slowed(asked, load) if load < 1 else asked
    objectives = {name: plan.classes.get(name, plan.objective) for name in expected.classes}
    fleet = fleet_of(sums_of(plan, model, gpu, asks.demand.context_mean), asked.block_size, model.name)
    return Job(fleet, plan.policy, asked, plan.objective.percentile, seed, lead, objectives)


def sums_of(plan: Plan, model: Model, gpu: Gpu, context: float) -> SumFleet:
    """The plan's engines as `analytic.py` has them. `context`: mean length of a sequence [tokens]."""
    made = {pool.role: Sums(engine_of(pool, model, gpu, context), pool.replicas) for pool in plan.pools}
    return SumFleet(made.get(Role.BOTH) or made[Role.DECODE], made.get(Role.PREFILL))


def fleet_of(fleet: SumFleet, block_size: int, exchange: str) -> Fleet:
    """The same engines for the simulator. `exchange`: what both ends of a transfer have alike."""
    late = Lateness()
    delays = Delays(
        network_us=late.network.us,
        kv_event_us=late.kv_events.us,
        scrape_us=late.scrape_every.us,
        scraped_us=late.scraped.us,
        tokenise_us=late.tokenise.us,
    )
    if fleet.prefill is None:
        return Fleet([_pool(fleet.serving, Role.BOTH, block_size, exchange)], delays)
    pair = (fleet.prefill, Role.PREFILL), (fleet.serving, Role.DECODE)
    return Fleet([_pool(pool, role, block_size, exchange) for pool, role in pair], delays)


def _pool(pool: Sums, role: Role, block_size: int, exchange: str) -> Pool:
    engine, link = pool.engine, Link()
    spec = EngineSpec(
        engine.step_time,
        max(1, engine.kv_tokens // block_size),
        block_size,
        engine.batched_tokens,
        min(engine.sequences, engine.batched_tokens),
        steps_ahead=1,
    )
    made = Pool("engines" if role is Role.BOTH else role.value, pool.lanes, spec, exact=True)
    if role is Role.BOTH:
        return made
    return replace(
        made,
        role=role,
        connector="nixl",
        exchange=exchange,
        kv_token_bytes=int(engine.token_bytes),
        link_bytes_per_us=link.gb_per_s * 1e3,
        link_latency_us=link.latency.us,
    )


def rehearse(job: Job) -> Rehearsed:
    """In this process."""
    rules = DispatcherSettings(seed=job.seed, strict=True, waiting_max=ENGINES_TAKE)
    driver = played(job.fleet, rules, policy_named(job.policy), job.workload)
    outcomes = [outcome for result in driver.results if result.stage.reported for outcome in result.outcomes]
    outcomes = sorted(outcomes, key=lambda outcome: outcome.sent_us)
    outcomes = outcomes[min(job.lead, len(outcomes) // 2) :]
    served, met = [outcome for outcome in outcomes if not outcome.refused], _met(outcomes, job.percentile)
    classes = {
        name: _met([outcome for outcome in outcomes if outcome.tenant == name], objective.percentile)
        for name, objective in job.classes.items()
    }
    seconds = (max(o.sent_us for o in outcomes) - min(o.sent_us for o in outcomes)) / SECOND if outcomes else 0.0
    prompts = sum(outcome.prompt_tokens for outcome in served)
    return Rehearsed(
        len(outcomes),
        met.ttft_s,
        met.tpot_s,
        sum(outcome.output_tokens for outcome in served) / seconds if seconds else 0.0,
        sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
        classes,
    )


def _met(outcomes: Sequence[Outcome], percent: int) -> Met:
    served = [outcome for outcome in outcomes if not outcome.refused]
    lost = [float("inf")] * (len(outcomes) - len(served))
    ttft = sorted(outcome.ttft_us / SECOND for outcome in served) + lost
    tpot = sorted(outcome.tpot_us / SECOND for outcome in served if outcome.output_tokens > 1) + lost
    first, pace = (percentile(values, percent / 100) if values else 0.0 for values in (ttft, tpot))
    return Met(len(outcomes), first, pace)


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
    notes += _class_notes(expected.classes, done.classes)
    few = [f"{name} {met.requests}" for name, met in done.classes.items() if met.requests < CLASS_MIN]
    notes += [f"few requests of a class tell little of its percentile: {', '.join(few)}"] if few else []
    classes = {
        name: ClassExpected.under(
            plan.classes.get(name, plan.objective), expected.classes[name].requests_per_s, met.ttft_s, met.tpot_s
        )
        if met.requests
        else expected.classes[name]
        for name, met in done.classes.items()
    }
    made = replace(
        expected,
        classes=classes,
        ttft_s=done.ttft_s,
        tpot_s=done.tpot_s,
        output_per_s=done.output_per_s,
        confidence=Confidence.SIMULATED,
        notes=[*notes, *expected.notes],
    )
    return replace(plan, expected=made)


def _class_notes(sums: Mapping[str, ClassExpected], done: Mapping[str, Met]) -> list[str]:
    off = [
        f"{name} {figure} {summed / simulated - 1:+.0%}"
        for name, met in done.items()
        for figure, summed, simulated in (
            ("TTFT", sums[name].ttft_s, met.ttft_s),
            ("TPOT", sums[name].tpot_s, met.tpot_s),
        )
        if simulated and abs(summed / simulated - 1) > TELLING
    ]
    return [f"sums of single classes are off: {', '.join(off)}"] if off else []


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


def slowed(workload: Workload, load: float) -> Workload:
    """The same requests at so much of their rate."""

    def stretched(stage: Stage) -> Stage:
        later = [replace(p, arrival_us=Micros(round(p.arrival_us / load))) for p in stage.requests]
        return replace(stage, requests=later, rate=stage.rate * load, seconds=stage.seconds / load)

    return replace(workload, stages=[stretched(stage) for stage in workload.stages])


def expected_of(plan: Plan) -> Expected:
    assert plan.expected is not None
    return plan.expected
