"""What an engine has to do with other engines: prompts it keeps for them, and prompts whose KV it gets from them."""

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
        sequence.private = blocks
        self.store.take(blocks)
        self.fetching[sequence.job.request] = sequence
        self.fetches.append((sequence.job, sequence.target - 1 - sequence.computed))

    def land(self, request: RequestId) -> Sequence:
        """The contents are here: all but the last token counts as computed."""
        sequence = self.fetching.pop(request)
        sequence.handed, sequence.computed = False, sequence.target - 1
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
