"""How capacity is bought over the load curve: what runs all day, what follows the load, at which terms, and what that costs.

The k-th engine of a pool is needed for the share of the time at which the load is more than k - 1 engines bear. What is
paid for all day costs its price all the time, what follows the load a higher price for that share: so the first engines
are the base, and the rest is burst, cut where the share is the ratio of the prices (the newsvendor's fractile). Shares only
fall, so this is the cheapest mix of two terms, and never dearer than either alone.

Assumed, and told:
- An engine that follows the load starts once a day, and is paid for while it starts. Something starts it ahead of the load.
- Where nothing runs when idle, a fleet stays for `keep_s` after its last answer. Requests come as a Poisson process of rate
  r within each part of the curve, so a share 1 / (exp(r T) + r S) of them meets nothing that runs, and waits for a start of
  S seconds; T is an answer and `keep_s`.
- Spot capacity is taken away now and then: `spot_extra` of its hours are bought again.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, exp

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.perf.gpus import Gpu
from pilothouse.plan.asks import Asks
from pilothouse.plan.document import CostLine, Way
from pilothouse.plan.prices import RESERVED, Price, Prices

DAY_S = 86_400
ALL_DAY = (*RESERVED, "owned")  # is paid for, used or not
BURSTS = ("on_demand", "spot")  # can be let go of
READ_GB_PER_S = 1.0  # of weights, off a network volume: an assumption
BEGIN_S = 60.0  # of process, compilation and graphs: an assumption
KEEP_S = 300.0  # KEDA's cooldownPeriod, where nobody sets it
SPOT_EXTRA = 0.1  # an assumption
SLACK = 1e-9  # of a rate: no engine more for it
EXPONENT_MAX = 700.0  # of a float


class Buying(Struct, frozen=True, kw_only=True):
    """How. Terms as in `prices.py`."""

    term: str = "on_demand"  # of what runs all day, and of all where there is no burst
    burst: str = ""  # term of what comes with the load; "" = none
    follows: int | None = None  # engines of each pool that stay where they follow the load; None = all run all day
    start_s: float | None = None  # until an engine serves; None = estimated
    keep_s: float = KEEP_S  # that an idle engine stays
    spot_extra: float = SPOT_EXTRA  # of spot hours, bought again


class Part(Struct, frozen=True):
    """Equal engines."""

    name: str
    gpu: Gpu
    replicas: int
    gpus: int  # of one engine
    start_s: float


class Needed(Struct, frozen=True):
    """What the load needs of a fleet."""

    asks: Asks
    rate_max: float  # of the whole fleet [requests per second]
    answer_s: float  # that a request takes


class Bought(Struct, frozen=True):
    """What it comes to."""

    lines: list[CostLine]
    cold_share: float = 0.0  # of the requests, that wait for a start

    @property
    def usd_h(self) -> float:
        return sum(line.usd_per_hour for line in self.lines)


def start_seconds(weights_gib: float) -> float:
    """Until an engine with so many weights serves. Estimated."""
    return BEGIN_S + weights_gib * 1.074 / READ_GB_PER_S


def bought(parts: Sequence[Part], needed: Needed, buying: Buying, prices: Prices) -> Bought | None:
    """None = a price is unknown."""
    lines: list[CostLine] = []
    for part in parts:
        made = _lines(part, needed, buying, prices)
        if made is None:
            return None
        lines += made
    goes = buying.follows == 0 and not any(line.all_day for line in lines)
    cold = idle_share(needed, buying, max(part.start_s for part in parts), by_request=True) if goes else 0.0
    return Bought(lines, cold)


def _lines(part: Part, needed: Needed, buying: Buying, prices: Prices) -> list[CostLine] | None:
    base, burst = prices.of(part.gpu, buying.term), prices.of(part.gpu, buying.burst or buying.term)
    if base is None or burst is None:
        return None
    steady, extra = _extra(buying, buying.term), _extra(buying, buying.burst or buying.term)
    if not buying.burst and buying.follows is None:
        return [_line(part, "all day", buying.term, base, part.replicas, part.replicas * steady)]
    shares = uses(part, needed, buying)
    cheaper = 0
    if buying.burst:
        cheaper = sum(1 for share in shares if steady * base.usd_h <= share * extra * burst.usd_h)
    rest = shares[cheaper:]
    made = [_line(part, "base", buying.term, base, cheaper, cheaper * steady)] if cheaper else []
    if rest:
        name = "burst" if buying.burst else "following the load"
        made.append(_line(part, name, buying.burst or buying.term, burst, len(rest), sum(rest) * extra))
    return made


def _line(part: Part, what: str, term: str, price: Price, engines: int, paid: float) -> CostLine:
    return CostLine(
        pool=part.name, what=what, term=term, engines=engines, gpus=engines * part.gpus, gpus_paid=paid * part.gpus,
        usd_per_hour=paid * part.gpus * price.usd_h, price=f"{price.usd_h:.3g} USD/h a {part.gpu.name}: {price.said}",
        all_day=what in ("all day", "base"),
    )  # fmt: skip


def _extra(buying: Buying, term: str) -> float:
    return 1 + buying.spot_extra if term == "spot" else 1.0


def uses(part: Part, needed: Needed, buying: Buying) -> list[float]:
    """Share of the time for which each engine of a pool is paid, the first one first; falls, from 1 at most."""
    curve = needed.asks.curve
    each = needed.rate_max / part.replicas
    least = 1 if buying.follows is None else min(buying.follows, part.replicas)
    wanted = [(max(least, ceil(rate / each - SLACK)) if each else part.replicas, share) for rate, share in curve]
    shares = [sum(share for count, share in wanted if count > k) for k in range(part.replicas)]
    if buying.follows == 0:
        shares[0] = 1 - idle_share(needed, buying, part.start_s)
    start = part.start_s / DAY_S
    found, most = list[float](), 1.0
    for share in shares:
        most = min(most, share + (start if 0 < share < 1 else 0.0))
        found.append(most)
    return found


def idle_share(needed: Needed, buying: Buying, start_s: float, *, by_request: bool = False) -> float:
    """Of the time in which nothing runs; of the requests that come then, where asked for those."""
    stays_s, found, whole = min(DAY_S, needed.answer_s + buying.keep_s), 0.0, 0.0  # sums may promise no end
    for rate, share in needed.asks.curve:
        weight = rate * share if by_request else share
        found += weight / (exp(min(EXPONENT_MAX, rate * stays_s)) + rate * start_s)
        whole += weight
    return found / whole if whole else 0.0


def ways(parts: Sequence[Part], needed: Needed, buying: Buying, prices: Prices) -> list[Way]:
    """All there are prices for, the cheapest first."""
    engines = sum(part.replicas for part in parts)
    found: list[Way] = []
    for how, said in _hows(parts, buying, prices):
        made = bought(parts, needed, how, prices)
        if made is None:
            continue
        base = sum(line.engines for line in made.lines if line.what == "base")
        if how.burst and base in (0, engines):
            continue  # it is a way of one term
        if how.follows is not None and found and made.usd_h >= found[-1].usd_per_hour * (1 - SLACK):
            continue  # nothing follows
        words = f"{base} of {engines} engines {how.term}, the rest {how.burst} as needed" if how.burst else said
        found.append(Way(how=words, usd_per_hour=made.usd_h, cold_share=made.cold_share))
    return sorted(found, key=lambda way: way.usd_per_hour)


def _hows(parts: Sequence[Part], buying: Buying, prices: Prices) -> Iterator[tuple[Buying, str]]:
    """Each after the one that it is to be cheaper than."""
    known = ("on_demand",) if prices.given else ("on_demand", "reserved", "spot", "owned")
    terms = [term for term in known if all(prices.of(part.gpu, term) is not None for part in parts)]
    for term in terms:
        fixed = replace(buying, term=term, burst="", follows=None)
        yield fixed, f"all {term}, all day"
        if term in BURSTS:
            yield replace(fixed, follows=1), f"all {term}, following the load"
            yield replace(fixed, follows=0), f"all {term}, following the load, none when idle"
    for base, burst in product(terms, BURSTS):
        if base in ALL_DAY and burst in terms:
            yield replace(buying, term=base, burst=burst, follows=None), ""
