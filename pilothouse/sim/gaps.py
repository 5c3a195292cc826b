"""The time between two tokens of one answer, counted where tokens are made.

Every decoding sequence gets one token per step, so a step gives as many equal gaps as sequences decode. The steps of a
jump only grow longer: those that fall into one bucket of the histogram lie together, and are counted at once.
The network delays all tokens alike, so these are the client's gaps as well.
"""

from pilothouse.perf.step_time import PS_PER_US
from pilothouse.sim.jump import Jump
from pilothouse.workload.outcomes import Histogram, bucket_of

NOBODY = -1  # the group of those whose client is gone


class Gaps:
    """One histogram for each group of requests. Shared by all engines."""

    def __init__(self) -> None:
        self.of: list[Histogram] = [Histogram()]

    def begin(self, groups: int) -> list[Histogram]:
        """Counts into new histograms from now on."""
        self.of = [Histogram() for _ in range(groups)]
        return self.of

    def decoded(self, jump: Jump | None, steps: int, span_ps: int, decoding: int, decoding_of: dict[int, int]) -> None:
        """So many sequences decoded for so many steps. `decoding_of`: those that are not of group 0, by group."""
        bucket = bucket_of((span_ps if steps == 1 or jump is None else jump.step_ps(1)) / PS_PER_US)
        if jump is not None and steps > 1 and bucket_of(jump.step_ps(steps) / PS_PER_US) != bucket:
            self._split(jump, steps, decoding, decoding_of)
        elif decoding_of:
            self._put(bucket, steps, span_ps, decoding, decoding_of)
        else:
            self.of[0].put(bucket, steps * decoding, span_ps / PS_PER_US * decoding)

    def resumed(self, gap_ps: int, group: int) -> None:
        """A preempted sequence goes on."""
        if group != NOBODY:
            self.of[group].add(gap_ps / PS_PER_US)

    def _split(self, jump: Jump, steps: int, decoding: int, decoding_of: dict[int, int]) -> None:
        before, span_before_ps = 0, 0
        while before < steps:
            bucket, end = _same_bucket(jump, before + 1, steps)
            span_until_ps = jump.span_ps(end)
            self._put(bucket, end - before, span_until_ps - span_before_ps, decoding, decoding_of)
            before, span_before_ps = end, span_until_ps

    def _put(self, bucket: int, steps: int, span_ps: int, decoding: int, decoding_of: dict[int, int]) -> None:
        span_us = span_ps / PS_PER_US
        for group, count in decoding_of.items():
            decoding -= count
            if count and group != NOBODY:
                self.of[group].put(bucket, steps * count, span_us * count)
        if decoding:
            self.of[0].put(bucket, steps * decoding, span_us * decoding)


def _same_bucket(jump: Jump, first: int, last: int) -> tuple[int, int]:
    """(the first step's bucket, the last step up to `last` that is in it)"""
    bucket = bucket_of(jump.step_ps(first) / PS_PER_US)
    low, high = first, last + 1  # low is in it, high is not or is beyond the end
    while high - low > 1:
        middle = (low + high) // 2
        if bucket_of(jump.step_ps(middle) / PS_PER_US) == bucket:
            low = middle
        else:
            high = middle
    return bucket, low
