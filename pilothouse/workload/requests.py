"""A workload as data: stages of planned requests, each with its arrival, its prompt's block keys and its lengths."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec
from msgspec.structs import replace

from pilothouse.core.random_stream import Random, stream
from pilothouse.core.units import SECOND, BlockKey, Micros, RequestId

WORD = (1 << 64) - 1


class Planned(msgspec.Struct, frozen=True):
    """One request to be sent."""

    request: RequestId
    arrival_us: Micros  # after the beginning of its stage; with `after`, after the end of that request
    blocks: list[BlockKey]  # keys of the prompt's full KV blocks; requests with one prompt share one list
    prompt_tokens: int
    output_tokens: int  # what the engine generates
    counted_tokens: int  # what the client counts of it, by tokenising the text anew
    session: int = 0  # 64-bit key of the conversation; 0 = none
    output_blocks: list[BlockKey] = []  # keys of the full blocks that the answer adds to the prompt's; empty = unnamed
    after: RequestId | None = None  # closed loop: sent only when that request of the same stage has ended, however
    tenant: str = ""  # whose it is, or which class: objectives and figures are told apart by it
    constrained: bool = False  # a grammar, a schema or tools bind its answer


class Stage(msgspec.Struct, frozen=True):
    """Requests sent by the clock (in order of arrival), or after others (anywhere in the list, behind the one they
    follow). The next stage begins `pause_us` after the last answer of this one."""

    name: str
    rate: float  # offered [requests per second]
    seconds: float
    requests: list[Planned]
    pause_us: Micros = Micros(0)
    reported: bool = True  # False: it only warms up


class Workload(msgspec.Struct, frozen=True):
    """What is sent to one model."""

    model: str
    block_size: int  # tokens
    stages: list[Stage]
    day: list[float] = []  # rate in equal parts of a time that comes again, as a share of the stages'; empty = always 1


def block_keys(content: int, count: int) -> list[BlockKey]:
    """Keys of the first `count` blocks of a text named by a number: 64 bits, well spread, the same in every run."""
    return [BlockKey(mixed((content << 24) + i + 1)) for i in range(count)]


def poisson_arrivals(luck: Random, rate: float, count: int) -> list[Micros]:
    """Exactly `count` arrivals: a Poisson count in each second, its exponential gaps scaled to fill that second."""
    arrivals: list[Micros] = []
    second = 0
    while len(arrivals) < count:
        gaps = [luck.expovariate(1.0) for _ in range(_poisson(luck, rate))]
        total = sum(gaps)
        arrivals += [Micros(second * SECOND + int(SECOND * at / total)) for at in accumulate(gaps)]
        second += 1
    return arrivals[:count]


def uniform_arrivals(rate: float, count: int) -> list[Micros]:
    """Exactly `count` arrivals at equal distances, the first one at zero."""
    return [Micros(int(i * SECOND / rate)) for i in range(count)]


def constrained(workload: Workload, share: float, seed: int) -> Workload:
    """The same, with a share of the requests bound by a grammar: which ones depends on their names alone."""

    def bound(stage: Stage) -> Stage:
        luck = [stream(seed, f"constrained/{planned.request}").random() for planned in stage.requests]
        requests = [replace(p, constrained=at < share) for p, at in zip(stage.requests, luck, strict=True)]
        return replace(stage, requests=requests)

    return replace(workload, stages=[bound(stage) for stage in workload.stages])


def total_requests(stages: Sequence[Stage]) -> int:
    return sum(len(stage.requests) for stage in stages)


def _poisson(luck: Random, mean: float) -> int:
    """How many arrivals with exponential gaps of this mean rate fall into one unit of time."""
    count, at = 0, luck.expovariate(mean)
    while at < 1.0:
        count, at = count + 1, at + luck.expovariate(mean)
    return count


def mixed(value: int) -> int:
    """Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), the finaliser of SplitMix64."""
    value = value * 0x9E3779B97F4A7C15 & WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & WORD
    return value ^ value >> 31
