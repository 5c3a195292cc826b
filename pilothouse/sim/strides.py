"""How far a sequence gets in a decode step, and when it needs blocks: one token, or more where drafts are accepted.

Every sequence of one kind advances by the same expected number of tokens in each step, a whole number of parts of a
token; what is left over is carried. So contexts stay sums of integers, and the steps in which a sequence needs a block
repeat: macro-steps stay exact. What this ignores: luck. Real sequences accept more in one step and fewer in the next,
and some are easier to draft than others; their mean is the same.
"""

from pilothouse.perf.speculation import Speculation
from pilothouse.sim.jobs import Sequence

PARTS = 32  # to a token, where sequences speculate: expected tokens are rounded to this


class Strides:
    """Of one engine. Without speculation a token has one part, and everybody advances by it."""

    __slots__ = ("bound", "draft_tokens", "free", "parts", "period", "size")

    def __init__(self, speculation: Speculation | None, block_size: int) -> None:
        self.size, self.parts = block_size, PARTS if speculation is not None else 1
        self.free = self.bound = self.draft_tokens = 1  # parts per step: of sequences, and of those a grammar binds
        if speculation is not None:
            self.free = max(PARTS, round(speculation.tokens() * PARTS))
            self.bound = max(PARTS, round(speculation.tokens(constrained=True) * PARTS))
        self.draft_tokens = speculation.draft_tokens if speculation is not None else 0
        self.period = self.parts * block_size  # steps after which needs repeat, whatever the stride

    def of(self, constrained: bool) -> int:
        """Parts of a token that such a sequence advances in a step."""
        return self.bound if constrained else self.free

    @property
    def overshoot(self) -> int:
        """Tokens that the last step of an answer may compute in vain."""
        return -(-max(self.free, self.bound) // self.parts) - 1

    def tokens(self, stride: int, steps: int) -> int:
        """Whole tokens after so many steps."""
        return stride * steps // self.parts

    def steps(self, stride: int, tokens: int) -> int:
        """The fewest steps that give so many tokens."""
        return -(-tokens * self.parts // stride)

    def context(self, sequence: Sequence, step: int) -> int:
        """Of a decoding sequence [parts of a token]."""
        return sequence.target * self.parts + (step - sequence.since) * sequence.stride

    def told(self, decodes: int, parts: int) -> tuple[int, int]:
        """Tokens (drafted, accepted) in so many steps of single sequences that have given so many parts."""
        return decodes * self.draft_tokens, parts // self.parts - decodes

    def count(self, needs: list[int], sequence: Sequence, sign: int) -> None:
        """Adds the blocks that a decoding sequence needs, by the step modulo the period, or takes them out again."""
        if self.parts == 1:
            needs[(sequence.since - sequence.target) % self.size] += sign
            return
        first = -(-sequence.target // self.size) * self.size - sequence.target + 1  # tokens until one more is touched
        for m in range(sequence.stride):  # as many blocks as that in a period
            step = self.steps(sequence.stride, first + m * self.size) - 1
            needs[(sequence.since + step) % self.period] += sign
