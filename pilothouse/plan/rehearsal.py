"""A plan tried in the simulator, at the rate that it promises to serve, and what that makes of its promise."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from pilothouse.build import ENGINES_TAKE, Setting, played, ran
from pilothouse.config.scenario_load import policy_named
from pilothouse.core.dispatcher import DispatcherSettings
from pilothouse.core.units import SECOND, Micros
from pilothouse.plan.analytic import INFINITE
from pilothouse.plan.asks import Asks, by_clock, spread
from pilothouse.plan.busiest import looped, paced, trimmed, while_all_ask
from pilothouse.plan.document import ClassExpected, Confidence, Expected, Objective, Plan
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.simulated import Hardware, fleet_of
from pilothouse.sim.clients import StageResult
from pilothouse.sim.world import Fleet, Pool, settle
from pilothouse.workload.goodput import goodput_note
from pilothouse.workload.outcomes import Objectives, Outcome, Run, percentile
from pilothouse.workload.requests import Workload

COUNTED_MIN = 1500  # requests of which figures are made: fewer tell little of a 95th percentile
COUNTED_MAX = 6000  # where a rare class asks for more
LEAD_MIN = (
    1500  # requests before them, which fill caches; those that are older are missed, so hits are a little too few
)
LIVES, LIVES_LEAD = 6, 2.5  # the same, of the requests under way at a time
TPOT_MAX_S = 0.2  # where a fleet cannot keep up
BEYOND_MIN = 10  # requests beyond a percentile
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
    closed: bool = (
        False  # users ask when they are answered: what is sent after the first of them is done does not count
    )
    classes: dict[str, Objective] = {}  # by tenant, where one has its own


class Rehearsed(msgspec.Struct, frozen=True):
    """What came of it. Times in seconds, at the percentile; infinite if so many requests got no answer."""

    requests: int
    ttft_s: float
    tpot_s: float
    requests_per_s: float  # as they came; of those that came all at once, as they were served
    output_per_s: float
    hit_ratio: float
    at_once: bool = False
    closed: bool = False  # users asked as they were answered
    classes: dict[str, "Met"] = {}


class Met(msgspec.Struct, frozen=True):
    """What one class met, likewise."""

    requests: int
    ttft_s: float
    tpot_s: float


def job(plan: Plan, hardware: Hardware, asks: Asks, workload: Workload, seed: int = 1, load: float = 1.0) -> Job:
    """What shows what the plan promises.

    workload   one by the clock, or a closed loop, whose requests come by the clock where it is asked for at another load
    load       of the rate that the plan promises to serve
    """
    expected = expected_of(plan)
    rate = expected.requests_per_s * load
    under_way = rate * asks.demand.output_mean * min(expected.tpot_s, TPOT_MAX_S)
    counted, lead = max(COUNTED_MIN, int(LIVES * under_way)), max(LEAD_MIN, int(LIVES_LEAD * under_way))
    if expected.classes:  # the rarest has as many as tell something
        rarest = min(asks.classes[name].share for name in expected.classes)
        counted = max(counted, min(COUNTED_MAX, int(1.2 * CLASS_MIN / rarest)))
    closed = asks.closed is not None and load == 1
    if asks.closed is not None and not closed:
        workload = by_clock(workload, lambda p: (expected.ttft_s + expected.tpot_s * p.output_tokens) * SECOND)
        workload = spread(workload, seed)
    if closed:
        asked = looped(workload, counted + lead)
    else:
        asked, lead = trimmed(workload, counted, lead if asks.rate else 0)
    if asks.rate and not closed:  # else all are there at once
        asked = paced(asked, lead, rate)
    fleet = fleet_of(plan, hardware, asks.demand.context_mean, asked.block_size)
    objectives = {name: plan.classes.get(name, plan.objective) for name in expected.classes}
    return Job(fleet, plan.policy, asked, plan.objective.percentile, seed, lead, closed, objectives)


def rehearse(job: Job) -> Rehearsed:
    """In this process."""
    rules = DispatcherSettings(seed=job.seed, strict=True, waiting_max=ENGINES_TAKE)
    driver = played(job.fleet, rules, policy_named(job.policy), job.workload)
    reported = [result for result in driver.results if result.stage.reported]
    outcomes = [outcome for result in reported for outcome in _counted(job, result)]
    served, met = [outcome for outcome in outcomes if not outcome.refused], _met(outcomes, job.percentile)
    classes = {
        name: _met([outcome for outcome in outcomes if outcome.tenant == name], objective.percentile)
        for name, objective in job.classes.items()
    }
    begin, last = (min(o.sent_us for o in outcomes), max(o.sent_us for o in outcomes)) if outcomes else (0, 0)
    at_once = last == begin
    if at_once:
        last = max((outcome.end_us for outcome in served), default=begin)
    seconds = (last - begin) / SECOND
    prompts = sum(outcome.prompt_tokens for outcome in served)
    return Rehearsed(
        requests=len(outcomes),
        ttft_s=met.ttft_s,
        tpot_s=met.tpot_s,
        requests_per_s=len(served) / seconds if seconds else 0.0,
        output_per_s=sum(outcome.output_tokens for outcome in served) / seconds if seconds else 0.0,
        hit_ratio=sum(outcome.cached_tokens for outcome in served) / prompts if prompts else 0.0,
        at_once=at_once,
        closed=job.closed,
        classes=classes,
    )


def _counted(job: Job, result: StageResult) -> list[Outcome]:
    """Leaves what counts of a stage."""
    if job.closed:
        result.outcomes = while_all_ask(result.stage, result.outcomes)
    return settle(result, job.lead)


def _met(outcomes: Sequence[Outcome], percent: int) -> Met:
    served = [outcome for outcome in outcomes if not outcome.refused]
    lost = [float("inf")] * (len(outcomes) - len(served))
    ttft = sorted(outcome.ttft_us / SECOND for outcome in served) + lost
    tpot = sorted(outcome.tpot_us / SECOND for outcome in served if outcome.output_tokens > 1) + lost
    first, pace = (percentile(values, percent / 100) if values else 0.0 for values in (ttft, tpot))
    return Met(len(outcomes), first, pace)


class Trials(msgspec.Struct, frozen=True):
    """One plan under several loads, ready to be simulated anywhere."""

    plan: Plan
    jobs: dict[tuple[float, int], Job]  # (load, seed) -> what is simulated

    def run(self, policy: Any, load: float, seed: int, progress: Callable[[float], None]) -> Run:
        job, plan = self.jobs[load, seed], self.plan
        general, own = _objectives(plan.objective), {name: _objectives(each) for name, each in plan.classes.items()}
        notes = [goodput_note(general, own), *map(_said, job.fleet.pools)]
        setting = Setting(plan.name, general, own, notes=notes, count=partial(_counted, job))
        return ran(job.fleet, job.workload, policy, setting, load, seed, progress)


def _objectives(objective: Objective) -> Objectives:
    ttft, tpot = (
        None if limit is None else Micros(round(limit * SECOND)) for limit in (objective.ttft_s, objective.tpot_s)
    )
    return Objectives(ttft, tpot)


def _said(pool: Pool) -> str:
    spec = pool.engine
    room = f"{spec.kv_blocks:,} KV blocks of {spec.block_size} tokens each"
    times = f"step times {spec.step_time.label}: {spec.step_time.source}"
    drafts = "" if spec.speculation is None else f"; speculation {spec.speculation.method}, Estimated"
    return f"pool {pool.name}: {pool.replicas} engines or ranks, each with {room}; {times}{drafts}"


def confirmed(plan: Plan, done: Rehearsed) -> Plan:
    """With what the simulation gave; where sums gave something else, that is said."""
    expected = expected_of(plan)
    notes = [f"simulated: {done.requests:,} requests, hits {done.hit_ratio:.1%} of prompt tokens"]
    if done.requests * (1 - plan.objective.percentile / 100) < BEYOND_MIN:
        notes.append(f"{done.requests:,} requests tell little of a {plan.objective.percentile}th percentile")
    figures = [("TPOT", expected.tpot_s, done.tpot_s, f"{expected.tpot_s * 1e3:.3g} ms")]
    if expected.requests_per_s and done.requests_per_s:  # the busiest part may be of other classes than the whole is
        summed, tried = (each.output_per_s / each.requests_per_s for each in (expected, done))
        figures += [("tokens of an answer", summed, tried, f"{summed:.0f}")]
    if done.at_once or done.closed:  # how fast requests come is a result
        figures += [("requests/s", expected.requests_per_s, done.requests_per_s, f"{expected.requests_per_s:.3g}")]
        expected = _at_rate(expected, done)
    if not done.at_once:  # who comes last waits for all others: sums do not know of an end
        figures += [("TTFT", expected.ttft_s, done.ttft_s, f"{expected.ttft_s:.3g} s")]
    for name, summed, simulated, said in figures:
        if simulated and summed < INFINITE and abs(summed / simulated - 1) > TELLING:
            notes.append(f"sums are {summed / simulated - 1:+.0%} off: {name} {said} by sums")
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
        sums_ttft_band=0.0,
        sums_tpot_band=0.0,
        notes=[*notes, *expected.notes],
    )
    if keeps(plan.objective, made):  # so that much at least
        most = max(made.requests_per_s_max, made.requests_per_s)
        made = replace(made, requests_per_s_max=most, utilisation=min(1.0, made.requests_per_s / most) if most else 1.0)
    return replace(plan, expected=made)


def _at_rate(expected: Expected, done: Rehearsed) -> Expected:
    """Costs are shared by as many requests as are served."""
    rate = done.requests_per_s
    most = rate if done.at_once else max(rate, expected.requests_per_s_max)
    dearer = expected.requests_per_s / rate if rate else 1.0
    shared = ("usd_per_m_input", "usd_per_m_cached", "usd_per_m_output", "usd_per_m")
    costs = {name: getattr(expected, name) * dearer for name in shared}
    return replace(
        expected, requests_per_s=rate, requests_per_s_max=most, utilisation=rate / most if most else 1.0, **costs
    )


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
