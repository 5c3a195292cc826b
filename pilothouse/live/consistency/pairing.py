"""Says which prefill and decode engines have no partner, and because of what. Pure: engines in, sentences out."""

from collections.abc import Sequence

from pilothouse.live.consistency.comparing import rollouts
from pilothouse.live.consistency.facts import PROPERTIES, Member, Property, exchange


def sentences(members: Sequence[Member]) -> list[str]:
    """What a person should know of the pairs that cannot be; `members` are engines of which something was heard."""
    named = [f"endpoint {m.name} {doubt}: it is paired with nobody" for m in members for doubt in m.doubts]
    sure = [m for m in members if not m.doubts and m.pool.connector is not None]
    prefill = [m for m in sure if m.pool.role == "prefill"]
    decode = [m for m in sure if m.pool.role == "decode"]
    lonely = [(d, p) for d in decode if (p := nearest(d, prefill))]
    lonely = [(p, d) for d, p in lonely] + [(p, d) for p in prefill if (d := nearest(p, decode))]
    alike: dict[tuple[str, ...], list[tuple[Member, Member]]] = {}
    for pair in dict.fromkeys((p.name, d.name) for p, d in lonely):
        p, d = next((p, d) for p, d in lonely if (p.name, d.name) == pair)
        alike.setdefault((p.pool.name, d.pool.name, _differs(p, d)), []).append((p, d))
    for pairs in alike.values():
        more = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
        named.append(_sentence(*pairs[0]) + more)
    return named + rollouts(members)


def nearest(engine: Member, others: Sequence[Member]) -> Member | None:
    """The engine of the other role and the same model that differs in the fewest properties; None if one is alike."""
    candidates = [o for o in others if not engine.models or not o.models or set(engine.models) & set(o.models)]
    if any(exchange(o) == exchange(engine) for o in candidates):
        return None
    return min(candidates, key=lambda o: len(differing(engine, o)), default=None)


def differing(a: Member, b: Member) -> list[Property]:
    """What keeps two engines from being paired."""
    return [p for p in PROPERTIES if p.pairs and (getattr(a.facts, p.name) or "") != (getattr(b.facts, p.name) or "")]


def _differs(p: Member, d: Member) -> str:
    """The same for pairs that differ alike."""
    return ", ".join(f"{_value(p, q)} {_value(d, q)}" for q in differing(p, d))


def _sentence(p: Member, d: Member) -> str:
    properties = differing(p, d)
    ours = ", ".join(f"{q.words} {_value(p, q)}" for q in properties)
    theirs = ", ".join(_value(d, q) for q in properties)
    return f"prefill endpoint {p.name} has {ours}, decode endpoint {d.name} {theirs}: they are not paired"


def _value(m: Member, p: Property) -> str:
    value = getattr(m.facts, p.name)
    return "untold" if value is None else value or "none"
