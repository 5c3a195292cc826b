"""One fleet for all classes of requests, or several: a class that nobody waits for need not be served as the strictest is.

Looked at are one for all, one for each, and one class by itself beside all others; each fleet is the best of its own search.
Label: Estimated, as sums are. In a fleet of its own a class meets no one else's requests; its busy times are everybody's.
"""

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.units import SECOND
from pilothouse.plan.asks import asks_of, by_clock, closed_of
from pilothouse.plan.document import Plan
from pilothouse.plan.promise import keeps
from pilothouse.plan.question import Goal, Question
from pilothouse.plan.search import search
from pilothouse.workload.requests import Planned, Stage, Workload

CLASSES_MAX = 4  # more make a great many fleets


class Part(Struct, frozen=True):
    """One fleet, and whose requests it serves."""

    classes: list[str]
    plan: Plan


class Division(Struct, frozen=True):
    """Fleets that serve all classes together."""

    parts: list[Part]
    gpus: int
    usd_per_hour: float  # 0 = unknown

    @property
    def cost(self) -> float:
        return self.usd_per_hour or float(self.gpus)


def divisions(question: Question, workload: Workload, together: Sequence[Plan] | None = None) -> list[Division]:
    """Cheapest first; none where there is nothing to divide, or where no way serves all.

    workload   that of the question
    together   plans for all, if they were searched before
    """
    names = list(question.by_class)
    if question.goal is Goal.MAX_GOODPUT or not 2 <= len(names) <= CLASSES_MAX:
        return []
    found: dict[tuple[str, ...], Plan | None] = {}
    if together is not None:
        found[tuple(names)] = _best(question, together)

    def plan_of(part: tuple[str, ...]) -> Plan | None:
        if part not in found:
            own = _question(question, workload, part)
            found[part] = _best(own, search(own).plans)
        return found[part]

    ways: list[list[tuple[str, ...]]] = [[tuple(names)], [(name,) for name in names]]
    if len(names) > 2:
        ways += [[tuple(other for other in names if other != name), (name,)] for name in names]
    made = []
    for way in ways:
        parts = [Part(list(part), plan) for part in way if (plan := plan_of(part)) is not None]
        used = Counter[str]()
        for pool in (pool for part in parts for pool in part.plan.pools):
            used[pool.gpu] += pool.replicas * pool.layout.gpus
        if len(parts) == len(way) and all(used[stock.name] <= stock.count for stock in question.stocks):
            usd = [part.plan.expected.usd_per_hour for part in parts if part.plan.expected is not None]
            made.append(Division(parts, used.total(), sum(usd)))
    return sorted(made, key=lambda division: (division.cost, len(division.parts)))


def _best(question: Question, plans: Sequence[Plan]) -> Plan | None:
    return next((plan for plan in plans if plan.expected and keeps(question.objective, plan.expected)), None)


def _question(question: Question, workload: Workload, names: tuple[str, ...]) -> Question:
    """The same for some of the classes."""

    def only(stage: Stage) -> Stage:
        own = [planned for planned in stage.requests if planned.tenant in names]
        return replace(stage, requests=own, rate=stage.rate * len(own) / max(1, len(stage.requests)))

    part = replace(workload, stages=[only(stage) for stage in workload.stages])
    if question.asks.closed is not None:
        asks = asks_of(by_clock(part, _a_second), closed=closed_of(part, _a_second))
    else:
        share = sum(question.asks.classes[name].share for name in names)
        curve = [(rate * share, time) for rate, time in question.asks.curve]
        asks = asks_of(part, question.asks.rate * share)
        asks = replace(asks, rate_mean=question.asks.rate_mean * share, curve=curve)
    return replace(question, asks=asks, classes={n: own for n, own in question.by_class.items() if n in names})


def _a_second(_: Planned) -> float:
    """What a request of a closed loop takes, until a fleet says how long it really does."""
    return float(SECOND)
