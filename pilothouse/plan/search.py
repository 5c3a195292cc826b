"""Which fleets would serve a workload: enumerated by rules, pruned with reasons, and ranked by what they cost or give.

Layouts come from `layouts.py`; of each, the fewest engines that keep the objectives are taken, and one more, as sums and
simulation differ by about as much; the same with prefill and decode on engines of their own.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.events import Role
from pilothouse.perf.catalog import Gpu, Model, Precision
from pilothouse.plan.analytic import Fleet, Pool, load_at
from pilothouse.plan.asks import Asks
from pilothouse.plan.buying import Buying
from pilothouse.plan.document import Bound, Objective, Plan, PoolPlan
from pilothouse.plan.engines import Engine, engine_of
from pilothouse.plan.layouts import Candidate, Needs, candidates, described
from pilothouse.plan.prices import Prices
from pilothouse.plan.promise import INFINITE, Terms, by_class, expected_of, keeps, promised, settled_at
from pilothouse.plan.simulated import Hardware

CONNECTOR = "nixl"
SPLITS = 7  # shares of prefill engines that are tried where all GPUs are used
RAN_OUT = {
    Bound.COMPUTE: "prompts take all the time there is",
    Bound.BANDWIDTH: "reading KV takes all the time there is",
    Bound.KV_CAPACITY: "KV room runs out",
    Bound.LATENCY: "an objective breaks",
}


class Goal(StrEnum):
    """What is best."""

    MIN_COST = "min-cost"
    MAX_GOODPUT = "max-goodput"
    MIN_GPUS = "min-gpus"


class Question(Struct, frozen=True, kw_only=True):
    """What is to be planned."""

    name: str
    model: Model
    gpu: Gpu
    gpus: int
    model_said: str = ""  # how others find it: a directory, a file; "" = by its name
    gpu_said: str = ""
    asks: Asks
    objective: Objective
    classes: dict[str, Objective] = {}  # of those that have one of their own
    workload: Any  # as a plan has it
    rate: float | None = None  # that was asked for in place of the workload's own
    goal: Goal = Goal.MIN_COST
    prices: Prices = Prices()  # without one, GPUs are counted
    buying: Buying = Buying()
    precisions: tuple[Precision, ...] = (Precision.BF16, Precision.FP8)
    kv_precision: str = "bf16"
    gpus_per_node: int = 8
    split: bool = True  # prefill and decode on engines of their own are looked at

    @property
    def hardware(self) -> Hardware:
        return Hardware(self.model, {self.gpu_said or self.gpu.name: self.gpu})

    @property
    def terms(self) -> Terms:
        return Terms(self.asks, self.prices, self.buying)

    @property
    def by_class(self) -> dict[str, Objective]:
        return by_class(self.asks, self.classes, self.objective)


class Rejected(Struct, frozen=True):
    """One way that is none, in one line."""

    what: str
    why: str
    tried: bool = False  # by sums, with all GPUs; else a rule was enough


class Found(Struct, frozen=True):
    """Plans, the best first."""

    plans: list[Plan]
    rejected: list[Rejected]


class _Way(Struct, frozen=True):
    """One engine of a layout."""

    candidate: Candidate
    pool: PoolPlan
    engine: Engine
    most: int  # engines for which there are GPUs


def search(question: Question) -> Found:
    """Estimated; nothing is simulated here."""
    plans: list[Plan] = []
    rejected: list[Rejected] = []
    for candidate in _candidates(question):
        if not candidate.kept:
            rejected.append(Rejected(str(candidate), candidate.reason))
            continue
        way = _way(question, candidate)
        for fleets in (
            (_together(question, way), _apart(question, way)) if question.split else (_together(question, way),)
        ):
            for pools, _, why_not in fleets:
                if why_not:
                    rejected.append(Rejected(titled(pools), why_not, tried=True))
                else:
                    plans.append(_plan(question, way, pools))
    return Found(sorted(plans, key=lambda plan: rank(question, plan)), rejected)


def rank(question: Question, plan: Plan) -> tuple[float, ...]:
    """Least is best. Of equals, the simpler one; of those, the one with more to spare."""
    expected = expected_of(plan)
    cost = expected.usd_per_hour or float(plan.gpus)
    first = {
        Goal.MIN_COST: cost,
        Goal.MIN_GPUS: float(plan.gpus),
        Goal.MAX_GOODPUT: -expected.requests_per_s_max,
    }[question.goal]
    return not keeps(question.objective, expected), round(first, 6), len(plan.pools), -expected.requests_per_s_max, cost


def titled(pools: list[PoolPlan]) -> str:
    """`prefill 2 x (TP=2) + decode 3 x (TP=2), fp8`; GPUs where they differ."""
    mixed = len({pool.gpu for pool in pools}) > 1
    parts = [
        f"{'' if pool.role is Role.BOTH else f'{pool.role} '}{pool.replicas} x ({described(pool.layout)})"
        f"{f' on {pool.gpu}' if mixed else ''}"
        for pool in pools
    ]
    return f"{' + '.join(parts)}, {pools[0].precision}"


def _candidates(question: Question) -> Iterator[Candidate]:
    """For all GPUs, and for fewer within a node: an engine need not have a whole one."""
    per_node, seen = question.gpus_per_node, list[str]()
    whole = question.gpus if question.gpus <= per_node else question.gpus - question.gpus % per_node
    parts = [size for size in (8, 4, 2, 1) if size < min(whole, per_node + 1)]
    asks, (prompt, ttft_s, tpot_s) = question.asks, _strictest(question)
    needs = Needs(
        prompt_tokens=prompt, context_tokens=asks.longest, ttft_s=ttft_s, tpot_s=tpot_s, kv_precision=question.kv_precision,
    )  # fmt: skip
    for gpus in (whole, *parts):
        nodes = max(1, gpus // per_node)
        for found in candidates(question.model, question.gpu, gpus, nodes, question.precisions, needs):
            key = f"{found.layout} {found.precision}"
            if key not in seen and (found.kept or gpus == whole):
                yield found
            if found.kept:
                seen.append(key)


def _strictest(question: Question) -> tuple[int, float | None, float | None]:
    """A long prompt and the TTFT that is asked for it, of the class with least time for a token; the least TPOT asked for."""
    asks = question.asks
    found = [(asks.classes[name].prompts[-1], objective) for name, objective in question.by_class.items()]
    found = found or [(asks.prompts[-1], question.objective)]
    prompt, first = min(found, key=lambda at: INFINITE if at[1].ttft_s is None else at[1].ttft_s / at[0])
    return prompt, first.ttft_s, min((each.tpot_s for _, each in found if each.tpot_s is not None), default=None)


def _way(question: Question, candidate: Candidate) -> _Way:
    pool = PoolPlan(
        name="engines", replicas=1, layout=candidate.layout, gpu=question.gpu_said or question.gpu.name,
        gpus_per_node=question.gpus_per_node,
        precision=candidate.precision.value, kv_precision=question.kv_precision,
    )  # fmt: skip
    engine = engine_of(pool, question.model, question.gpu, question.asks.demand.context_mean)
    return _Way(candidate, pool, engine, question.gpus // candidate.layout.gpus)


_Fleets = Iterator[tuple[list[PoolPlan], Fleet, str]]  # pools, the same for the sums, why not ("" = kept)


def _together(question: Question, way: _Way) -> _Fleets:
    def made(replicas: int) -> tuple[list[PoolPlan], Fleet]:
        return [replace(way.pool, replicas=replicas)], Fleet(Pool(way.engine, replicas))

    if question.goal is Goal.MAX_GOODPUT:
        yield *made(way.most), ""
        return
    fewest = _fewest(lambda replicas: not _why_not(question, made(replicas)[1]), way.most)
    if fewest is None:
        pools, fleet = made(way.most)
        yield pools, fleet, _why_not(question, fleet)
        return
    for replicas in range(fewest, min(fewest + 1, way.most) + 1):
        yield *made(replicas), ""


def _apart(question: Question, way: _Way) -> _Fleets:
    def made(prefill: int, decode: int) -> tuple[list[PoolPlan], Fleet]:
        roles = {"prefill": (Role.PREFILL, prefill), "decode": (Role.DECODE, decode)}
        pools = [
            replace(way.pool, name=name, role=role, replicas=count, connector=CONNECTOR)
            for name, (role, count) in roles.items()
        ]
        return pools, Fleet(Pool(way.engine, decode), Pool(way.engine, prefill))

    most = way.most
    if most < 2:
        return
    if question.goal is Goal.MAX_GOODPUT:
        for prefill in sorted({max(1, round(most * (i + 1) / (SPLITS + 1))) for i in range(SPLITS)}):
            if prefill < most:
                yield *made(prefill, most - prefill), ""
        return
    decode = _fewest(lambda count: not _why_not(question, made(most, count)[1]), most)
    if decode is None:
        pools, fleet = made(1, most - 1)
        yield pools, fleet, _why_not(question, made(most, most)[1])
        return
    prefill = _fewest(lambda count: not _why_not(question, made(count, decode)[1]), most) or most
    pools, fleet = made(prefill, decode)
    short = f"needs {(prefill + decode) * way.candidate.layout.gpus} GPUs, there are {question.gpus}"
    yield pools, fleet, short if prefill + decode > most else ""
    for more in ((prefill + 1, decode), (prefill, decode + 1)):
        if sum(more) <= most:
            yield *made(*more), ""


def _fewest(serves: Callable[[int], bool], most: int) -> int | None:
    if most < 1 or not serves(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if serves(middle) else (middle, high)
    return high


def _why_not(question: Question, fleet: Fleet) -> str:
    """Why the objectives break at the rate that is planned for; "" = they hold."""
    asks, percentile = settled_at([fleet], question.asks), question.objective.percentile
    load, rate = load_at(fleet, asks, asks.rate, percentile, classes=question.by_class), asks.rate
    if load.breaks is not None:
        return f"{RAN_OUT[load.breaks]} below {rate:.3g} requests/s"
    if question.by_class:
        told = (
            _missed(objective, load.classes[name].ttft_us, load.classes[name].tpot_us, f"{name}: ")
            for name, objective in question.by_class.items()
        )
        return next(filter(None, told), "")
    return _missed(question.objective, load.ttft_us, load.tpot_us)


def _missed(objective: Objective, ttft_us: float, tpot_us: float, whose: str = "") -> str:
    """Which limit breaks; "" = none."""
    percentile = objective.percentile
    if objective.ttft_s is not None and ttft_us > objective.ttft_s * 1e6:
        return f"{whose}TTFT p{percentile} {ttft_us / 1e6:.3g} s of {objective.ttft_s:g} s"
    if objective.tpot_s is not None and tpot_us > objective.tpot_s * 1e6:
        return f"{whose}TPOT p{percentile} {tpot_us / 1e3:.3g} ms of {objective.tpot_s * 1e3:g} ms"
    return ""


def _plan(question: Question, way: _Way, pools: list[PoolPlan]) -> Plan:
    plan = Plan(
        name=question.name,
        model=question.model_said or question.model.name,
        pools=pools,
        objective=question.objective,
        classes=question.classes,
        workload=question.workload,
        rate=question.rate,
        why=[way.candidate.reason],
    )
    return promised(plan, question.hardware, question.terms, capped=True)
