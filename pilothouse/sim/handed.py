"""KV that goes to other engines or comes from elsewhere: prompts kept for them, and prompts whose KV is on the way."""

from collections import deque
from dataclasses import dataclass, field

from pilothouse.core.units import RequestId
from pilothouse.sim.blocks import BlockStore, Node
from pilothouse.sim.jobs import Job, Sequence


@dataclass(slots=True)
class Handed:
    """Blocks of all of these are taken; none of them is in the batch."""

    store: BlockStore
    fetching: dict[RequestId, Sequence] = field(default_factory=dict)  # their contents are on the way
    landed: deque[Sequence] = field(default_factory=deque)  # their contents are here
    kept: dict[RequestId, tuple[Node, int]] = field(default_factory=dict)  # prompts computed for others
    fetches: list[tuple[Job, int]] = field(default_factory=list)  # begun and not collected: whose, how many tokens

    def __len__(self) -> int:
        return len(self.fetching) + len(self.landed)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.fetching.values(), *self.landed]

    def fetch(self, sequence: Sequence, blocks: int) -> None:
        """Takes blocks; their contents come from another engine, but for the last token, which is computed."""
        self.load(sequence, blocks, sequence.target - 1)
        self.fetches.append((sequence.job, sequence.there - sequence.computed))

    def load(self, sequence: Sequence, blocks: int, there: int) -> None:
        """Takes blocks; contents up to the token `there` come from somewhere, the rest is computed after that."""
        sequence.private, sequence.there = blocks, there
        self.store.take(blocks)
        self.fetching[sequence.job.request] = sequence

    def land(self, request: RequestId) -> Sequence:
        """The contents are here, and count as computed."""
        sequence = self.fetching.pop(request)
        sequence.handed, sequence.computed = False, sequence.there
        self.landed.append(sequence)
        return sequence

    def let_go(self, request: RequestId) -> None:
        """Nobody fetches these any more."""
        self.store.release(*self.kept.pop(request))

    def drop(self, request: RequestId) -> bool:
        """Nobody wants its answer any more; False if it is not here."""
        for sequence in self.sequences:
            if sequence.job.request == request:
                if self.fetching.pop(request, None) is None:
                    self.landed.remove(sequence)
                assert sequence.node is not None
                self.store.release(sequence.node, sequence.private)
                return True
        return False
