"""What a workload asks of a fleet, as distributions: lengths, rate over time, and what caches of any size would find."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import sqrt

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, BlockKey, Micros
from pilothouse.plan import need as needs
from pilothouse.plan.disaggregate import Need
from pilothouse.workload.demand import Demand, Lasts, succession, survey
from pilothouse.workload.requests import Stage, Workload, poisson_arrivals
from pilothouse.workload.reuse import HitCurve

POINTS = 12  # equally likely lengths that stand for a distribution
CELLS = 24  # of a stage's time: its load curve
CELL_REQUESTS = 200  # in the mean, at least: fewer are luck and no load curve
ALL = "*"  # of the requests together; no tenant is called so
SLOWEST = 1e-4  # of the rate at which requests would come if none waited for another
SETTLING = 14  # halvings, for the rate of a closed loop
TOP = 0.95  # of the requests come at a lower rate than the one that is planned for


class ClassAsks(Struct, frozen=True):
    """What one class of requests, the tenant of a mix, asks beside the others."""

    share: float  # of the requests
    prompts: list[int]  # equally likely [tokens]
    outputs: list[int]
    hits: float  # hit ratio of its prompts to that of all, in a cache without limit


class Closed(Struct, frozen=True):
    """A fixed number of users, who wait for an answer before they ask again: how fast they ask is up to the fleet."""

    users: float
    think_s: float  # of a user, between an answer and his next request, in the mean


class Asks(Struct, frozen=True):
    """Rates in requests per second."""

    rate: float  # in busy times: what is planned for
    rate_mean: float
    curve: list[tuple[float, float]]  # (rate, share of the time), ascending
    prompts: list[int]  # equally likely [tokens]
    outputs: list[int]
    longest: int  # prompt and answer of the longest request [tokens]
    demand: Demand
    hits: HitCurve
    block_size: int
    classes: dict[str, ClassAsks] = {}  # by name, where the workload tells some apart
    closed: Closed | None = None  # then the rates are those at an engine that serves nobody else, see `settled`

    def of(self, name: str) -> "Asks":
        """With the lengths of one class; all else is what all ask."""
        return replace(self, prompts=self.classes[name].prompts, outputs=self.classes[name].outputs)

    def hit_ratio(self, tokens: float) -> float:
        """Share of prompt tokens that a cache of so many tokens has, if it were one for all."""
        return needs.hits(self.hits, self.demand, int(tokens), self.block_size)

    def mean(self, rate: float, hit_ratio: float) -> Need:
        return needs.need(self.demand, hit_ratio, rate)


def by_clock(workload: Workload, lasts: Lasts) -> Workload:
    """The same with every request at a time of its own, in order: those that follow others come as they would if engines
    served nobody else. `lasts`: how long a request takes such an engine."""
    return replace(workload, stages=[_by_clock(stage, lasts) for stage in workload.stages])


def spread(workload: Workload, seed: int) -> Workload:
    """A closed loop by the clock, in order, at times as Poisson's: equal users, who never differ, would come in waves."""

    def apart(number: int, stage: Stage) -> Stage:
        if not stage.rate:
            return stage
        times = poisson_arrivals(stream(seed, f"spread/{number}"), stage.rate, len(stage.requests))
        return replace(stage, requests=[replace(p, arrival_us=at) for p, at in zip(stage.requests, times, strict=True)])

    return replace(workload, stages=[apart(i, stage) for i, stage in enumerate(workload.stages)])


def _by_clock(stage: Stage, lasts: Lasts) -> Stage:
    if all(planned.after is None for planned in stage.requests):
        return stage
    requests = [replace(p, arrival_us=Micros(round(at_us)), after=None) for at_us, p in succession(stage, lasts)]
    seconds = (requests[-1].arrival_us - requests[0].arrival_us) / SECOND if requests else 0.0
    return replace(stage, requests=requests, rate=len(requests) / seconds if seconds else 0.0, seconds=seconds)


def closed_of(workload: Workload, lasts: Lasts) -> Closed | None:
    """None where any request that counts comes by the clock, or none waits for another. Of several stages the fullest.

    Where users have several requests under way at a time, those who are busy count, by Little's law.
    """
    stages = [stage for stage in workload.stages if stage.reported and stage.requests]
    if not stages or any(stage.rate or all(p.after is None for p in stage.requests) for stage in stages):
        return None
    stage = max(stages, key=users_of)
    followers = [planned for planned in stage.requests if planned.after is not None]
    think_us = sum(planned.arrival_us for planned in followers) / len(followers)
    users = float(users_of(stage))
    if len({planned.after for planned in followers}) < len(followers):  # several wait for the same one
        takes_us = sum(lasts(planned) for planned in stage.requests) / len(stage.requests) + think_us
        users = _by_clock(stage, lasts).rate * takes_us / SECOND
    return Closed(users, think_us / SECOND)


def users_of(stage: Stage) -> int:
    """Whose first requests wait for no other."""
    return sum(planned.after is None for planned in stage.requests)


def settled(asks: Asks, takes: Callable[[float], float]) -> Asks:
    """A closed loop at the rate at which as many are under way, or think, as there are users: Little's law.

    takes   how long a request takes the fleet at a rate [seconds]; must not fall with it
    """
    if asks.closed is None:
        return asks
    users, think_s = asks.closed.users, asks.closed.think_s
    high = users / max(1e-6, think_s + takes(0.0))
    low = high * SLOWEST
    for _ in range(SETTLING):
        middle = sqrt(low * high)
        low, high = (middle, high) if middle * (think_s + takes(middle)) < users else (low, middle)
    scale = low / asks.rate
    curve = [(rate * scale, share) for rate, share in asks.curve]
    return replace(asks, rate=low, rate_mean=asks.rate_mean * scale, curve=curve)


def asks_of(workload: Workload, rate: float | None = None, closed: Closed | None = None) -> Asks:
    """Of a workload by the clock. `rate`: that is planned for, in place of the workload's own busy times."""
    found = survey(workload, lambda _: 0.0)
    counted = [planned for stage in workload.stages if stage.reported for planned in stage.requests]
    prompts, outputs = [planned.prompt_tokens for planned in counted], [planned.output_tokens for planned in counted]
    longest = max((planned.prompt_tokens + planned.output_tokens for planned in counted), default=0)
    cells: list[tuple[float, float, int]] = []  # rate, seconds, requests
    for stage in workload.stages:
        if stage.reported and stage.requests:
            cells += _cells([planned.arrival_us for planned in stage.requests])
    cells.sort()
    seconds, requests = sum(cell[1] for cell in cells), sum(cell[2] for cell in cells)
    mean = requests / seconds if seconds else 0.0
    busy, scale = busy_rate(cells), 1.0
    day = workload.day or [1.0]
    if workload.day or closed is not None:  # always as in the busiest stage
        busy = max((stage.rate for stage in workload.stages if stage.reported), default=0.0)
    if rate is not None:
        scale = rate / busy if busy else 1.0
        busy, mean = rate, mean * scale if mean else rate
    curve = [(cell[0] * scale, cell[1] / seconds) for cell in cells] if seconds else [(busy, 1.0)]
    if workload.day or closed is not None:
        curve = sorted((busy * part, 1 / len(day)) for part in day)
        mean = sum(part * share for part, share in curve)
    points = _quantiles(prompts), _quantiles(outputs)
    classes = classes_of(workload)
    return Asks(busy, mean, curve, *points, longest, found.demand, found.curve, workload.block_size, classes, closed)


def classes_of(workload: Workload) -> dict[str, ClassAsks]:
    """Each tenant that has requests which count, in order of their first; none where requests have no tenants."""
    counted = [planned for stage in workload.stages if stage.reported for planned in stage.requests]
    names = dict.fromkeys(planned.tenant for planned in counted if planned.tenant)
    if not names:
        return {}
    shared = _shared(workload)
    found = {}
    for name in names:
        own = [planned for planned in counted if planned.tenant == name]
        prompts = [planned.prompt_tokens for planned in own]
        hits = shared[name] / shared[ALL] if shared[ALL] else 0.0
        found[name] = ClassAsks(
            len(own) / len(counted), _quantiles(prompts), _quantiles([planned.output_tokens for planned in own]), hits
        )
    return found


def _shared(workload: Workload) -> dict[str, float]:
    """Share of prompt tokens that a cache without limit has, by tenant and of `ALL`."""
    seen, found, prompts = set[BlockKey](), Counter[str](), Counter[str]()
    for stage in workload.stages:
        for planned in stage.requests:
            if stage.reported:
                held = bisect_left(planned.blocks, True, key=lambda block: block not in seen)
                usable = min(held, (planned.prompt_tokens - 1) // workload.block_size) * workload.block_size
                for name in (planned.tenant, ALL):
                    found[name] += usable
                    prompts[name] += planned.prompt_tokens
            seen.update(planned.blocks, planned.output_blocks)
    return {name: found[name] / prompts[name] for name in prompts}


def _cells(times_us: list[Micros]) -> list[tuple[float, float, int]]:
    """(rate, seconds, requests) of equal parts of a stage."""
    seconds = (times_us[-1] - times_us[0]) / SECOND
    if not seconds:
        return []
    count = max(1, min(CELLS, len(times_us) // CELL_REQUESTS))
    ends = [times_us[0] + seconds * SECOND * (i + 1) / count for i in range(count)]
    places = [0, *(bisect_right(times_us, end + 1) for end in ends)]
    each = seconds / count
    return [((b - a) / each, each, b - a) for a, b in pairwise(places)]


def busy_rate(cells: list[tuple[float, float, int]]) -> float:
    """The rate at which the last of `TOP` of the requests come; of (rate, seconds, requests)."""
    seen, requests = 0, sum(count for _, _, count in cells)
    for rate, _, count in sorted(cells):
        seen += count
        if seen >= TOP * requests:
            return rate
    return 0.0


def _quantiles(values: list[int]) -> list[int]:
    """Means of equal parts of the ordered values: they keep the mean."""
    ordered = sorted(values)
    ends = [len(ordered) * i // POINTS for i in range(POINTS + 1)]
    parts = [ordered[a:b] for a, b in pairwise(ends) if b > a]
    return [max(1, round(sum(part) / len(part))) for part in parts]
