"""What a workload asks of a fleet, whatever the fleet: how much, how long, how fast, and what of it comes again."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from zlib import crc32

import msgspec

from pilothouse.core.units import SECOND, RequestId
from pilothouse.workload.requests import Planned, Stage, Workload
from pilothouse.workload.reuse import HitCurve, Reuse
from pilothouse.workload.texts import held

Lasts = Callable[[Planned], float]  # how long a request takes to be answered [microseconds]


class Demand(msgspec.Struct, frozen=True):
    """Sums over the counted requests. Those of a stage that only warms up fill the cache and are in no sum."""

    requests: int
    seconds: float  # from the first of them to the last
    prompt_tokens: int
    prompt_squares: int  # tokens²
    output_tokens: int
    context_sum: int  # of each output token, the tokens before it
    unnamed_tokens: int  # of prompts whose blocks nobody named: they are taken for new
    closed: bool  # some requests follow the end of others: how fast they come depends on the fleet

    @property
    def rate(self) -> float:
        """Requests per second; 0 = all at once."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def prompt_mean(self) -> float:
        return self.prompt_tokens / self.requests

    @property
    def output_mean(self) -> float:
        return self.output_tokens / self.requests

    @property
    def context_mean(self) -> float:
        """Of a sequence that decodes [tokens]."""
        return self.context_sum / self.output_tokens


def demand(workload: Workload, lasts: Lasts) -> Demand:
    """`lasts` matters where requests follow the end of others."""
    requests = prompt = squares = output = context = unnamed = 0
    spent_us = 0.0
    for stage in workload.stages:
        first_us = last_us = None
        for at_us, planned in succession(stage, lasts):
            if not stage.reported:
                continue
            first_us, last_us = at_us if first_us is None else first_us, at_us
            requests += 1
            prompt += planned.prompt_tokens
            squares += planned.prompt_tokens**2
            output += planned.output_tokens
            context += planned.output_tokens * (2 * planned.prompt_tokens + planned.output_tokens) // 2
            unnamed += (
                planned.prompt_tokens if not planned.blocks and planned.prompt_tokens > workload.block_size else 0
            )
        if first_us is not None and last_us is not None:
            spent_us += last_us - first_us
    closed = any(planned.after is not None for stage in workload.stages for planned in stage.requests)
    return Demand(requests, spent_us / SECOND, prompt, squares, output, context, unnamed, closed)


def reuse(workload: Workload, lasts: Lasts, caches: int = 1) -> list[HitCurve]:
    """Of one cache for all; or of several, if each conversation stays with one of them and other requests take turns."""
    counts = [Reuse() for _ in range(caches)]
    turn = 0
    for stage in workload.stages:
        for _, planned in succession(stage, lasts):
            turn += not planned.session
            place = crc32(planned.session.to_bytes(8)) if planned.session else turn
            _take(counts[place % caches], planned, workload.block_size, stage.reported)
    return [count.curve() for count in counts]


def _take(count: Reuse, planned: Planned, size: int, counted: bool) -> None:
    """The last token of a prompt is always computed: an engine needs it to go on."""
    blocks, answer = planned.blocks, planned.output_blocks
    wanted = min(len(blocks), (planned.prompt_tokens - 1) // size) if counted else 0
    full = held(planned.prompt_tokens, planned.output_tokens, size)
    count.take(blocks + answer if answer else blocks, wanted, max(0, full - len(blocks) - len(answer)))


def succession(stage: Stage, lasts: Lasts) -> Iterator[tuple[float, Planned]]:
    """(when it is sent [microseconds after the stage's beginning], request), in order of time."""
    followers: dict[RequestId, list[int]] = {}
    due: list[tuple[float, int]] = []
    for i, planned in enumerate(stage.requests):
        if planned.after is None:
            due.append((planned.arrival_us, i))
        else:
            followers.setdefault(planned.after, []).append(i)
    due.sort()  # which is a heap
    while due:
        at_us, i = heappop(due)
        planned = stage.requests[i]
        yield at_us, planned
        for follower in followers.pop(planned.request, ()):
            heappush(due, (at_us + lasts(planned) + stage.requests[follower].arrival_us, follower))
