"""What a plan promises by sums: percentiles at the rate that is asked for, the highest rate, room for KV, and the bill.

Pools that serve whole requests share the rate as they can bear it, since the dispatcher learns how fast each is; then all
reach their limits at the same rate, and the slowest makes the percentile: a little too careful.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.plan.analytic import Fleet, Latency, Load, Pool, load_at, rate_max
from pilothouse.plan.asks import Asks
from pilothouse.plan.costs import bill, paid_share
from pilothouse.plan.document import Bound, ClassExpected, Confidence, Expected, Objective, Plan
from pilothouse.plan.engines import Engine, unmeasured
from pilothouse.plan.prices import Price
from pilothouse.plan.simulated import Hardware, engines_of

INFINITE = float("inf")


class Terms(Struct, frozen=True):
    """What is asked of a fleet, and what it is paid with."""

    asks: Asks
    prices: Mapping[
        str, Price | None
    ]  # of one GPU, by the names that pools use; None = unknown, and costs are left out
    follows: int | None = None  # engines follow the load down to so many of each pool; None = they do not


class _State(Struct, frozen=True):
    """How a fleet does at one rate."""

    load: Load
    rate: float
    highest: float
    bound: Bound


def promised(plan: Plan, hardware: Hardware, terms: Terms, *, capped: bool = False) -> Plan:
    """With what sums expect of it. Work that is all there at once is served as fast as the objectives allow.

    capped   a fleet that cannot serve all promises what it can; else it promises to be late
    """
    asks = terms.asks
    engines = engines_of(plan, hardware, asks.demand.context_mean)
    state = _state(plan, fleets_of(plan, engines), asks, capped=capped)
    if not asks.rate:
        terms = replace(terms, asks=replace(asks, rate=state.highest, rate_mean=state.highest))
    rate = state.rate if state.rate < asks.rate else plan.rate
    return replace(plan, rate=rate, expected=_expected(plan, engines, terms, state))


def expected_of(plan: Plan) -> Expected:
    assert plan.expected is not None
    return plan.expected


def keeps(objective: Objective, expected: Expected) -> bool:
    """Whether both objectives hold; where classes have their own, those of every class."""
    if expected.classes:
        return all(met.keeps for met in expected.classes.values())
    return objective.holds(expected.ttft_s, expected.tpot_s)


def by_class(asks: Asks, own: Mapping[str, Objective], objective: Objective) -> dict[str, Objective]:
    """Of all classes that there are, if one has an objective of its own; else none."""
    return {name: own.get(name, objective) for name in asks.classes} if own else {}


def limits_us(objective: Objective) -> tuple[float, float]:
    """TTFT, TPOT; infinite where nothing is asked for."""
    ttft, tpot = (INFINITE if limit is None else limit * 1e6 for limit in (objective.ttft_s, objective.tpot_s))
    return ttft, tpot


def fleets_of(plan: Plan, engines: Sequence[Engine]) -> list[Fleet]:
    """For the sums: one of each pool that serves whole requests, and one of those that share them."""
    pools = list(zip(plan.pools, engines, strict=True))
    made = {role: [Pool(e, p.replicas) for p, e in pools if p.role is role] for role in Role}
    fleets = [Fleet(pool) for pool in made[Role.BOTH]]
    for role in (Role.PREFILL, Role.DECODE):
        if len(made[role]) > 1:
            raise ConfigError([Problem("pools", f"sums know one {role} pool, there are {len(made[role])}")])
    return [*fleets, *(Fleet(made[Role.DECODE][0], prefill) for prefill in made[Role.PREFILL])]


def _state(plan: Plan, fleets: Sequence[Fleet], asks: Asks, *, capped: bool) -> _State:
    percentile, limits, rate = plan.objective.percentile, limits_us(plan.objective), asks.rate
    classes = by_class(asks, plan.classes, plan.objective)

    def load(fleet: Fleet, rate: float, hit_ratio: float | None = None) -> Load:
        return load_at(fleet, asks, rate, percentile, hit_ratio, classes)

    room = [fleet.serving.lanes * fleet.serving.engine.kv_tokens for fleet in fleets]
    loads = [load(fleet, rate * own / sum(room)) for fleet, own in zip(fleets, room, strict=True)]
    found = [rate_max(f, asks, percentile, limits, at.hit_ratio, classes) for f, at in zip(fleets, loads, strict=True)]
    highest = sum(most for most, _ in found)
    shares = [most / highest if highest else 1 / len(found) for most, _ in found]
    if not rate or (capped and highest < rate):
        rate = highest
    if len(fleets) > 1 or rate != asks.rate:
        each = zip(fleets, loads, shares, strict=True)
        loads = [load(fleet, rate * share, at.hit_ratio) for fleet, at, share in each]
    return _State(_mixed(list(zip(loads, shares, strict=True))), rate, highest, found[0][1])


def _mixed(parts: Sequence[tuple[Load, float]]) -> Load:
    """`parts`: (load, share of the requests)."""
    loads = [load for load, _ in parts]
    if len(loads) == 1:
        return loads[0]
    slowest = {
        name: Latency(
            *(max(getattr(load.classes[name], figure) for load in loads) for figure in ("ttft_us", "tpot_us"))
        )
        for name in loads[0].classes
    }
    return replace(
        loads[0],
        ttft_us=max(load.ttft_us for load in loads),
        tpot_us=max(load.tpot_us for load in loads),
        breaks=next((load.breaks for load in loads if load.breaks is not None), None),
        prefill_cost=sum(load.prefill_cost * share for load, share in parts),
        hit_ratio=sum(load.hit_ratio * share for load, share in parts),
        classes=slowest,
    )


def _expected(plan: Plan, engines: Sequence[Engine], terms: Terms, state: _State) -> Expected:
    asks, load, highest = terms.asks, state.load, state.highest
    sizes = [pool.replicas * pool.layout.gpus for pool in plan.pools]
    prices = [terms.prices.get(pool.gpu) for pool in plan.pools]
    hourly = [size * price.usd_h for size, price in zip(sizes, prices, strict=True) if price is not None]
    hourly = hourly if len(hourly) == len(sizes) else []  # a bill with a gap is none
    shares = [1.0] * len(sizes)
    if terms.follows is not None:
        shares = [paid_share(asks, pool.replicas, highest, terms.follows) for pool in plan.pools]
    costs = hourly or [float(size) for size in sizes]
    prefill = [cost for cost, pool in zip(costs, plan.pools, strict=True) if pool.role is Role.PREFILL]
    usd_h = sum(share * cost for share, cost in zip(shares, hourly, strict=False))
    input_share = sum(prefill) / sum(costs) if prefill else load.prefill_cost
    priced = bill(usd_h, asks, min(1.0, state.rate / asks.rate), input_share)
    paid = sum(share * size for share, size in zip(shares, sizes, strict=True)) / sum(sizes)
    return Expected(
        ttft_s=load.ttft_us / 1e6,
        tpot_s=load.tpot_us / 1e6,
        ttft_band=max(engine.ttft_band for engine in engines),
        tpot_band=max(engine.tpot_band for engine in engines),
        output_per_s=state.rate * asks.demand.output_mean,
        requests_per_s=state.rate,
        requests_per_s_max=highest,
        kv_tokens=sum(p.replicas * e.lanes * e.kv_tokens for p, e in zip(plan.pools, engines, strict=True)),
        utilisation=min(1.0, state.rate / highest) if highest else 1.0,
        bound=state.bound,
        usd_per_hour=priced.usd_per_hour,
        usd_per_m_input=priced.usd_per_m_input,
        usd_per_m_output=priced.usd_per_m_output,
        usd_per_m=priced.usd_per_m,
        confidence=Confidence.ESTIMATED,
        notes=_notes(plan, engines, terms, load, paid),
        classes={
            name: ClassExpected.under(
                plan.classes.get(name, plan.objective),
                state.rate * asks.classes[name].share,
                at.ttft_us / 1e6,
                at.tpot_us / 1e6,
            )
            for name, at in load.classes.items()
        },
    )


def _notes(plan: Plan, engines: Sequence[Engine], terms: Terms, load: Load, paid: float) -> list[str]:
    guessed = list(dict.fromkeys(name for pool in plan.pools for name in unmeasured(pool.layout)))
    times = dict.fromkeys(f"step times {e.step_time.label}: {e.step_time.source}" for e in engines)
    prices = dict.fromkeys(_priced(pool.gpu, terms.prices.get(pool.gpu)) for pool in plan.pools)
    return [
        *times,
        *([f"{', '.join(guessed)}: wider bands, a guess"] if guessed else []),
        f"hits {load.hit_ratio:.1%} of prompt tokens, by the hit curve at the caches' free room",
        *prices,
        *([f"engines follow the load: {paid:.0%} of the GPUs are paid for in the mean"] if paid < 1 else []),
    ]


def _priced(gpu: str, price: Price | None) -> str:
    if price is None:
        return f"no price of {gpu} known: costs are left out"
    return f"{price.usd_h:.3g} USD/h for a {gpu}: {price.said}"
