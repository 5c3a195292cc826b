"""Which endpoints hold which KV blocks, in one tier: block key -> bit mask of holder slots.

Prompts are long and change hands in long pieces, so blocks with equal holders that follow each other in a prompt are one
`Run`: a lookup compares a whole piece of the prompt with it at the speed of C, and a change of all of it is a change of
one number. Runs begin when blocks are stored, are cut where a change ends, and are joined again by the lookups that walk
over the cuts. They are only a faster way to walk: what they say of a block is what its own entry would say, whatever
the order in which blocks are stored, removed and asked for.

Every block has an entry, its run or its mask. The dict is split into many small ones by the key's low bits (keys are
hashes), so that no call ever pays for the growth or the sweep of a large one.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from pilothouse.core.units import BlockKey

SHARD_BLOCKS = 2048  # blocks per shard when the index is full: a dict this size grows in under a millisecond
SHARDS_MAX = 16384  # an empty shard costs 64 bytes
MASKS_MAX = 65536  # distinct masks remembered; forgetting them costs speed and memory, never a wrong answer
CHUNK = 64  # single blocks looked up at once: a miss ends the walk, so looking far ahead is waste
RUN_MIN = 16  # fewer blocks are walked one by one
RUN_MAX = 1024  # more are not joined, since a cut costs up to so many
FEW = 16  # bits worth taking one by one


class Run:
    """Different blocks with the same holders, in the order in which some prompt has them."""

    __slots__ = ("keys", "mask")

    def __init__(self, keys: list[BlockKey], mask: int) -> None:
        self.keys, self.mask = keys, mask

    def along(self, blocks: list[BlockKey], at: int) -> int:
        """How many of these blocks, from `at` on, are this run's, from its first on."""
        keys = self.keys
        part = blocks[at : at + len(keys)]
        if part == keys:
            return len(part)
        low, high = 0, len(part) + 1  # equal up to `low`, not up to `high`
        while high - low > 1:
            middle = (low + high) // 2
            if part[low:middle] == keys[low:middle]:
                low = middle
            else:
                high = middle
        return low


class Holders:
    """The blocks of one tier. A `bit` is `1 << slot`; what a slot stands for is the caller's business."""

    def __init__(self, blocks_max: int) -> None:
        shards = 1 << max(blocks_max // SHARD_BLOCKS, 63).bit_length()
        self._shards: list[dict[int, int | Run]] = [{} for _ in range(min(shards, SHARDS_MAX))]
        self._low = len(self._shards) - 1
        self._masks: dict[int, int] = {}
        self.size = 0  # blocks
        self.refused = 0  # blocks not taken in for want of room
        self.changes = 0  # calls that changed a mask: with equal counts, equal answers

    def store(self, blocks: list[BlockKey], bit: int, room: int) -> int:
        """Adds a holder; at most `room` blocks may be new. Returns how many of the blocks it did not hold before."""
        shards, low, alone = self._shards, self._low, self._same(bit)
        added = new = at = 0
        end = len(blocks)
        seen = grown = -1  # the last mask met, and the one with the bit set that replaced it
        while at < end:
            key = blocks[at]
            held = shards[key & low].get(key)
            if held is None:
                if new >= room:
                    self.refused += 1
                    at += 1
                    continue
                if end - at < RUN_MIN:
                    shards[key & low][key] = alone
                    count = 1
                else:
                    count = self._take_in(blocks, at, Run([], alone), room - new)
                new += count
                added += count
                at += count
            elif isinstance(held, int) or not held.mask:  # no mask: a run that is being swept out
                mask = held if isinstance(held, int) else 0
                if not mask & bit:
                    if mask is not seen:
                        seen, grown = mask, self._same(mask | bit)
                    shards[key & low][key] = grown
                    added += 1
                at += 1
            elif held.mask & bit:
                at += held.along(blocks, at) or 1
            else:
                count = held.along(blocks, at)
                if count == len(held.keys):
                    held.mask = self._same(held.mask | bit)
                    added += count
                    at += count
                else:
                    self._cut(held, count or held.keys.index(key))
        self.size += new
        self.changes += added > 0
        return added

    def remove(self, blocks: list[BlockKey], bit: int) -> int:
        """Takes a holder off; returns how many of the blocks it held."""
        shards, low = self._shards, self._low
        removed = gone = at = 0
        while at < len(blocks):
            key = blocks[at]
            held = shards[key & low].get(key, 0)
            if isinstance(held, int):
                if held & bit:
                    if held == bit:
                        del shards[key & low][key]
                        gone += 1
                    else:
                        shards[key & low][key] = self._same(held ^ bit)
                    removed += 1
                at += 1
                continue
            count = held.along(blocks, at)
            if not held.mask & bit:
                at += count or 1
            elif count < len(held.keys):
                self._cut(held, count or held.keys.index(key))
            else:
                if held.mask == bit:
                    for key in held.keys:
                        del shards[key & low][key]
                    gone += count
                else:
                    held.mask = self._same(held.mask ^ bit)
                removed += count
                at += count
        self.size -= gone
        self.changes += removed > 0
        return removed

    def lacking(self, blocks: list[BlockKey], bit: int) -> list[BlockKey]:
        """The blocks that a holder does not hold."""
        missing: list[BlockKey] = []
        at = 0
        for mask, count in self.spans(blocks):
            if not mask & bit:
                missing += blocks[at : at + count]
            at += count
        return missing

    def spans(self, blocks: list[BlockKey]) -> Iterator[tuple[int, int]]:
        """The holders along a prompt: (mask, how many blocks in a row have it), in order. Walked as far as asked for;
        what is found in pieces is joined, for the next time."""
        shards, low = self._shards, self._low
        at, end = 0, len(blocks)
        before: Run | None = None  # the run that ends where we are
        while at < end:
            begin, key = at, blocks[at]
            held = shards[key & low].get(key, 0)
            if isinstance(held, int):
                mask, stop = held, min(begin + CHUNK, end)
                at += 1
                while at < stop and shards[(key := blocks[at]) & low].get(key, 0) is held:
                    at += 1
            else:
                mask = held.mask
                at += held.along(blocks, at) or 1
            yield mask, at - begin
            if before is None and at - begin < RUN_MIN:
                continue
            before = self._joined(before, held, blocks[begin:at]) if mask else None

    def masks(self, blocks: list[BlockKey]) -> Iterator[int]:
        """The holders of each block, in order."""
        return chain.from_iterable(repeat(mask, count) for mask, count in self.spans(blocks))

    def sweep(self, shard_index: int, dead: int) -> int:
        """Clears the dead slots' bits from one shard; returns the entries visited. A run loses them with its first
        block; if it has no others, each of its blocks goes when its own shard is swept."""
        shard, visited = self._shards[shard_index], len(self._shards[shard_index])
        touched = [(key, held) for key, held in shard.items() if isinstance(held, Run) or held & dead]
        for key, held in touched:
            if isinstance(held, Run):
                if held.mask & dead:
                    held.mask = self._same(held.mask & ~dead)
                if not held.mask:
                    held.keys = []  # blocks of it that are stored again get entries of their own
                    del shard[key]
            elif held & ~dead:
                shard[key] = self._same(held & ~dead)
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
        for key, held in chain.from_iterable(shard.items() for shard in self._shards):
            yield key, held if isinstance(held, int) else held.mask

    # Runs

    def _take_in(self, blocks: list[BlockKey], begin: int, run: Run, room: int) -> int:
        """Makes a run of the blocks from `begin` on, until one is there already; returns how many."""
        shards, low = self._shards, self._low
        at = begin
        for key in blocks[begin : begin + room]:
            shard = shards[key & low]
            if key in shard:
                break
            shard[key] = run
            at += 1
        self._settle(blocks[begin:at], run)
        return at - begin

    def _settle(self, keys: list[BlockKey], run: Run) -> None:
        """These are all blocks of the run from now on, or too few to be one."""
        if len(keys) < RUN_MIN:
            self._point(keys, run.mask)
        else:
            run.keys = keys

    def _point(self, keys: list[BlockKey], entry: int | Run) -> None:
        shards, low = self._shards, self._low
        for key in keys:
            shards[key & low][key] = entry

    def _cut(self, run: Run, at: int) -> None:
        """Divides a run in two."""
        tail = Run([], run.mask)
        keys = run.keys[at:]
        if len(keys) >= RUN_MIN:
            self._point(keys, tail)
        self._settle(keys, tail)
        self._settle(run.keys[:at], run)

    def _joined(self, before: Run | None, held: int | Run, part: list[BlockKey]) -> Run | None:
        """Joins a piece of a prompt to the run that ends where it begins, or makes it one, if that can be. Returns the
        run that now ends where the piece ends."""
        if isinstance(held, Run):
            mask, whole = held.mask, len(part) == len(held.keys) and part[0] == held.keys[0]
        else:
            mask, whole = held, len(set(part)) == len(part)
        if not whole:
            return None
        if before is not None and before.mask == mask and len(before.keys) + len(part) <= RUN_MAX:
            self._point(part, before)
            before.keys = before.keys + part
            return before
        if isinstance(held, int) and len(part) >= RUN_MIN:
            held = Run(part, mask)
            self._point(part, held)
        return held if isinstance(held, Run) else None

    def _same(self, mask: int) -> int:
        """The one object that stands for all masks equal to this one."""
        if len(self._masks) >= MASKS_MAX:
            self._masks.clear()
        return self._masks.setdefault(mask, mask)


def prefix_lengths(spans: Iterable[tuple[int, int]], live: int, width: int) -> list[int]:
    """Per slot: how many leading blocks it holds without a gap.

    spans  holders along a prompt: (mask, blocks in a row that have it), in order
    live   bits of the slots in question
    width  slots in the answer
    """
    lengths = [0] * width
    alive, n = live, 0
    for mask, count in spans:
        lost = alive & ~mask
        if lost:
            if n:
                _set(lengths, lost, n)
            alive ^= lost
            if not alive:
                return lengths
        n += count
    _set(lengths, alive, n)
    return lengths


def _set(lengths: list[int], bits: int, length: int) -> None:
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
