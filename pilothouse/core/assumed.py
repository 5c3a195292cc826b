"""What an engine that does not report its KV blocks is assumed to hold: the prompts routed to it, least recent out.

Mirrors the engine's own order: it frees a finished prompt from the tail, so the tail is evicted before the head and
what remains of a prompt is a prefix. An engine also keeps generated tokens, which nobody outside knows: this is an
estimate, optimistic for long answers. Whole prompts go through the calls of an OrderedDict at the speed of C, since a
prompt of 32 KiB is 512 blocks, most of them known.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import filterfalse

from pilothouse.core.units import BlockKey

BLOCKS_UNKNOWN = 4096  # assumed capacity where the engine's is unknown: a 7B model's KV cache of 64k tokens, 8 GiB


class Lru:
    """Block keys in order of use, oldest first, at most `capacity` of them."""

    __slots__ = ("_last", "_used", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._used: OrderedDict[BlockKey, None] = OrderedDict()
        self._last: Sequence[int] = ()  # the prompt used last, while all of it is here: the same again changes nothing

    def __contains__(self, key: int) -> bool:
        return key in self._used

    def __len__(self) -> int:
        return len(self._used)

    def missing(self, blocks: Sequence[BlockKey]) -> list[BlockKey]:
        """Those that are not here."""
        return list(filterfalse(self._used.__contains__, blocks))

    def renew(self, blocks: Sequence[BlockKey]) -> bool:
        """Uses a prompt all of which is here. False if it is not: `touch` then has to follow, and corrects the order."""
        if len(self._used) > self.capacity:
            return False
        if blocks != self._last:
            try:
                deque(map(self._used.move_to_end, reversed(blocks)), 0)
            except KeyError:
                return False
            self._last = blocks
        return True

    def touch(self, blocks: Sequence[BlockKey]) -> list[BlockKey]:
        """Uses a prompt, head last; returns what had to go, in order."""
        used = self._used
        used.update(dict.fromkeys(blocks))
        deque(map(used.move_to_end, reversed(blocks)), 0)
        self._last = ()
        return [used.popitem(last=False)[0] for _ in range(len(used) - self.capacity)]

    def drop(self, blocks: Iterable[BlockKey]) -> None:
        """Forgets blocks that were never computed."""
        self._last = ()
        for key in blocks:
            self._used.pop(key, None)

    def clear(self) -> None:
        self._last = ()
        self._used.clear()

    def keys(self) -> list[BlockKey]:
        """All keys, oldest first."""
        return [BlockKey(key) for key in self._used]
