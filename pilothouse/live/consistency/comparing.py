"""Names every difference between engines that should be alike. Pure: engines in, sentences out.

Engines of one pool should be alike in all that is measured; engines that hand KV to each other, in all that the KV
depends on. What an engine does not tell is no difference, and is said to be unknown.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from pilothouse.live.consistency.facts import LEASING, PROPERTIES, STORES, Breaks, Member, Property

WORST_FIRST = list(Breaks)


class Difference(msgspec.Struct, frozen=True):
    """One thing to know, as a sentence."""

    breaks: Breaks
    about: str  # name of the property; "" = the fleet
    sentence: str


def differences(members: Sequence[Member]) -> list[Difference]:
    """All of a fleet, worst first, the same for any order of `members`."""
    pools = pools_of(members)
    found = [difference for pool in pools for difference in [*_within(pool), *_doubts(pool), *_untold(pool)]]
    for prefill, decode in partner_pools(pools):
        found += [*_between(prefill, decode), *_rollout(prefill, decode)]
    return sorted(found, key=lambda d: WORST_FIRST.index(d.breaks))


def pools_of(members: Iterable[Member]) -> list[list[Member]]:
    """By pool, pools and engines by name."""
    ordered = sorted(members, key=lambda m: (m.pool.name, m.name))
    return [list(pool) for _, pool in groupby(ordered, key=lambda m: m.pool.name)]


def partner_pools(pools: list[list[Member]]) -> list[tuple[list[Member], list[Member]]]:
    """Prefill and decode pools that have a model and the kind of connector in common."""
    prefill = [pool for pool in pools if pool[0].pool.role == "prefill"]
    decode = [pool for pool in pools if pool[0].pool.role == "decode"]
    return [(p, d) for p in prefill for d in decode if _same_kind(p[0], d[0]) and _one_model(p, d)]


def rollouts(members: Sequence[Member]) -> list[str]:
    """Sentences about pairs of pools that change at the same time."""
    return [d.sentence for prefill, decode in partner_pools(pools_of(members)) for d in _rollout(prefill, decode)]


def _within(pool: list[Member]) -> list[Difference]:
    shares = _shares(pool[0])
    found = _seedless(pool) if shares else []
    for p in PROPERTIES:
        breaks = min((b for b in (p.within, p.between if shares else None) if b), key=WORST_FIRST.index, default=None)
        values = _values(p, pool)
        if breaks and len(values) > 1:
            found.append(Difference(breaks, p.name, f"pool {pool[0].pool.name}: {p.words} is {_spread(values)}"))
    return found


def _shares(m: Member) -> bool:
    """Whether engines of its pool meet in one store."""
    connector = m.pool.connector
    return connector is not None and (connector.carrier if connector.type == "multi" else connector.type) in STORES


def _seedless(pool: list[Member]) -> list[Difference]:
    """Without a seed, xxhash names blocks by luck: one engine finds nothing that another stored."""
    names = [m.name for m in pool if (m.facts.hash_algorithm or "").startswith("xxhash") and not m.facts.hash_seed]
    what = f"{', '.join(names)}: xxhash without PYTHONHASHSEED names blocks anew in each process: nothing is shared"
    return [Difference(Breaks.EXCHANGE, "hash_seed", what)] if names else []


def _between(prefill: list[Member], decode: list[Member]) -> list[Difference]:
    found = []
    for p in PROPERTIES:
        ours, theirs = _values(p, prefill), _values(p, decode)
        if p.between and ours and theirs and len(ours | theirs) > 1:
            what = f"{p.words} of prefill pool {prefill[0].pool.name} is {_spread(ours)}, of decode pool "
            found.append(Difference(p.between, p.name, f"{what}{decode[0].pool.name} {_spread(theirs)}"))
    return found


def _rollout(prefill: list[Member], decode: list[Member]) -> list[Difference]:
    version = PROPERTIES[0]
    if min(len(_values(version, prefill)), len(_values(version, decode))) < 2:
        return []
    names = f"pool {prefill[0].pool.name} and pool {decode[0].pool.name}"
    return [Difference(Breaks.EXCHANGE, version.name, f"{names} both run several versions: change one pool at a time")]


def _doubts(pool: list[Member]) -> list[Difference]:
    return [
        Difference(Breaks.EXCHANGE, "", f"{m.name} {doubt}: it is paired with nobody")
        for m in pool
        for doubt in m.doubts
    ]


def _untold(pool: list[Member]) -> list[Difference]:
    """One sentence for all that the same engines do not tell."""
    silent: dict[str, list[Property]] = {}
    for p in PROPERTIES:
        names = ", ".join(m.name for m in pool if getattr(m.facts, p.name) is None and _applies(p, m))
        if names:
            silent.setdefault(names, []).append(p)
    return [
        Difference(
            Breaks.NOTE,
            "",
            f"{names}: the engine does not tell its {', '.join(p.words for p in properties)}: pin it in a manifest "
            f"({', '.join(dict.fromkeys(p.pin for p in properties))})",
        )
        for names, properties in silent.items()
    ]


def _applies(p: Property, m: Member) -> bool:
    """Whether an engine has that property at all: the KV of a store has no lease, a directory no revision."""
    connector = m.pool.connector
    if p.name in ("connector", "role"):
        return connector is not None
    if p.name == "lease":
        return connector is not None and connector.type in LEASING
    if p.name == "renewal":  # told with the lease
        return False
    return p.name != "revision" or not (m.facts.model or "").startswith(("/", "."))


def _values(p: Property, pool: list[Member]) -> dict[str, list[str]]:
    """Value -> engines that have it; engines that do not tell are left out."""
    found: dict[str, list[str]] = {}
    for m in pool:
        value = getattr(m.facts, p.name)
        if value is not None:
            found.setdefault(value, []).append(m.name)
    return dict(sorted(found.items()))


def _spread(values: dict[str, list[str]]) -> str:
    return "; ".join(f"{value or 'none'} on {', '.join(names)}" for value, names in values.items())


def _same_kind(a: Member, b: Member) -> bool:
    return a.pool.connector is not None and b.pool.connector is not None and _kind(a) == _kind(b)


def _kind(m: Member) -> str:
    return m.pool.connector.type if m.pool.connector else ""


def _one_model(ours: list[Member], theirs: list[Member]) -> bool:
    """Pools of which nothing was heard yet may serve the same."""
    mine, yours = ({name for m in pool for name in m.models} for pool in (ours, theirs))
    return not mine or not yours or bool(mine & yours)
