"""Which fleets would serve a workload: enumerated by rules, pruned with reasons, and ranked by what they cost or give.

Engines are built as `ways.py` says, of each kind of GPU. Of each, the fewest that keep the objectives are taken, and one
more, as sums and simulation differ by about as much. The same with prefill and decode on engines of their own, of which
each pool may have its own GPUs and layout; and where no kind of GPU is enough, all of one and some of another.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.errors import ConfigError
from pilothouse.core.events import Role
from pilothouse.plan.analytic import Fleet, Load, Pool, load_at
from pilothouse.plan.document import Bound, Objective, Plan, PoolPlan
from pilothouse.plan.figures import digits
from pilothouse.plan.layouts import described
from pilothouse.plan.promise import expected_of, keeps, promised, settled_at
from pilothouse.plan.question import Goal, Question
from pilothouse.plan.ways import Way, candidates_of, improved, way_of

CONNECTOR = "nixl"
SPLITS = 7  # shares of prefill engines that are tried where all GPUs are used
PAIRS = 6  # of a prefill and a decode pool that are looked at closely: the cheapest
RAN_OUT = {
    Bound.COMPUTE: "prompts take all the time there is",
    Bound.BANDWIDTH: "reading KV takes all the time there is",
    Bound.KV_CAPACITY: "KV room runs out",
    Bound.LATENCY: "an objective breaks",
}


class Rejected(Struct, frozen=True):
    """One way that is none, in one line."""

    what: str
    why: str
    tried: bool = False  # by sums, with all GPUs; else a rule was enough


class Found(Struct, frozen=True):
    """Plans, the best first."""

    plans: list[Plan]
    rejected: list[Rejected]


class _Tried(Struct, frozen=True):
    """Pools, and why not; "" = kept."""

    pools: list[tuple[Way, Role, int]]
    why_not: str = ""
    plan: Plan | None = None  # once it is made


def search(question: Question) -> Found:
    """Estimated; nothing is simulated here."""
    rejected: list[Rejected] = []
    ways = _ways(question, rejected)
    tried = [fleet for way in ways for fleet in _together(question, way)]
    if question.split:
        tried += _apart(question, ways)
    tried = [fleet if fleet.why_not else _served(question, fleet) for fleet in tried]
    plans = [fleet.plan for fleet in tried if fleet.plan is not None]
    if not plans and len(question.stocks) > 1:
        plans = list(filter(None, (_both(question, *pair) for pair in permutations(ways, 2))))
    several = len(question.stocks) > 1
    rejected += [Rejected(titled(_pools(f), gpus=several), f.why_not, tried=True) for f in tried if f.why_not]
    return Found(sorted(plans, key=lambda plan: rank(question, plan)), rejected)


def rank(question: Question, plan: Plan) -> tuple[float, ...]:
    """Least is best. Of equals, the one with fewer GPUs, for burst that nothing needs is free; the simpler; more to spare."""
    expected = expected_of(plan)
    cost = expected.usd_per_hour or float(plan.gpus)
    first = {
        Goal.MIN_COST: cost,
        Goal.MIN_GPUS: float(plan.gpus),
        Goal.MAX_GOODPUT: -expected.requests_per_s_max,
    }[question.goal]
    parts = len(plan.pools) + sum(bool(pool.speculation) + bool(pool.tiers) for pool in plan.pools)
    equals = float(plan.gpus), parts, -expected.requests_per_s_max, cost
    return not keeps(question.objective, expected), round(first, 6), *equals


def titled(pools: Sequence[PoolPlan], *, gpus: bool = False) -> str:
    """`prefill 2 x (TP=2) + decode 3 x (TP=2), fp8`; GPUs where they differ, or where asked for."""
    mixed = gpus or len({pool.gpu for pool in pools}) > 1
    parts = [
        f"{'' if pool.role is Role.BOTH else f'{pool.role} '}{pool.replicas} x ({described(pool.layout)})"
        f"{f' on {pool.gpu}' if mixed else ''}{_beside(pool)}"
        for pool in pools
    ]
    return f"{' + '.join(parts)}, {pools[0].precision}"


def _beside(pool: PoolPlan) -> str:
    drafts = f" +{pool.speculation['method']}" if pool.speculation else ""
    return drafts + "".join(f" +{tier}" for tier in pool.tiers)


def _ways(question: Question, rejected: list[Rejected]) -> list[Way]:
    """All engines that the rules keep, and those of them with what pays at their batch."""
    found: list[Way] = []
    for stock in question.stocks:
        where = f" on {stock.gpu.name}" if len(question.stocks) > 1 else ""
        for candidate in candidates_of(question, stock):
            if not candidate.kept:
                rejected.append(Rejected(f"{candidate}{where}", candidate.reason))
                continue
            way = way_of(question, stock, candidate)
            if way.most:
                found += [way, *improved(question, way, _usual(question, way))]
    return found


def _usual(question: Question, way: Way) -> Load:
    """With as few engines as keep the objectives; with all where none do, and where all are used anyway."""

    def load(count: int) -> Load:
        fleet = Fleet(Pool(way.engine, count))
        asks = settled_at([fleet], question.asks)
        return load_at(fleet, asks, asks.rate, question.objective.percentile)

    fewest = None
    if question.goal is not Goal.MAX_GOODPUT:
        fewest = _fewest(lambda count: not _why_not(question, Fleet(Pool(way.engine, count))), way.most)
    return load(fewest or way.most)


def _together(question: Question, way: Way) -> Iterator[_Tried]:
    """Engines that serve whole requests."""

    def made(count: int, why_not: str = "") -> _Tried:
        return _Tried([(way, Role.BOTH, count)], why_not)

    if question.goal is Goal.MAX_GOODPUT:
        yield made(way.most)
        return
    fewest = _fewest(lambda count: not _why_not(question, Fleet(Pool(way.engine, count))), way.most)
    if fewest is None:
        yield made(way.most, _why_not(question, Fleet(Pool(way.engine, way.most))))
        return
    yield from (made(count) for count in range(fewest, min(fewest + 1, way.most) + 1))


def _apart(question: Question, ways: Sequence[Way]) -> list[_Tried]:
    """Prefill and decode on engines of their own."""
    pairs = [pair for pair in product(ways, repeat=2) if _fit(*pair)]
    if question.goal is Goal.MAX_GOODPUT:
        return [fleet for pair in pairs for fleet in _shares(*pair)]
    decodes = {id(way): _decoders(question, way) for way in ways}
    found: list[tuple[float, tuple[Way, Way, int, int]]] = []
    missed: list[_Tried] = []
    for prefill, decode in pairs:
        count, why_not = decodes[id(decode)]
        first = count and _prefillers(question, prefill, decode, count)
        if not count or not first:
            alike = prefill is decode
            why = why_not or f"too few GPUs for prompts beside {count} decode engines"
            missed += [_Tried([(prefill, Role.PREFILL, 1), (decode, Role.DECODE, decode.most)], why)] if alike else []
            continue
        found.append((first * prefill.cost + count * decode.cost, (prefill, decode, first, count)))
    found.sort(key=lambda pair: pair[0])
    near = [fleet for _, pair in found[:PAIRS] for fleet in _near(question, *pair)]
    far = [_Tried(_pair(*pair), _dearer(question, cost, found[0][0])) for cost, pair in found[PAIRS:]]
    return near + missed + far


def _fit(prefill: Way, decode: Way) -> bool:
    """Whether one can use the other's KV, and both are not more than one needs.

    Weights and KV are alike; who drafts has KV of its own, and drafts are of use where answers are made; a tier is where
    prompts are computed. Stages and context parallelism are alike, as KV lies on GPUs by them.
    """
    one, other = prefill.pool, decode.pool
    alike = [(pool.precision, pool.layout.pp, pool.layout.dcp, pool.layout.pcp) for pool in (one, other)]
    return alike[0] == alike[1] and one.speculation == other.speculation and not other.tiers


def _pair(prefill: Way, decode: Way, first: int, count: int) -> list[tuple[Way, Role, int]]:
    return [(prefill, Role.PREFILL, first), (decode, Role.DECODE, count)]


def _room(prefill: Way, decode: Way, count: int) -> int:
    """Prefill engines for which there are GPUs beside so many decode engines."""
    left = prefill.stock.count - (count * decode.gpus if prefill.stock is decode.stock else 0)
    return max(0, left // prefill.gpus)


def _decoders(question: Question, way: Way) -> tuple[int, str]:
    """(the fewest that keep the objectives whatever the prefill engines, why none do)."""

    def why_not(count: int) -> str:
        return _why_not(question, Fleet(Pool(way.engine, count), Pool(way.engine, way.most)))

    fewest = _fewest(lambda count: not why_not(count), way.most)
    return (fewest, "") if fewest else (0, why_not(way.most))


def _prefillers(question: Question, prefill: Way, decode: Way, count: int) -> int:
    """The fewest beside so many decode engines; 0 = there are too few GPUs."""
    serving = Pool(decode.engine, count)
    most = _room(prefill, decode, count)
    return _fewest(lambda n: not _why_not(question, Fleet(serving, Pool(prefill.engine, n))), most) or 0


def _near(question: Question, prefill: Way, decode: Way, first: int, count: int) -> Iterator[_Tried]:
    yield _Tried(_pair(prefill, decode, first, count))
    for more in ((first + 1, count), (first, count + 1)):
        if more[1] <= decode.most and more[0] <= _room(prefill, decode, more[1]):
            yield _Tried(_pair(prefill, decode, *more))


def _shares(prefill: Way, decode: Way) -> Iterator[_Tried]:
    """All GPUs, divided in several ways; of kinds that differ, all of each."""
    if prefill.stock is not decode.stock:
        yield _Tried(_pair(prefill, decode, prefill.most, decode.most))
        return
    for count in sorted({max(1, round(decode.most * (i + 1) / (SPLITS + 1))) for i in range(SPLITS)}):
        if first := _room(prefill, decode, count):
            yield _Tried(_pair(prefill, decode, first, count))


def _both(question: Question, one: Way, other: Way) -> Plan | None:
    """All of one kind of GPU, and as many of another as it takes; None = it is not enough."""
    if one.stock is other.stock or one.pool.precision != other.pool.precision:
        return None

    def made(count: int) -> _Tried:
        return _served(question, _Tried([(one, Role.BOTH, one.most), (other, Role.BOTH, count)]))

    def serves(count: int) -> bool:
        plan = made(count).plan
        expected = expected_of(plan) if plan else None
        served = expected.requests_per_s if expected else 0.0
        return expected is not None and keeps(question.objective, expected) and served >= question.asks.rate

    fewest = _fewest(serves, other.most)
    return made(fewest).plan if fewest else None


def _dearer(question: Question, cost: float, least: float) -> str:
    unit = "USD/h" if question.priced else "GPUs"
    return f"{digits(cost)} {unit}, where other prefill and decode pools take {digits(least)}"


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
        return f"{RAN_OUT[load.breaks]} below {digits(rate)} requests/s"
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
        return f"{whose}TTFT p{percentile} {digits(ttft_us / 1e6)} s of {objective.ttft_s:g} s"
    if objective.tpot_s is not None and tpot_us > objective.tpot_s * 1e6:
        return f"{whose}TPOT p{percentile} {digits(tpot_us / 1e3)} ms of {objective.tpot_s * 1e3:g} ms"
    return ""


def _label(name: str) -> str:
    """As Kubernetes spells the names of pools."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:24].strip("-")


def _pools(fleet: _Tried) -> list[PoolPlan]:
    several = len({way.pool.gpu for way, _, _ in fleet.pools}) > 1
    made = []
    for way, role, count in fleet.pools:
        name = role.value if role is not Role.BOTH else _label(f"on-{way.stock.gpu.name}") if several else way.pool.name
        connector = "" if role is Role.BOTH else CONNECTOR
        made.append(replace(way.pool, name=name, role=role, replicas=count, connector=connector))
    return made


def _served(question: Question, fleet: _Tried) -> _Tried:
    """With its plan, or why there is none."""
    try:
        return replace(fleet, plan=_plan(question, fleet))
    except ConfigError as error:
        return replace(fleet, why_not="; ".join(f"{problem.where}: {problem.what}" for problem in error.problems))


def _plan(question: Question, fleet: _Tried) -> Plan:
    plan = Plan(
        name=question.name,
        model=question.model_said or question.model.name,
        pools=_pools(fleet),
        objective=question.objective,
        classes=question.classes,
        workload=question.workload,
        rate=question.rate,
        why=list(dict.fromkeys(why for way, _, _ in fleet.pools for why in way.why)),
    )
    return promised(plan, question.hardware, question.terms, capped=True)
