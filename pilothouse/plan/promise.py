"""What a plan promises by sums: percentiles at the rate that is asked for, the highest rate, room for KV, and the bill.

Pools that serve whole requests share the rate as they can bear it, since the dispatcher learns how fast each is; then all
reach their limits at the same rate, and the slowest makes the percentile: a little too careful.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.perf.catalog import Model, precision_named
from pilothouse.plan.analytic import INFINITE, Fleet, Latency, Load, Pool, bands, load_at, rate_max
from pilothouse.plan.asks import Asks, settled
from pilothouse.plan.binding import binding
from pilothouse.plan.buying import Bought, Buying, Needed, Part, bought, start_seconds, ways
from pilothouse.plan.costs import bill, cached_share
from pilothouse.plan.document import Bound, ClassExpected, Confidence, CostLine, Expected, Objective, Plan
from pilothouse.plan.engines import Engine, unmeasured
from pilothouse.plan.memory import too_long, weights_gib
from pilothouse.plan.prices import Prices
from pilothouse.plan.simulated import Hardware, engines_of

MIDDLE = 50  # the percentile that stands for the mean
COLD_TELLING = 1e-5  # share of requests that wait for a start: of fewer nothing is said


class Terms(Struct, frozen=True):
    """What is asked of a fleet, and what it is paid with."""

    asks: Asks
    prices: Prices = Prices()  # without one for every GPU, costs are left out
    buying: Buying = Buying()


class _State(Struct, frozen=True):
    """How a fleet does at one rate."""

    load: Load
    rate: float
    highest: float
    bound: Bound
    bands: tuple[float, float]  # of TTFT and TPOT by sums


def promised(plan: Plan, hardware: Hardware, terms: Terms, *, capped: bool = False) -> Plan:
    """With what sums expect of it. Work that is all there at once is served as fast as the objectives allow.

    capped   a fleet that cannot serve all promises what it can; else it promises to be late
    """
    asks = terms.asks
    engines = engines_of(plan, hardware, asks.demand.context_mean)
    fleets = fleets_of(plan, engines)
    asks = settled_at(fleets, asks)
    terms = replace(terms, asks=asks)
    state = _state(plan, fleets, asks, capped=capped)
    if not state.rate:
        raise ConfigError([Problem("objective", "is missed by one request alone: no rate can be promised")])
    if not asks.rate:
        busy = [(state.highest, 1.0)]  # until it is done: nothing of it could be let go of
        terms = replace(terms, asks=replace(asks, rate=state.highest, rate_mean=state.highest, curve=busy))
    rate = state.rate if state.rate < asks.rate else plan.rate
    return replace(plan, rate=rate, expected=_expected(plan, hardware, engines, terms, state))


def expected_of(plan: Plan) -> Expected:
    assert plan.expected is not None
    return plan.expected


def keeps(objective: Objective, expected: Expected) -> bool:
    """Whether both objectives hold; where classes have their own, those of every class. A start that too many wait for
    breaks that of the first token."""
    if objective.ttft_s is not None and objective.ttft_s < expected.start_s and too_many_wait(objective, expected):
        return False
    if expected.classes:
        return all(met.keeps for met in expected.classes.values())
    return objective.holds(expected.ttft_s, expected.tpot_s)


def too_many_wait(objective: Objective, expected: Expected) -> bool:
    """For an engine that has to be started: more than the percentile leaves out."""
    return expected.cold_share > 1 - objective.percentile / 100


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


def settled_at(fleets: Sequence[Fleet], asks: Asks) -> Asks:
    """Users who wait for their answers ask as fast as these fleets let them; else what was asked."""
    room = [fleet.serving.lanes * fleet.serving.engine.kv_tokens for fleet in fleets]

    def takes(rate: float) -> float:
        found = 0.0
        for fleet, own in zip(fleets, room, strict=True):
            load = load_at(fleet, asks, rate * own / sum(room), MIDDLE)
            found += own / sum(room) * (load.ttft_us + load.tpot_us * asks.demand.output_mean) / 1e6
        return found

    return settled(asks, takes)


def _state(plan: Plan, fleets: Sequence[Fleet], asks: Asks, *, capped: bool) -> _State:
    percentile, limits, rate = plan.objective.percentile, limits_us(plan.objective), asks.rate
    classes = by_class(asks, plan.classes, plan.objective)

    def load(fleet: Fleet, rate: float) -> Load:
        return load_at(fleet, asks, rate, percentile, classes=classes)

    room = [fleet.serving.lanes * fleet.serving.engine.kv_tokens for fleet in fleets]
    loads = [load(fleet, rate * own / sum(room)) for fleet, own in zip(fleets, room, strict=True)]
    found = [rate_max(fleet, asks, percentile, limits, classes=classes) for fleet in fleets]
    highest = sum(most for most, _ in found)
    shares = [most / highest if highest else 1 / len(found) for most, _ in found]
    if not rate or (capped and 0 < highest < rate):
        rate = highest
    if len(fleets) > 1 or rate != asks.rate:
        loads = [load(fleet, rate * share) for fleet, share in zip(fleets, shares, strict=True)]
    most, bound = found[0]
    if bound is Bound.LATENCY and most:
        near = load(fleets[0], most)
        bound = binding(fleets[0], asks, near, most, plan.objective, classes)
    off = [bands(fleet, load) for fleet, load in zip(fleets, loads, strict=True)]
    widest = max(ttft for ttft, _ in off), max(tpot for _, tpot in off)
    return _State(_mixed(list(zip(loads, shares, strict=True))), rate, highest, bound, widest)


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


def _expected(plan: Plan, hardware: Hardware, engines: Sequence[Engine], terms: Terms, state: _State) -> Expected:
    asks, load, highest = terms.asks, state.load, state.highest
    parts = _parts(plan, hardware, terms.buying)
    needed = Needed(asks, highest, (load.ttft_us + load.tpot_us * asks.demand.output_mean) / 1e6)
    cost = bought(parts, needed, terms.buying, terms.prices)
    lines = [] if cost is None else cost.lines
    usd_h = sum(line.usd_per_hour for line in lines)
    caching = max(zip(plan.pools, engines, strict=True), key=lambda pair: pair[0].role is Role.PREFILL)[1]
    priced = bill(
        usd_h, asks, min(1.0, state.rate / asks.rate), _input_share(plan, parts, lines, load), load.hit_ratio,
        cached_share(caching.step_time, asks.prompts, load.hit_ratio),
    )  # fmt: skip
    return Expected(
        ttft_s=load.ttft_us / 1e6,
        tpot_s=load.tpot_us / 1e6,
        ttft_band=max(engine.ttft_band for engine in engines),
        tpot_band=max(engine.tpot_band for engine in engines),
        sums_ttft_band=state.bands[0],
        sums_tpot_band=state.bands[1],
        output_per_s=state.rate * asks.demand.output_mean,
        requests_per_s=state.rate,
        requests_per_s_max=highest,
        kv_tokens=sum(p.replicas * e.lanes * e.kv_tokens for p, e in zip(plan.pools, engines, strict=True)),
        utilisation=min(1.0, state.rate / highest) if highest else 1.0,
        bound=state.bound,
        usd_per_hour=priced.usd_per_hour,
        usd_per_m_input=priced.usd_per_m_input,
        usd_per_m_cached=priced.usd_per_m_cached,
        usd_per_m_output=priced.usd_per_m_output,
        usd_per_m=priced.usd_per_m,
        cost=lines,
        start_s=max(part.start_s for part in parts),
        cold_share=0.0 if cost is None else cost.cold_share,
        ways=ways(parts, needed, terms.buying, terms.prices),
        confidence=Confidence.ESTIMATED,
        notes=[*_notes(plan, hardware.model, engines, asks, load), *_cost_notes(terms, parts, cost)],
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


def _parts(plan: Plan, hardware: Hardware, buying: Buying) -> list[Part]:
    made = []
    for pool in plan.pools:
        gpu = hardware.gpus[pool.gpu]
        weights = weights_gib(hardware.model, gpu, pool.layout, precision_named(pool.precision)) * pool.layout.gpus
        start_s = start_seconds(weights) if buying.start_s is None else buying.start_s
        made.append(Part(pool.name, gpu, pool.replicas, pool.layout.gpus, start_s))
    return made


def _input_share(plan: Plan, parts: Sequence[Part], lines: Sequence[CostLine], load: Load) -> float:
    """Of the bill. Engines that only prefill are the input's; where they are not priced, by GPUs."""
    prefill = [pool.name for pool in plan.pools if pool.role is Role.PREFILL]
    if not prefill:
        return load.prefill_cost
    costs = [(line.pool, line.usd_per_hour) for line in lines]
    costs = costs or [(part.name, float(part.replicas * part.gpus)) for part in parts]
    return sum(cost for name, cost in costs if name in prefill) / sum(cost for _, cost in costs)


def _notes(plan: Plan, model: Model, engines: Sequence[Engine], asks: Asks, load: Load) -> list[str]:
    guessed = list(dict.fromkeys(name for pool in plan.pools for name in unmeasured(pool.layout)))
    times = dict.fromkeys(f"step times {e.step_time.label}: {e.step_time.source}" for e in engines)
    return [
        *([too_long(model, asks.longest)] if 0 < model.context < asks.longest else []),
        *times,
        *([f"{', '.join(guessed)}: wider bands, a guess"] if guessed else []),
        f"hits {load.hit_ratio:.1%} of prompt tokens, by the hit curve at the caches' free room",
    ]


def _cost_notes(terms: Terms, parts: Sequence[Part], cost: Bought | None) -> list[str]:
    if cost is None:
        gpus = {part.gpu.name: part.gpu for part in parts}
        asked = dict.fromkeys((terms.buying.term, terms.buying.burst or terms.buying.term))
        lacking = [name for name, gpu in gpus.items() if any(terms.prices.of(gpu, term) is None for term in asked)]
        return [f"no price of {', '.join(lacking)} known at {' and '.join(asked)}: costs are left out"]
    notes = list(dict.fromkeys(line.price for line in cost.lines))
    if cost.cold_share >= COLD_TELLING:
        start_s = max(part.start_s for part in parts)
        notes.append(
            f"{cost.cold_share:.2g} of the requests find nothing that runs and wait {start_s:.0f} s more than TTFT says"
        )
    paid, all_gpus = sum(line.gpus_paid for line in cost.lines), sum(line.gpus for line in cost.lines)
    if any(not line.all_day for line in cost.lines):
        notes.append(f"engines follow the load: {paid / all_gpus:.0%} of the GPUs are paid for in the mean")
    if any(line.term == "spot" for line in cost.lines):
        notes.append(
            f"spot: {terms.buying.spot_extra:.0%} of its hours are bought again, as it is taken away: an assumption"
        )
    return notes
