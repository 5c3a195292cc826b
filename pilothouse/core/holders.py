"""Which endpoints hold which KV blocks, in one tier: block key -> bit mask of holder slots.

Equal masks are one object: a run of blocks with the same holders, the usual case along a prompt, is walked by identity,
and a block costs its key and one dict entry. The dict is split into many small ones by the key's low bits (keys are
hashes), so that no call ever pays for the growth or the sweep of a large one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from pilothouse.core.units import BlockKey

SHARD_BLOCKS = 2048  # blocks per shard when the index is full: a dict this size grows in under a millisecond
SHARDS_MAX = 16384  # an empty shard costs 64 bytes
MASKS_MAX = 65536  # distinct masks remembered; forgetting them costs speed and memory, never a wrong answer
CHUNK = 64  # blocks looked up at once: a miss ends the walk, so looking far ahead is waste
FEW = 16  # bits worth taking one by one


class Holders:
    """The blocks of one tier. A `bit` is `1 << slot`; what a slot stands for is the caller's business."""

    def __init__(self, blocks_max: int) -> None:
        shards = 1 << max(blocks_max // SHARD_BLOCKS, 63).bit_length()
        self._shards: list[dict[int, int]] = [{} for _ in range(min(shards, SHARDS_MAX))]
        self._low = len(self._shards) - 1
        self._masks: dict[int, int] = {}
        self.size = 0  # blocks
        self.refused = 0  # blocks not taken in for want of room
        self.changes = 0  # calls that changed a mask: with equal counts, equal answers

    def store(self, blocks: Iterable[int], bit: int, room: int) -> int:
        """Adds a holder; at most `room` blocks may be new. Returns how many of the blocks it did not hold before."""
        shards, low, alone = self._shards, self._low, self._same(bit)
        added = new = 0
        seen = grown = -1  # the last mask met, and the one with the bit set that replaced it
        for key in blocks:
            shard = shards[key & low]
            mask = shard.get(key)
            if mask is None:
                if new >= room:
                    self.refused += 1
                    continue
                shard[key] = alone
                new += 1
            elif mask & bit:
                continue
            else:
                if mask is not seen:
                    seen, grown = mask, self._same(mask | bit)
                shard[key] = grown
            added += 1
        self.size += new
        self.changes += added > 0
        return added

    def remove(self, blocks: Iterable[int], bit: int) -> int:
        """Takes a holder off; returns how many of the blocks it held."""
        shards, low = self._shards, self._low
        removed = gone = 0
        seen = left = -1
        for key in blocks:
            shard = shards[key & low]
            mask = shard.get(key, 0)
            if not mask & bit:
                continue
            if mask is not seen:
                seen, left = mask, self._same(mask ^ bit)
            if left:
                shard[key] = left
            else:
                del shard[key]
                gone += 1
            removed += 1
        self.size -= gone
        self.changes += removed > 0
        return removed

    def lacking(self, blocks: Sequence[BlockKey], bit: int) -> list[BlockKey]:
        """The blocks that a holder does not hold."""
        shards, low = self._shards, self._low
        return [key for key in blocks if not shards[key & low].get(key, 0) & bit]

    def chunks(self, blocks: Sequence[int]) -> Iterator[list[int]]:
        """The holders of each block, in order, some blocks at a time."""
        shards, low = self._shards, self._low
        for start in range(0, len(blocks), CHUNK):
            yield [shards[key & low].get(key, 0) for key in blocks[start : start + CHUNK]]

    def sweep(self, shard_index: int, dead: int) -> int:
        """Clears the dead slots' bits from one shard; returns the entries visited."""
        shard, visited = self._shards[shard_index], len(self._shards[shard_index])
        touched = [(key, mask & ~dead) for key, mask in shard.items() if mask & dead]
        for key, mask in touched:
            if mask:
                shard[key] = self._same(mask)
            else:
                del shard[key]
        if len(shard) * 2 < visited:
            self._shards[shard_index] = dict(shard)  # a dict gives memory back only when it is copied
        self.size -= visited - len(shard)
        self.changes += bool(touched)
        return visited

    @property
    def shards(self) -> int:
        return len(self._shards)

    def items(self) -> Iterator[tuple[int, int]]:
        """Every block and its holders."""
        return chain.from_iterable(shard.items() for shard in self._shards)

    def _same(self, mask: int) -> int:
        """The one object that stands for all masks equal to this one."""
        if len(self._masks) >= MASKS_MAX:
            self._masks.clear()
        return self._masks.setdefault(mask, mask)


def prefix_lengths(chunks: Iterable[Sequence[int]], live: int, width: int) -> list[int]:
    """Per slot: how many leading blocks it holds without a gap.

    chunks  holders of each block, in order, some blocks at a time
    live    bits of the slots in question
    width   slots in the answer
    """
    lengths = [0] * width
    alive, seen, n = live, -1, 0
    for chunk in chunks:
        alike = chunk.count(chunk[0])  # equal masks are one object, so this compares pointers
        for mask in chunk[:1] if alike == len(chunk) else chunk:
            if mask is not seen:
                lost = alive & ~mask
                if lost:
                    if n:
                        _settle(lengths, lost, n)
                    alive ^= lost
                    if not alive:
                        return lengths
                seen = mask
            n += 1
        if alike == len(chunk):
            n += alike - 1
    _settle(lengths, alive, n)
    return lengths


def _settle(lengths: list[int], bits: int, length: int) -> None:
    for slot in slots_of(bits):
        lengths[slot] = length


def slots_of(bits: int) -> list[int]:
    """The positions of the set bits, ascending."""
    if bits.bit_count() > FEW:
        return [slot for slot, digit in enumerate(reversed(format(bits, "b"))) if digit == "1"]
    slots = []
    while bits:
        lowest = bits & -bits
        slots.append(lowest.bit_length() - 1)
        bits ^= lowest
    return slots
