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


class Survey(msgspec.Struct, frozen=True):
    """All that one walk over a workload tells."""

    demand: Demand
    curve: HitCurve  # of one cache for all
    apart: list[HitCurve]  # of several, if each conversation stays with one and other requests take turns; or none


def survey(workload: Workload, lasts: Lasts, caches: int = 1) -> Survey:
    """`lasts` matters where requests follow the end of others."""
    size, whole = workload.block_size, Reuse()
    apart = [Reuse() for _ in range(caches)] if caches > 1 else []
    requests = prompts = squares = outputs = context = unnamed = turn = 0
    spent_us = 0.0
    for stage in workload.stages:
        first_us, at_us, counted = None, 0.0, stage.reported
        for at_us, planned in succession(stage, lasts):
            blocks, answer, prompt, output = (
                planned.blocks,
                planned.output_blocks,
                planned.prompt_tokens,
                planned.output_tokens,
            )
            chain = blocks + answer if answer else blocks
            # The last token of a prompt is always computed: an engine needs it to go on.
            wanted = min(len(blocks), (prompt - 1) // size) if counted else 0
            nameless = max(0, held(prompt, output, size) - len(chain))
            whole.take(chain, wanted, nameless)
            if apart:
                turn += not planned.session
                place = crc32(planned.session.to_bytes(8)) if planned.session else turn
                apart[place % caches].take(chain, wanted, nameless)
            if counted:
                first_us = at_us if first_us is None else first_us
                requests, prompts, outputs = requests + 1, prompts + prompt, outputs + output
                squares += prompt * prompt
                context += output * (2 * prompt + output) // 2
                unnamed += prompt if not blocks and prompt > size else 0
        spent_us += at_us - first_us if first_us is not None else 0.0
    closed = any(planned.after is not None for stage in workload.stages for planned in stage.requests)
    found = Demand(requests, spent_us / SECOND, prompts, squares, outputs, context, unnamed, closed)
    return Survey(found, whole.curve(), [count.curve() for count in apart])


def context_mean(workload: Workload) -> float:
    """Of a sequence that decodes, over all requests [tokens]."""
    tokens = context = 0
    for stage in workload.stages:
        for planned in stage.requests:
            tokens += planned.output_tokens
            context += planned.output_tokens * (2 * planned.prompt_tokens + planned.output_tokens) // 2
    return context / max(1, tokens)


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
    if not followers:
        for at_us, i in due:
            yield at_us, stage.requests[i]
        return
    while due:
        at_us, i = heappop(due)
        planned = stage.requests[i]
        yield at_us, planned
        for follower in followers.pop(planned.request, ()):
            heappush(due, (at_us + lasts(planned) + stage.requests[follower].arrival_us, follower))
