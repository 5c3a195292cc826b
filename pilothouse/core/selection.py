"""One choice: filters, then scorers, then the picker, and the receipt that explains it."""

from dataclasses import dataclass
from heapq import nlargest
from math import isnan

import msgspec

from pilothouse.core.commands import Reuse, Scored, Why
from pilothouse.core.errors import PolicyError
from pilothouse.core.events import Arrived
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Decider, Filter, Known, Picker, Queue, Scorer
from pilothouse.core.units import Micros


class Named(msgspec.Struct, frozen=True):
    """A scorer in its place: the name it is configured by, and its weight."""

    name: str
    scorer: Scorer
    weight: float = 1.0


class Profile(msgspec.Struct, frozen=True):
    """A routing policy: filters remove, scorers rate (weighted sum), the picker chooses, the queue may make it wait."""

    name: str
    filters: list[tuple[str, Filter]]
    scorers: list[Named]
    picker: Picker
    queue: Queue | None = None  # None: everything is sent at once
    decider: Decider | None = None  # None: nobody computes prompts for others

    @property
    def uses_speeds(self) -> bool:
        parts = [policy for _, policy in self.filters] + [named.scorer for named in self.scorers]
        more = [part for part in (self.queue, self.decider) if part is not None]
        return any(part.uses_speeds for part in [*parts, self.picker, *more])


@dataclass(slots=True)
class Choice:
    """The endpoint and the reasons."""

    endpoint: Endpoint
    cached_tokens: int
    uncached_tokens: int
    why: Why
    cold: bool  # no endpoint that was scored held a block of the prompt
    load_us: float = 0.0  # until those of the cached tokens that lie in lower tiers are in HBM


def choose(profile: Profile, arrived: Arrived, known: Known, left_out: dict[str, int], why_max: int) -> Choice | None:
    """Runs the profile. None when its filters leave nobody; raises PolicyError when a policy breaks its contract."""
    for name, policy in profile.filters:
        keep = policy.keep(arrived, known)
        if len(keep) != len(known.endpoints):
            raise PolicyError(f"filter {name}: {len(keep)} answers for {len(known.endpoints)} endpoints")
        if not all(keep):
            left_out[name] = keep.count(False)
            known = known.only(keep)
    if not known.endpoints:
        return None
    names: list[str] = []
    columns: list[list[float]] = []
    totals = [0.0] * len(known.endpoints)
    for named in profile.scorers:
        column, weight = _checked(named, arrived, known), named.weight
        names.append(named.name)
        columns.append(column)
        totals = [total + weight * score for total, score in zip(totals, column, strict=True)]
    index = profile.picker.pick(arrived, known, totals)
    if not 0 <= index < len(known.endpoints):
        raise PolicyError(f"picker {type(profile.picker).__name__}: index {index} is out of range")
    why = Why(
        profile.name,
        names,
        _receipt(known, columns, totals, index, why_max),
        len(known.endpoints),
        left_out,
        reuse=_reuse(known, index) if why_max else None,
    )
    return chosen(known, index, why)


def chosen(known: Known, i: int, why: Why) -> Choice:
    """The i-th, for these reasons."""
    cached, load_us = known.cached_tokens, known.load_us[i] if known.load_us else 0.0
    return Choice(known.endpoints[i], cached[i], known.uncached_tokens[i], why, not any(cached), load_us)


def _checked(named: Named, arrived: Arrived, known: Known) -> list[float]:
    column = named.scorer.score(arrived, known)
    if len(column) != len(known.endpoints):
        raise PolicyError(f"scorer {named.name}: {len(column)} scores for {len(known.endpoints)} endpoints")
    if min(column) < 0.0 or max(column) > 1.0 or isnan(sum(column)):  # the last one: NaN hides from min and max
        raise PolicyError(f"scorer {named.name}: a score outside [0, 1]: {min(column)}..{max(column)}")
    return column


def _reuse(known: Known, i: int) -> Reuse | None:
    """Whether others hold in HBM what the i-th holds there."""
    held, lower = known.cached_tokens, known.lower_tokens
    if lower:
        held = [cached - sum(below) for cached, below in zip(held, lower, strict=True)]
    mine = held[i]
    if not mine:
        return None
    shared, others = 0, 0
    if len(held) > 1:
        rest = held[:i] + held[i + 1 :]
        shared = min(mine, max(rest))
        others = sum([cached >= shared for cached in rest]) if shared else 0
    return Reuse(mine - shared, shared, others, known.session_endpoint)


def _receipt(known: Known, columns: list[list[float]], totals: list[float], chosen: int, why_max: int) -> list[Scored]:
    """The chosen one first, then the others, best first; a large fleet is cut to `why_max`."""
    if not why_max:
        return []
    if len(totals) == 1:
        order = [0]
    elif len(totals) <= why_max:
        order = sorted(range(len(totals)), key=totals.__getitem__, reverse=True)
    else:
        order = nlargest(why_max, range(len(totals)), key=totals.__getitem__)
    if order[0] != chosen:
        order = [chosen, *(i for i in order if i != chosen)][:why_max]
    receipt: list[Scored] = []
    for i in order:
        endpoint, scores, cached = known.endpoints[i], [column[i] for column in columns], known.cached_tokens[i]
        name, prefill, in_flight = endpoint.seen.endpoint, endpoint.prefill_tokens, endpoint.in_flight
        report = endpoint.report
        lower = known.lower_tokens[i] if known.lower_tokens and any(known.lower_tokens[i]) else []
        if report is None:
            receipt.append(Scored(name, totals[i], scores, cached, prefill, in_flight, lower_tokens=lower))
            continue
        running, waiting, used = report.running, report.waiting, report.kv_used_ratio
        age_us = Micros(known.now_us - report.at_us)
        receipt.append(
            Scored(name, totals[i], scores, cached, prefill, in_flight, running, waiting, used, age_us, lower)
        )
    return receipt
