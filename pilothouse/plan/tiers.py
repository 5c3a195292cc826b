"""Whether KV should lie in more places than HBM, and how much of it: hits against capacity, fetching against computing.

The curve is of one cache that all share. Lower tiers hold what is above them as well (offloading to DRAM, a shared store:
blocks are written through), so with a tier the cache is as large as that tier, not as the sum.
accuracy   the curve: exact for requests one after the other (`workload/reuse.py`). Requests at the same time hold blocks
           that they have not finished with, which takes room from everybody; engines evict by the block, close to LRU
ignores    what a fetch costs whatever its size: with prompts of few blocks, leave a margin
"""

from collections.abc import Mapping, Sequence

import msgspec

from pilothouse.core.events import Tier
from pilothouse.perf.storage import STORAGES, Storage, fetch_us
from pilothouse.plan.machine import Machine
from pilothouse.plan.source import Source
from pilothouse.workload.demand import Demand, Survey
from pilothouse.workload.reuse import HitCurve

LEAST_GAIN = 0.01  # of prompt tokens: less is not worth another moving part
NEARLY = 0.95  # of what an unlimited cache adds: the rest costs several times the room
TENFOLD = 10
STEPS = (1, 2, 5)  # of each decade on the curve
SPAN = 1000  # from its smallest to its largest round capacity
GB = 1e9
TITLES = {Tier.HBM: "HBM", Tier.DRAM: "DRAM", Tier.DISK: "disk", Tier.REMOTE: "a shared store"}


class Point(msgspec.Struct, frozen=True):
    """One capacity. Hits are shares of prompt tokens."""

    tokens: int
    gb: float | None  # None = bytes of a token unknown
    hit_ratio: float
    apart_ratio: float | None = (
        None  # the same room in caches of their own, conversations staying with one; None = one cache
    )
    name: str = ""


class Below(msgspec.Struct, frozen=True):
    """A tier below HBM."""

    tier: Tier
    tokens: int  # that fit, of all engines; 0 = as many as one likes
    fetch_us: float  # of one token
    compute_us: float  # of one token
    hit_ratio: float  # with it
    saved_ratio: float  # of prefill work
    saved_gpus: float | None  # that prefill no longer keeps busy; None = rate unknown
    gb_per_s: float | None  # that it must deliver to all engines together
    pays: bool
    source: str  # of speed and room


class TierAdvice(msgspec.Struct, frozen=True):
    """The answer, and what it stands on."""

    source: str
    label: str  # of the curve
    requests: int
    prompt_tokens: int
    ceiling: float  # hit ratio of a cache without limit
    enough_tokens: int  # the smallest cache that reaches it
    unique_tokens: int  # that were ever held
    unnamed_ratio: float  # of prompt tokens: nobody knows whether they come again
    measured_ratio: float | None  # cached, as the engines said
    capacity_tokens: int | None  # of HBM; None = unknown
    hit_ratio: float | None  # at that capacity
    wanted_tokens: int  # at which nearly all of the ceiling is reached
    curve: list[Point]
    tiers: list[Below]
    pays: bool | None  # None = cannot be said
    verdict: str
    tenfold: str  # does a cache ten times larger raise the hit rate?
    notes: list[str] = []


def advise_tiers(
    source: Source,
    found: Survey,
    machine: Machine | None,
    engines: int,
    storages: Mapping[Tier, Storage] = STORAGES,
) -> TierAdvice:
    """`engines`: 0 = unknown."""
    demand, apart = found.demand, found.apart
    scale = _Scale(demand, found.curve, apart, source.workload.block_size, _token_bytes(source, machine))
    engines = engines or source.engines or (1 if machine else 0)
    capacity = source.kv_tokens or (machine.kv_tokens * engines if machine else 0) or None
    now = scale.ratio(capacity) if capacity else None
    wanted = scale.wanted(capacity or 0)
    tiers: list[Below] = []
    if machine is not None and capacity:
        tiers = [_below(storage, machine, engines, demand, scale, capacity) for storage in storages.values()]
    pays, verdict = _verdict(scale, capacity, tiers, wanted)
    return TierAdvice(
        source=source.name,
        label="Estimated",
        requests=demand.requests,
        prompt_tokens=demand.prompt_tokens,
        ceiling=scale.ceiling,
        enough_tokens=scale.curve.enough * scale.size,
        unique_tokens=scale.curve.blocks * scale.size,
        unnamed_ratio=demand.unnamed_tokens / demand.prompt_tokens,
        measured_ratio=source.cached_ratio,
        capacity_tokens=capacity,
        hit_ratio=now,
        wanted_tokens=wanted,
        curve=scale.points(capacity, tiers),
        tiers=tiers,
        pays=pays,
        verdict=verdict,
        tenfold=_tenfold(scale, capacity),
        notes=_notes(source, demand, machine, engines, bool(apart)),
    )


class _Scale:
    """The curve in tokens and shares of the prompt tokens."""

    def __init__(
        self, demand: Demand, curve: HitCurve, apart: Sequence[HitCurve], size: int, token_bytes: float
    ) -> None:
        self.curve, self.size, self.token_bytes = curve, size, token_bytes
        self._apart, self._all = apart, demand.prompt_tokens
        self.ceiling = curve.ceiling * size / self._all

    def ratio(self, tokens: int) -> float:
        return self.curve.hits(tokens // self.size) * self.size / self._all

    def wanted(self, capacity: int) -> int:
        """The smallest cache that has nearly all of what could be gained over this one."""
        now = self.curve.hits(capacity // self.size)
        return max(capacity, self.curve.capacity(now + NEARLY * (self.curve.ceiling - now)) * self.size)

    def point(self, tokens: int, name: str = "") -> Point:
        gb = tokens * self.token_bytes / GB if self.token_bytes else None
        share = tokens // self.size // max(1, len(self._apart))
        apart = sum(curve.hits(share) for curve in self._apart) * self.size / self._all if self._apart else None
        return Point(tokens, gb, self.ratio(tokens), apart, name)

    def points(self, capacity: int | None, tiers: Sequence[Below]) -> list[Point]:
        """Round capacities up to what is enough, and those that have a name, by size."""
        named = {capacity: "HBM", capacity * TENFOLD: f"{TENFOLD} x HBM"} if capacity else {}
        named |= {below.tokens: TITLES[below.tier] for below in tiers if below.tokens}
        named[self.curve.enough * self.size] = "enough for all reuse"
        most, found, decade = self.curve.enough * self.size, dict.fromkeys(named), 1
        while decade <= most:
            found |= dict.fromkeys(step * decade for step in STEPS if most / SPAN <= step * decade <= most)
            decade *= 10
        return [self.point(tokens, named.get(tokens, "")) for tokens in sorted(found) if tokens >= self.size]


def _token_bytes(source: Source, machine: Machine | None) -> float:
    return float(source.token_bytes) or (machine.token_bytes if machine else 0.0)


def compute_us(machine: Machine, demand: Demand) -> float:
    """Prefill of one token of these prompts, in the middle of its prompt [microseconds of the whole engine]."""
    times = machine.step_time
    return times.p_us + times.q_ps / 1e6 * demand.prompt_squares / demand.prompt_tokens / 2


def _below(storage: Storage, machine: Machine, engines: int, demand: Demand, scale: _Scale, capacity: int) -> Below:
    token_bytes = scale.token_bytes
    room = int(storage.room_gb * GB * machine.tp * engines / token_bytes)
    now = scale.ratio(capacity)
    hit = scale.ratio(max(capacity, room)) if room else scale.ceiling
    fetch, compute = fetch_us(storage, token_bytes, machine.tp), compute_us(machine, demand)
    per_second = demand.rate * demand.prompt_mean
    return Below(
        tier=storage.tier,
        tokens=room,
        fetch_us=fetch,
        compute_us=compute,
        hit_ratio=hit,
        saved_ratio=(hit - now) / (1 - now) if now < 1 else 0.0,
        saved_gpus=per_second * (hit - now) * compute * machine.tp / 1e6 if per_second else None,
        gb_per_s=per_second * (hit - now) * token_bytes / GB if per_second else None,
        pays=fetch < compute and hit - now >= LEAST_GAIN,
        source=storage.source,
    )


def _verdict(scale: _Scale, capacity: int | None, tiers: Sequence[Below], wanted: int) -> tuple[bool | None, str]:
    if scale.ceiling < LEAST_GAIN:
        return False, f"tiers do not pay: {scale.ceiling:.1%} of prompt tokens come again, whatever the cache"
    if capacity is None:
        what = f"{NEARLY:.0%} of what any cache can hit needs {_size(scale, wanted)}"
        return None, f"{what}; whether HBM holds that: say what it is, with --model, --gpu and --tp, or --hbm-tokens"
    now, ceiling = scale.ratio(capacity), scale.ceiling
    if ceiling - now < LEAST_GAIN:
        what = f"HBM ({_size(scale, capacity)}) hits {now:.1%} of prompt tokens, a cache without limit {ceiling:.1%}"
        return False, f"tiers do not pay: {what}"
    if not tiers:
        what = f"{_size(scale, wanted)} would hit {scale.ratio(wanted):.1%} of prompt tokens, HBM hits {now:.1%}"
        return None, f"{what}; whether fetching is quicker than computing: say --model, --gpu and --tp"
    paying = [below for below in tiers if below.pays]
    if not paying:
        quickest = min(tiers, key=lambda below: below.fetch_us)
        if quickest.fetch_us < quickest.compute_us:
            largest = max(tiers, key=lambda below: below.hit_ratio)
            return (
                False,
                f"tiers do not pay: {TITLES[largest.tier]} adds {largest.hit_ratio - now:.1%} of prompt tokens",
            )
        what = f"fetched from {TITLES[quickest.tier]} in {quickest.fetch_us:.1f} us, computed in {quickest.compute_us:.1f} us"
        return False, f"tiers do not pay: a token is {what}"
    return True, _recommended(scale, paying, now, wanted)


def _recommended(scale: _Scale, paying: Sequence[Below], now: float, wanted: int) -> str:
    """The quickest tier that holds nearly all; else the quickest, and the next one below it."""
    holds = [below for below in paying if not below.tokens or below.tokens >= wanted]
    best = holds[0] if holds else max(paying, key=lambda below: below.hit_ratio)
    above = [below for below in paying if below is not best and below.fetch_us < best.fetch_us and below.tokens]
    size = wanted if not best.tokens else min(best.tokens, wanted)
    said = f"{TITLES[best.tier]} of {_size(scale, size)}"
    if above:
        first = max(above, key=lambda below: below.tokens)
        said = f"{TITLES[first.tier]} of {_size(scale, first.tokens)} (hits {first.hit_ratio:.1%}), then {said}"
    hit = scale.ratio(size)
    work = (hit - now) / (1 - now)
    part = (hit - now) / (best.hit_ratio - now)
    gpus = "" if best.saved_gpus is None else f", {part * best.saved_gpus:.2g} GPUs' worth"
    slow = f"fetched from {TITLES[best.tier]} in {best.fetch_us:.1f} us, computed in {best.compute_us:.1f} us"
    return (
        f"tiers pay: {said}: hits rise from {now:.1%} to {hit:.1%} of prompt tokens (without limit {scale.ceiling:.1%}), "
        f"which saves {work:.0%} of prefill work{gpus}; a token is {slow}"
    )


def _tenfold(scale: _Scale, capacity: int | None) -> str:
    if capacity is None:
        return f"unknown, for the cache there is is unknown; the most that any cache can hit is {scale.ceiling:.1%}"
    now, then = scale.ratio(capacity), scale.ratio(TENFOLD * capacity)
    limit = f"the most that any cache can hit is {scale.ceiling:.1%}"
    if then - now < LEAST_GAIN:
        return f"no: {now:.1%} to {then:.1%} of prompt tokens; {limit}"
    work = (then - now) / (1 - now)
    return f"yes: {now:.1%} to {then:.1%} of prompt tokens, {work:.0%} less prefill work; {limit}"


def _size(scale: _Scale, tokens: int) -> str:
    gb = tokens * scale.token_bytes / GB
    return f"{gb:,.0f} GB ({tokens:,} tokens)" if gb >= 1 else f"{tokens:,} tokens"


def _notes(source: Source, demand: Demand, machine: Machine | None, engines: int, apart: bool) -> list[str]:
    notes = [
        (
            "Estimated: an exact count over these requests, one after the other, least recently used blocks evicted; requests "
            "at the same time take some of the room"
        ),
        (
            "the curve is of one cache for all; the caches of several engines come near it if a block lies in one of them only"
            + (
                f"; apart: {engines} caches, each conversation at one, beginnings shared by many in each"
                if apart
                else ""
            )
        ),
    ]
    if machine is not None:
        off = "" if machine.step_time.error is None else f" (error {machine.step_time.error:.0%})"
        notes.append(f"{machine.title}: step times {machine.step_time.label}{off}: {machine.step_time.source}")
    if demand.closed:
        notes.append(
            "requests follow the end of others: in the order of an engine that nobody else uses"
            if machine is not None
            else "requests follow the end of others: in the order of an engine that answers at once"
        )
    if demand.unnamed_tokens:
        share = demand.unnamed_tokens / demand.prompt_tokens
        notes.append(f"of {share:.0%} of prompt tokens nobody knows what they share: taken for new")
    return notes + source.notes
