"""The growth path of a fleet: which one change its own figures call for next, if any. Pure rules on what was observed.

In order, and the first that applies is the advice, for each makes the next one's figures worth measuring:
1. know the baseline   2. route by what caches hold   3. split prefill from decode   4. speculate   5. build a grid
A rule without its figures says what is missing and does not apply: nothing is advised on a guess.
accuracy   rules, not predictions: what a change will gain is for the simulator, and every advice says how to ask it
"""

from enum import StrEnum

from msgspec import Struct

from pilothouse.plan.growth_facts import Observed
from pilothouse.plan.growth_steps import DOING, Step

REQUESTS_MIN = 1000  # ten requests lie beyond the 99th percentile: with fewer it is the luck of a few
BASELINE_S = 24 * 3600.0  # of a fleet in service: load has a daily cycle, and half of one is not what it will be
GAIN_MIN = 0.9  # of each further replica's worth: 1.8 times with two, as the growth path has it
SATURATED = (
    0.95  # served of what was offered: above, one replica was not at its limit, and two cannot show twice as much
)
LOW = (
    8.0  # sequences: so few leave a GPU's arithmetic idle while weights are read, which is what drafts are checked with
)
OFTEN = 0.9  # of the time: what is so more often is called stable
FAILED_MAX = 0.01  # of the requests: beyond, the figures are of those that got through
CACHE_AWARE = ("marginal_cost", "cache_and_load")  # policies that know what engines hold
SHORT = (
    "no step of this path, though the fleet does not do what is asked of it: more or faster engines, or less asked of them; "
    "`pilothouse plan` says how many"
)


class State(StrEnum):
    """What a rule says."""

    APPLIES = "applies"
    NOT = "does not apply"
    UNKNOWN = "not known"


class Check(Struct, frozen=True):
    """One rule, and the figures it was judged by."""

    step: Step
    state: State
    numbers: list[str]
    why: str = ""  # in words, where numbers do not say it
    missing: str = ""  # how to learn what is not known


class Advice(Struct, frozen=True):
    """One thing to do, or nothing."""

    source: str
    label: str
    step: Step
    numbers: list[str]
    change: str
    verify: str
    roll_back: str
    checks: list[Check]  # all, in order
    notes: list[str]


def advise(seen: Observed, baseline_s: float = BASELINE_S) -> Advice:
    """`baseline_s`: how long a fleet in service must have been watched."""
    checks = [
        _baseline(seen, baseline_s), _routing(seen), _disaggregate(seen), _speculate(seen), _grid(seen),
    ]  # fmt: skip
    first = next((check for check in checks if check.state is State.APPLIES), None)
    step = Step.NOTHING if first is None else first.step
    numbers = [number for check in checks for number in check.numbers] if first is None else first.numbers
    doing = DOING[step]
    verify = doing.verify.format(source=seen.asked)
    notes = [*_warnings(seen), *seen.notes]
    change = SHORT if first is None and _is_short(seen) else doing.change
    return Advice(seen.source, seen.label, step, numbers, change, verify, doing.roll_back, checks, notes)


def _is_short(seen: Observed) -> bool:
    """Something is not as it should be, whether or not a step of the path mends it."""
    strains = [phase.strain for phase in (seen.ttft, seen.tpot) if phase is not None]
    return bool(seen.overload) or any(strain is not None and strain > 1 for strain in strains)


def _warnings(seen: Observed) -> list[str]:
    """What matters more than any step of the path."""
    sent = seen.requests + seen.failed
    if seen.failed > FAILED_MAX * sent:
        return [
            f"{seen.failed:,} of {sent:,} requests failed: find out why before anything else; figures are of the others"
        ]
    return []


def _baseline(seen: Observed, baseline_s: float) -> Check:
    numbers = [f"{seen.requests:,} requests; {REQUESTS_MIN:,} are needed, so that ten lie beyond the 99th percentile"]
    too_short = seen.requests < REQUESTS_MIN
    if seen.is_service:
        numbers.append(f"watched for {_hours(seen.seconds)}; {_hours(baseline_s)} are needed")
        too_short = too_short or seen.seconds < baseline_s
    return Check(Step.BASELINE, State.APPLIES if too_short else State.NOT, numbers)


def _routing(seen: Observed) -> Check:
    step, numbers, found = Step.ROUTING, list[str](), seen.scaling
    if found is not None:
        numbers.append(
            f"{found.replicas} replicas give {found.many:,.0f} output tokens/s, one {found.one:,.0f}: {found.gain:.4g} times "
            f"as much; {GAIN_MIN * found.replicas:.2g} times is what to expect"
        )
    if seen.policy is not None:
        numbers.append(f"routing policy: {seen.policy or 'one of your own'}")
    if seen.hit_ratio is not None:
        numbers.append(f"{seen.hit_ratio:.1%} of prompt tokens came from caches")
    if seen.policy in CACHE_AWARE:
        return Check(step, State.NOT, numbers, "it knows what caches hold already")
    if found is None:
        if seen.engines == 1:
            return Check(step, State.NOT, numbers, "one engine: there is nothing to choose")
        missing = "reports of one replica and of several, at a load that one cannot carry: --replicas 1 --replicas 2"
        return Check(step, State.UNKNOWN, numbers, missing=missing)
    if found.gain >= GAIN_MIN * found.replicas:
        return Check(step, State.NOT, numbers)
    if not found.saturated:
        missing = "the same at a higher load: they kept up with what was asked, so this is not their limit"
        return Check(step, State.UNKNOWN, numbers, missing=missing)
    untold = "reports do not say how it is routed: if by marginal_cost already, name the gateway as well to be told"
    return Check(step, State.APPLIES, numbers, untold if seen.policy is None else "")


def _disaggregate(seen: Observed) -> Check:
    step, numbers = Step.DISAGGREGATE, list[str]()
    if seen.is_split:
        return Check(step, State.NOT, numbers, "prefill and decode have engines of their own already")
    if seen.ttft is None or seen.tpot is None:
        missing = "times of requests: a journal, bench reports or a gateway with traffic"
        return Check(step, State.UNKNOWN, numbers, missing=missing)
    for name, phase, unit in (("TTFT", seen.ttft, "prefill"), ("TPOT", seen.tpot, "decode")):
        limit = "" if phase.limit_s is None else f" of {_time(phase.limit_s)} allowed"
        near = "" if phase.within_s is None else f", between {_time(phase.within_s[0])} and {_time(phase.within_s[1])},"
        numbers.append(f"{name} p90 {_time(phase.p90_s)}{near}{limit} ({unit})")
    prefill, decode = seen.ttft.strain, seen.tpot.strain
    if seen.ttft.limit_s is None or seen.tpot.limit_s is None:
        return Check(step, State.UNKNOWN, numbers, missing="both objectives: --objectives ttft=2s,tpot=50ms")
    if prefill is None or decode is None:
        missing = "on which side of its objective the percentile lies: a journal has each request's times"
        return Check(step, State.UNKNOWN, numbers, missing=missing)
    if seen.split is not None:
        numbers.append(f"estimate for this load: {seen.split.verdict} [Estimated]")
    if prefill <= 1 and decode <= 1:
        return Check(step, State.NOT, numbers, "both phases meet their objective")
    if prefill > 1 and decode > 1:
        why = "both phases miss it: that is want of engines, not of balance"
        return Check(step, State.NOT, numbers, why)
    if seen.overload:
        why = "that is want of engines, not of balance: measure at a load that they carry"
        return Check(step, State.NOT, [*numbers, seen.overload], why)
    if seen.split is not None and not seen.split.pays:
        return Check(step, State.NOT, numbers)
    return Check(step, State.APPLIES, numbers, "one phase misses its objective while the other has room")


def _speculate(seen: Observed) -> Check:
    step = Step.SPECULATE
    if seen.speculates:
        return Check(step, State.NOT, [], "engines speculate already")
    if seen.concurrency is None:
        missing = "requests running per engine: a journal, a gateway, or --replicas of a report"
        return Check(step, State.UNKNOWN, [], missing=missing)
    mean, p90 = seen.concurrency.mean, seen.concurrency.p90
    where = " in the mean" if p90 is None else f" that is not idle in the mean, {p90:.3g} at p90"
    numbers = [f"{mean:.3g} requests run on an engine{where}; low is up to {LOW:g}, {OFTEN:.0%} of the time"]
    if mean > LOW or (p90 is not None and p90 > LOW):
        return Check(step, State.NOT, numbers)
    if p90 is None and mean > (1 - OFTEN) * LOW:
        return Check(step, State.UNKNOWN, numbers, missing="whether it is always so: a journal has samples over time")
    why = (
        ""
        if p90 is not None
        else f"a mean of {mean:.2g} cannot be above {LOW:g} more than {mean / LOW:.0%} of the time"
    )
    return Check(step, State.APPLIES, numbers, why)


def _grid(seen: Observed) -> Check:
    numbers = (
        []
        if seen.models is None
        else [f"{_count(len(seen.models), 'class', 'classes')} of models: {', '.join(seen.models) or '-'}"]
    )
    numbers += [] if seen.tenants is None else [_count(seen.tenants, "tenant", "tenants")]
    if (seen.models is not None and len(seen.models) < 2) or (seen.tenants is not None and seen.tenants < 2):
        return Check(Step.GRID, State.NOT, numbers)
    if seen.models is None or seen.tenants is None:
        missing = "which models: a journal or a gateway" if seen.models is None else "how many tenants: --tenants"
        return Check(Step.GRID, State.UNKNOWN, numbers, missing=missing)
    return Check(Step.GRID, State.APPLIES, numbers)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _hours(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
