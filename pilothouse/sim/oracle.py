"""The ceiling: a router that knows every answer's length and sees the engines themselves. Only a simulation has one.

It sends each request where it costs everybody least: its own time there, and the time it takes from those who are there,
in closed form on the engine's true state. With n sequences present, r_i tokens to go each, and a new one that has u
tokens to compute and O to generate, all of it engine time:

    own     wait for space + prefill of those ahead + prefill(u) + O x (a + its step share) + sum of min(r_i, O) x share_i
    others  n x prefill(u) + its step share x sum of min(r_i, O)
    later   prefill(u) x (`future` x the fleet's mean n + `placing` x the engine's filled share)

where a step share is what one sequence adds to a step: b, and the read of its context, shared blocks counted once. What
is still to arrive it does not know; `later` stands for that: computing what another engine holds takes time from those
who come, and takes space from what they will ask for. It is greedy: a ceiling of what one look at a fleet can give, not
a bound in theory. Which weights are best depends on the load, so the ceiling of a comparison is the best of `ORACLES`.

A copy of the engine run until it is idle would be exact, for engines to which nothing else ever comes, and takes 17 ms
for each engine and request with 100 sequences there; this takes 0.05 ms (Measured, one core).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Picker
from pilothouse.core.selection import Profile
from pilothouse.core.units import EndpointId, Micros, RequestId
from pilothouse.perf.step_time import PS_PER_US, StepClock
from pilothouse.sim.engine import Engine
from pilothouse.sim.hosts import Host
from pilothouse.sim.jobs import Sequence
from pilothouse.workload.requests import Planned, Workload


@dataclass(slots=True)
class Sent:
    """A request on its way to an engine."""

    arrives_us: Micros
    uncached: int
    context: int
    output_tokens: int
    blocks: int


@dataclass(slots=True)
class Truth:
    """What no router can know. Filled when the world has been made: `see` comes after the dispatcher's making."""

    hosts: Mapping[EndpointId, Host] = field(default_factory=dict)
    planned: dict[RequestId, Planned] = field(default_factory=dict)
    network_us: Micros = Micros(0)
    sent: dict[EndpointId, list[Sent]] = field(default_factory=dict)
    uncached: dict[RequestId, int] = field(default_factory=dict)  # tokens that a request in flight had to compute

    def see(self, hosts: Mapping[EndpointId, Host], workload: Workload, network_us: Micros) -> None:
        self.hosts, self.network_us = hosts, network_us
        self.planned = {each.request: each for stage in workload.stages for each in stage.requests}

    def on_the_way(self, endpoint: EndpointId, now_us: Micros) -> list[Sent]:
        sent = [each for each in self.sent.get(endpoint, ()) if each.arrives_us > now_us]
        self.sent[endpoint] = sent
        return sent


@dataclass(slots=True)
class Present:
    """All that an engine has or will have, in lists of one length: tokens to generate, context now, blocks held alone."""

    left: list[int]
    contexts: list[int]
    alone: list[float]  # blocks
    ahead_tokens: int  # to compute before the new one's turn
    queued_blocks: int  # that those ahead will take when they are admitted


@dataclass(slots=True)
class Judged:
    """One endpoint, for one request. Times in picoseconds."""

    cost: float  # to this one and to those who are there
    prefill: float  # of this one
    ttft: float  # of this one
    present: int  # sequences there, and on their way
    filled: float  # share of the blocks that hold something
    sent: Sent


class Oracle(Picker, frozen=True):
    """The endpoint with the lowest true marginal cost; equal ones take turns. Sees everything: not for a gateway."""

    truth: Truth
    future: float = 1.0  # share of the requests in flight that a prefill will delay once more, because others come
    placing: float = 10.0  # requests still to come that new content on a full engine delays
    ttft_us_max: Micros | None = None  # objective: who must miss it goes where others miss it already; None = no such

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        judged = [self._judge(arrived, known.now_us, endpoint.id) for endpoint in known.endpoints]
        later = self.future * sum(each.present for each in judged) / len(judged)
        costs = [each.cost + (later + self.placing * each.filled) * each.prefill for each in judged]
        if self.ttft_us_max is not None:
            limit = self.ttft_us_max * PS_PER_US
            if all(each.ttft > limit for each in judged):
                costs = [-each.ttft for each in judged]
            else:
                costs = [cost if each.ttft <= limit else inf for cost, each in zip(costs, judged, strict=True)]
        lowest = min(costs)
        tied = [i for i, cost in enumerate(costs) if cost <= lowest]
        index = tied[known.turn % len(tied)]
        endpoint, sent = known.endpoints[index].id, judged[index].sent
        self.truth.sent.setdefault(endpoint, []).append(sent)
        self.truth.uncached[arrived.request] = sent.uncached
        return index

    def _judge(self, arrived: Arrived, now_us: Micros, endpoint: EndpointId) -> Judged:
        engine, truth = self.truth.hosts[endpoint].engine, self.truth
        spec, clock, planned = engine.spec, engine.clock, truth.planned[arrived.request]
        output, prompt, keys, size = planned.output_tokens, planned.prompt_tokens, planned.blocks, spec.block_size
        hits, idle = engine.store.match(keys, min(len(keys), (prompt - 1) // size))
        uncached, blocks = prompt - hits * size, -(-prompt // size) - hits + idle
        here = present(engine, now_us, truth.on_the_way(endpoint, now_us), truth.uncached)
        own_share = _share(clock, prompt + output / 2, blocks * size + output / 2)
        overlaps = [left if left < output else output for left in here.left]
        prefill = clock.p * uncached + clock.q * uncached * (prompt - uncached / 2)
        ttft = _wait(engine, here, blocks) + clock.p * here.ahead_tokens + prefill
        own = ttft + output * (clock.a + own_share) + _shares(clock, here, overlaps, size)
        others = len(overlaps) * prefill + sum(overlaps) * own_share
        sent = Sent(Micros(now_us + truth.network_us), uncached, prompt, output, blocks)
        return Judged(own + others, prefill, ttft, len(overlaps), 1 - engine.store.free / engine.store.capacity, sent)


def _wait(engine: Engine, here: Present, blocks: int) -> float:
    """Until those ahead and this one find space [picoseconds]."""
    missing = here.queued_blocks + blocks - engine.store.available
    if missing <= 0:
        return 0.0
    size, clock = engine.spec.block_size, engine.clock
    growth = freed = 0.0
    order = sorted(zip(here.left, here.alone, here.contexts, strict=True))
    running, steps, span = len(order), 0, 0.0
    context = sum(here.contexts)
    for left, alone, held in order:
        growth += (left - steps) * running / size
        span += (left - steps) * (clock.a + clock.b * running + clock.alone * context)
        steps, running, context = left, running - 1, context - held
        freed += alone + left / size
        if freed >= missing + growth:
            break
    return span


def present(engine: Engine, now_us: Micros, sent: Iterable[Sent], uncached: Mapping[RequestId, int]) -> Present:
    """The engine's sequences as of now, and what is on its way."""
    here, steps, size = Present([], [], [], 0, 0), engine.steps + engine.progress(now_us), engine.spec.block_size
    for sequence in engine.running.values():
        context, left = sequence.computed, sequence.job.output_tokens - sequence.generated
        if sequence.since >= 0:
            done = engine.strides.tokens(sequence.stride, steps - sequence.since)
            context, left = sequence.target + done, left - done
        else:
            here.ahead_tokens += sequence.target - sequence.computed
            context = sequence.target
        here.left.append(left)
        here.contexts.append(context)
        here.alone.append(_alone(sequence, context, size))
    for sequence in engine.waiting:
        tokens = uncached.get(sequence.job.request, sequence.target)
        _queue(here, tokens, sequence.target, sequence.job.output_tokens - sequence.generated, tokens // size + 1)
    for each in sent:
        _queue(here, each.uncached, each.context, each.output_tokens, each.blocks)
    return here


def _queue(here: Present, tokens: int, context: int, left: int, blocks: int) -> None:
    here.ahead_tokens += tokens
    here.queued_blocks += blocks
    here.left.append(left)
    here.contexts.append(context)
    here.alone.append(blocks)


def _alone(sequence: Sequence, context: int, size: int) -> float:
    """Blocks that its end sets free; one that several hold counts in part for each."""
    node = sequence.node
    assert node is not None
    blocks = float(-(-context // size) - node.end)
    while node.parent is not None:
        blocks += (node.end - node.start) / node.refs
        node = node.parent
    return blocks


def _share(clock: StepClock, context: float, distinct: float) -> float:
    return clock.b + clock.alone * context + clock.shared * distinct


def _shares(clock: StepClock, here: Present, overlaps: list[int], size: int) -> float:
    """What the sequences there add to the steps that the new one goes through."""
    parts = zip(overlaps, here.contexts, strict=True)
    if clock.shared:
        context = sum(steps * held for steps, held in parts)
        distinct = sum(steps * alone for steps, alone in zip(overlaps, here.alone, strict=True))
        return clock.b * sum(overlaps) + clock.alone * context + clock.shared * size * distinct
    return clock.b * sum(overlaps) + clock.alone * sum(steps * held for steps, held in parts)


ORACLES = {  # future, placing, whether it has an objective
    "oracle": (1.0, 10.0, False),
    "oracle_now": (0.0, 0.0, False),
    "oracle_goodput": (1.0, 10.0, True),
}


def oracle(truth: Truth, name: str = "oracle", ttft_us_max: Micros | None = None) -> Profile:
    """The profile for a dispatcher, one of `ORACLES`; `truth` is shown the world when that has been made."""
    future, placing, aims = ORACLES[name]
    return Profile(name, [], [], Oracle(truth, future, placing, ttft_us_max if aims else None))
