"""The growth path of a fleet: which one change its own figures call for next, if any. Pure rules on what was observed.

In order, and the first that applies is the advice, for each makes the next one's figures worth measuring:
1. know the baseline   2. route by what caches hold   3. split prefill from decode   4. speculate   5. build a grid
A rule without its figures says what is missing and does not apply: nothing is advised on a guess.
accuracy   rules, not predictions: what a change will gain is for the simulator, and every advice says how to ask it
"""

from enum import StrEnum

from msgspec import Struct

REQUESTS_MIN = 1000  # ten requests lie beyond the 99th percentile: with fewer it is the luck of a few
BASELINE_S = 24 * 3600.0  # of a fleet in service: load has a daily cycle, and half of one is not what it will be
GAIN_MIN = 0.9  # of each further replica's worth: 1.8 times with two, as the growth path has it
SATURATED = (
    0.95  # served of what was offered: above, one replica was not at its limit, and two cannot show twice as much
)
LOW = (
    8.0  # sequences: so few leave a GPU's arithmetic idle while weights are read, which is what drafts are checked with
)
CACHE_AWARE = ("marginal_cost", "cache_and_load")  # policies that know what engines hold


class Step(StrEnum):
    """What to do next."""

    BASELINE = "baseline"
    ROUTING = "routing"
    DISAGGREGATE = "disaggregate"
    SPECULATE = "speculate"
    GRID = "grid"
    NOTHING = "nothing"


class State(StrEnum):
    """What a rule says."""

    APPLIES = "applies"
    NOT = "does not apply"
    UNKNOWN = "not known"


class Scaling(Struct, frozen=True):
    """What replicas gave at their limit: output tokens per second."""

    one: float
    many: float
    replicas: int
    saturated: bool  # in both, less was served than offered

    @property
    def gain(self) -> float:
        return self.many / self.one if self.one else 0.0


class Phase(Struct, frozen=True):
    """The 90th percentile of a time, and what it should be. Seconds."""

    p90_s: float
    limit_s: float | None

    @property
    def strain(self) -> float | None:
        """1 = just as asked for."""
        return None if self.limit_s is None else self.p90_s / self.limit_s


class Concurrency(Struct, frozen=True):
    """Requests that run at a time on one engine."""

    mean: float
    p90: float | None  # over samples; None = only the mean is known


class Split(Struct, frozen=True):
    """What `plan/disaggregate.py` estimates for this load on this hardware."""

    pays: bool
    verdict: str


class Observed(Struct, frozen=True, kw_only=True):
    """What is known of a fleet. None = the source does not say."""

    source: str
    label: str  # Measured, Emulated, Simulated
    is_service: bool  # it shows a fleet in service, which a benchmark does not
    seconds: float
    requests: int
    engines: int | None = None
    policy: str | None = None  # of routing; "" = one of the user's own
    hit_ratio: float | None = None  # of prompt tokens
    scaling: Scaling | None = None
    ttft: Phase | None = None
    tpot: Phase | None = None
    is_split: bool | None = None
    split: Split | None = None
    concurrency: Concurrency | None = None
    speculates: bool | None = None
    models: list[str] | None = None  # one name for each class of engines
    tenants: int | None = None
    notes: list[str] = []


class Check(Struct, frozen=True):
    """One rule, and the figures it was judged by."""

    step: Step
    state: State
    numbers: list[str]
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
    change, verify, roll_back = DONE[step]
    return Advice(seen.source, seen.label, step, numbers, change, verify, roll_back, checks, seen.notes)


DONE = {  # step -> what to change, how to verify, how to roll back
    Step.BASELINE: (
        "nothing yet: keep this fleet as it is and go on measuring",
        "ask again when the figures above are reached; `pilothouse up` with a journal records all that is needed",
        "there is nothing to undo",
    ),
    Step.ROUTING: (
        ("routing: `policy: marginal_cost`, which knows what each engine's cache holds; engines keep their flags, but for "
        "--enable-prefix-caching and KV events, without which holdings are assumed"),
        ("before: `pilothouse sim` of the workload with both policies, or `pilothouse replay JOURNAL --policy marginal_cost`. "
        "After: the same bench on one and on all replicas; the gain per replica and the hit rate must have risen"),
        ("the policy's old name in pilothouse.yaml, then restart the gateway: engines are not touched, no request is lost "
        "that was not in flight"),
    ),
    Step.DISAGGREGATE: (
        ("one pool into two: prefill and decode on engines of their own (`role` and `connector` in pools), as many of each "
        "as `pilothouse advise disaggregate` says, and only if it says yes after its trial"),
        ("before: `pilothouse advise disaggregate SOURCE --model M --gpu G --objectives ...`. After: the same bench; the "
        "phase that missed its objective must meet it, the other must still"),
        "`role: both` for all engines, or `decider: never` in the policy: then nothing is split, whatever the roles",
    ),
    Step.SPECULATE: (
        "engines: speculative decoding with the method and number of tokens that `pilothouse advise speculative` names",
        ("before: `pilothouse advise speculative SOURCE --model M --gpu G`. After: TPOT at this load must have fallen, and "
        "accepted / drafted of `pilothouse status` be what the advice rests on"),
        "start engines without --speculative-config: answers are the same, only their pace is not",
    ),
    Step.GRID: (
        ("topology: one pool for each class of models behind one gateway, each tenant with its own objectives, as in "
        "the blueprint `grid`"),
        ("before: `pilothouse sim` of the blueprint with your classes. After: each tenant's percentiles by itself; none "
        "may be worse than before"),
        "the former pools' configuration: models and engines are the same, only who serves whom changes",
    ),
    Step.NOTHING: (
        "nothing: no figure calls for a change, and one without a reason costs what it costs",
        "ask again when load, models or objectives have changed",
        "there is nothing to undo",
    ),
}  # fmt: skip


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
            f"{found.replicas} replicas give {found.many:,.0f} output tokens/s, one {found.one:,.0f}: {found.gain:.2f} times "
            f"as much; {GAIN_MIN * found.replicas:.2g} times is what to expect"
        )
    if seen.policy is not None:
        numbers.append(f"routing policy: {seen.policy or 'one of your own'}")
    if seen.hit_ratio is not None:
        numbers.append(f"{seen.hit_ratio:.1%} of prompt tokens came from caches")
    if seen.policy in CACHE_AWARE:
        return Check(step, State.NOT, [*numbers, "it knows what caches hold already"])
    if found is None:
        if seen.engines == 1:
            return Check(step, State.NOT, [*numbers, "one engine: there is nothing to choose"])
        missing = "reports of one replica and of several, at a load that one cannot carry: --replicas 1 --replicas 2"
        return Check(step, State.UNKNOWN, numbers, missing)
    if found.gain >= GAIN_MIN * found.replicas:
        return Check(step, State.NOT, numbers)
    if not found.saturated:
        missing = "the same at a higher load: they served nearly all that was offered, so this is not their limit"
        return Check(step, State.UNKNOWN, numbers, missing)
    return Check(step, State.APPLIES, numbers)


def _disaggregate(seen: Observed) -> Check:
    step, numbers = Step.DISAGGREGATE, list[str]()
    if seen.is_split:
        return Check(step, State.NOT, ["prefill and decode have engines of their own already"])
    if seen.ttft is None or seen.tpot is None:
        return Check(
            step, State.UNKNOWN, numbers, "times of requests: a journal, bench reports or a gateway with traffic"
        )
    for name, phase, unit in (("TTFT", seen.ttft, "prefill"), ("TPOT", seen.tpot, "decode")):
        limit = "" if phase.limit_s is None else f" of {_time(phase.limit_s)} allowed"
        numbers.append(f"{name} p90 {_time(phase.p90_s)}{limit} ({unit})")
    prefill, decode = seen.ttft.strain, seen.tpot.strain
    if prefill is None or decode is None:
        return Check(step, State.UNKNOWN, numbers, "both objectives: --objectives ttft=2s,tpot=50ms")
    if seen.split is not None:
        numbers.append(f"estimate for this load: {seen.split.verdict} [Estimated]")
    if prefill <= 1 and decode <= 1:
        return Check(step, State.NOT, [*numbers, "both phases meet their objective"])
    if prefill > 1 and decode > 1:
        return Check(step, State.NOT, [*numbers, "both phases miss it: that is want of engines, not of balance"])
    if seen.split is not None and not seen.split.pays:
        return Check(step, State.NOT, numbers)
    return Check(step, State.APPLIES, [*numbers, "one phase misses its objective while the other has room"])


def _speculate(seen: Observed) -> Check:
    if seen.speculates:
        return Check(Step.SPECULATE, State.NOT, ["engines speculate already"])
    if seen.concurrency is None:
        return Check(
            Step.SPECULATE, State.UNKNOWN, [], "requests running per engine: a journal, or --replicas of a report"
        )
    mean, p90 = seen.concurrency.mean, seen.concurrency.p90
    numbers = [f"{mean:.1f} requests run on an engine in the mean" + ("" if p90 is None else f", {p90:.1f} at p90")]
    numbers.append(f"low is up to {LOW:g}, and stable if it is so 90 % of the time")
    if mean > LOW or (p90 is not None and p90 > LOW):
        return Check(Step.SPECULATE, State.NOT, numbers)
    if p90 is None:
        return Check(Step.SPECULATE, State.UNKNOWN, numbers, "whether it is always so: a journal has samples over time")
    return Check(Step.SPECULATE, State.APPLIES, numbers)


def _grid(seen: Observed) -> Check:
    numbers = (
        [] if seen.models is None else [f"{len(seen.models)} class(es) of models: {', '.join(seen.models) or '-'}"]
    )
    numbers += [] if seen.tenants is None else [f"{seen.tenants} tenant(s)"]
    if (seen.models is not None and len(seen.models) < 2) or (seen.tenants is not None and seen.tenants < 2):
        return Check(Step.GRID, State.NOT, numbers)
    if seen.models is None or seen.tenants is None:
        missing = "which models: a journal or a gateway" if seen.models is None else "how many tenants: --tenants"
        return Check(Step.GRID, State.UNKNOWN, numbers, missing)
    return Check(Step.GRID, State.APPLIES, numbers)


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
