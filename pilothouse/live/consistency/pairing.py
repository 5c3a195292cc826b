"""Says which prefill and decode engines have no partner, and because of what. Pure: engines in, sentences out."""

from collections.abc import Iterable, Sequence

import msgspec

from pilothouse.live.consistency.comparing import rollouts
from pilothouse.live.consistency.facts import PROPERTIES, Member, Property, exchange


class Alike(msgspec.Struct, frozen=True):
    """Engines of one pool that are the same to any partner."""

    first: Member
    exchange: str
    count: int


def sentences(members: Sequence[Member]) -> list[str]:
    """What a person should know of pairs that cannot be; `members` are engines of which something was heard."""
    doubts = [f"endpoint {m.name} {doubt}: it is paired with nobody" for m in members for doubt in m.doubts]
    prefill, decode = (
        grouped(m for m in members if m.pool.role == role and m.pool.connector is not None and not m.doubts)
        for role in ("prefill", "decode")
    )
    lonely = [(p, d) for d in decode if (p := nearest(d, prefill))] + [
        (p, d) for p in prefill if (d := nearest(p, decode))
    ]
    pairs = {(p.first.name, d.first.name): (p, d) for p, d in lonely}  # both ends may be lonely
    return doubts + [_sentence(p, d) for p, d in pairs.values()] + rollouts(members)


def grouped(members: Iterable[Member]) -> list[Alike]:
    """A fleet has thousands of engines and few kinds of them."""
    groups: dict[tuple[str, tuple[str, ...], str], list[Member]] = {}
    for m in sorted(members, key=lambda m: (m.pool.name, m.name)):
        groups.setdefault((m.pool.name, m.models, exchange(m)), []).append(m)
    return [Alike(group[0], alike, len(group)) for (_, _, alike), group in groups.items()]


def nearest(engine: Alike, others: Sequence[Alike]) -> Alike | None:
    """Of the other role and the same model, the kind with the fewest differences; None if one is alike."""
    ours = set(engine.first.models)
    candidates = [o for o in others if not ours or not o.first.models or ours & set(o.first.models)]
    if any(o.exchange == engine.exchange for o in candidates):
        return None
    return min(candidates, key=lambda o: len(differing(engine.first, o.first)), default=None)


def differing(a: Member, b: Member) -> list[Property]:
    """What keeps two engines from being paired."""
    return [p for p in PROPERTIES if p.pairs and (getattr(a.facts, p.name) or "") != (getattr(b.facts, p.name) or "")]


def _sentence(p: Alike, d: Alike) -> str:
    properties = differing(p.first, d.first)
    ours = ", ".join(f"{q.words} {_value(p.first, q)}" for q in properties)
    theirs = ", ".join(_value(d.first, q) for q in properties)
    more = f" (the same with {p.count * d.count - 1} more pairs)" if p.count * d.count > 1 else ""
    names = f"prefill endpoint {p.first.name} has {ours}, decode endpoint {d.first.name} {theirs}"
    return f"{names}: they are not paired{more}"


def _value(m: Member, p: Property) -> str:
    value = getattr(m.facts, p.name)
    return "untold" if value is None else value or "none"
