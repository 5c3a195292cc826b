"""How much KV the requests on one endpoint really use: blocks that several of them share count once.

A key stands for its block and all before it, so a prompt is known by its keys at a few places: every block at first, then
eight to each doubling, the same places for all prompts. Whoever has the same key there shares everything up to it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from pilothouse.core.units import BlockKey

PLACES = tuple(
    n * step for step in (1 << k for k in range(21)) for n in range(8 if step > 1 else 1, 16)
)  # block numbers


@dataclass(slots=True)
class Sharing:
    """The prompts on one endpoint, key by key."""

    holders: dict[BlockKey, int] = field(default_factory=dict)  # key at a place -> requests that have it

    def add(self, blocks: Sequence[BlockKey], block_size: int) -> int:
        """A request came; returns the tokens of its blocks that nobody else has, up to its last place."""
        holders, alone, before = self.holders, 0, 0
        for place in PLACES[: bisect_right(PLACES, len(blocks))]:
            key = blocks[place - 1]
            count = holders.get(key, 0)
            holders[key] = count + 1
            if not count:
                alone += place - before
            before = place
        return alone * block_size

    def remove(self, blocks: Sequence[BlockKey], block_size: int) -> int:
        """It left; returns the tokens that nobody has any more."""
        holders, alone, before = self.holders, 0, 0
        for place in PLACES[: bisect_right(PLACES, len(blocks))]:
            key = blocks[place - 1]
            count = holders[key] - 1
            if count:
                holders[key] = count
            else:
                del holders[key]
                alone += place - before
            before = place
        return alone * block_size

    def shared(self, blocks: Sequence[BlockKey], blocks_max: int, block_size: int) -> int:
        """Tokens of the first `blocks_max` blocks that requests here have in use already."""
        low, high = 0, bisect_right(PLACES, blocks_max)  # places up to `low` are in use, those beyond `high` are not
        while low < high:
            middle = (low + high + 1) // 2
            if blocks[PLACES[middle - 1] - 1] in self.holders:
                low = middle
            else:
                high = middle - 1
        return PLACES[low - 1] * block_size if low else 0


def rest(prompt_tokens: int, blocks: Sequence[BlockKey], block_size: int) -> int:
    """Tokens after the last place: taken as the request's own."""
    last = bisect_right(PLACES, len(blocks))
    return prompt_tokens - (PLACES[last - 1] * block_size if last else 0)
