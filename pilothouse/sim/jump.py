"""Many decode steps at once: how long they take and how many blocks they need, without walking through them.

While the batch does not change, each step adds as much to every sequence, so the blocks needed repeat (`strides.py`).
Everything is a sum of integers, hence the closed
forms agree with adding up single steps to the last digit.
"""

from collections.abc import Sequence
from itertools import accumulate

from pilothouse.perf.step_time import StepClock


class Jump:
    """A stretch of decode steps, seen from its beginning."""

    __slots__ = ("_alone", "_blocks_ps", "_context_ps", "_fixed_ps", "_gains", "_gains_sums", "_period", "_period_gain")

    def __init__(
        self,
        clock: StepClock,
        decoding: int,
        advance: int,
        sum_context: int,
        held_blocks: int,
        gains: Sequence[int],
        block_size: int,
    ) -> None:
        """`gains`: blocks that each step of one period needs, the first step's first. `held_blocks`: before that.
        `sum_context`: in the clock's parts of a token; `advance`: what each step adds to it."""
        self._period = len(gains)
        self._gains = [0, *accumulate(gains)]
        self._gains_sums = list(accumulate(self._gains))
        self._period_gain = self._gains[-1]
        self._blocks_ps = clock.shared * block_size
        self._alone = clock.part * advance
        self._context_ps = clock.part * sum_context + self._blocks_ps * held_blocks
        self._fixed_ps = clock.fixed_ps(decoding)

    def blocks(self, steps: int) -> int:
        """New blocks that so many steps need."""
        periods, rest = divmod(steps, self._period)
        return periods * self._period_gain + self._gains[rest]

    def span_ps(self, steps: int) -> int:
        """How long so many steps take [picoseconds]."""
        periods, rest = divmod(steps, self._period)
        gained = periods * self._gains_sums[-1] + self._gains_sums[rest]
        gained += self._period_gain * (self._period * (periods * (periods - 1) // 2) + periods * rest)
        time_ps = (self._fixed_ps + self._context_ps) * steps + self._alone * (steps * (steps - 1) // 2)
        return time_ps + self._blocks_ps * gained

    def step_ps(self, step: int) -> int:
        """How long one of them takes, counted from 1 [picoseconds]. Never less than the one before."""
        return self._fixed_ps + self._context_ps + self._alone * (step - 1) + self._blocks_ps * self.blocks(step)

    def steps_within(self, blocks: int, at_most: int) -> int:
        """The most steps, up to `at_most`, that need no more than so many blocks."""
        if self.blocks(at_most) <= blocks:
            return at_most
        low, high = 0, at_most  # low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            if self.blocks(middle) <= blocks:
                low = middle
            else:
                high = middle
        return low

    def steps_lasting(self, span_ps: int, at_most: int) -> int:
        """The fewest steps, from 1 up to `at_most`, that take at least so long."""
        low, high = 0, at_most  # low is too short, high is long enough or the end
        while high - low > 1:
            middle = (low + high) // 2
            if self.span_ps(middle) >= span_ps:
                high = middle
            else:
                low = middle
        return high
