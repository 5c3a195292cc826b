"""What an engine that does not report its KV blocks is assumed to hold: the prompts routed to it, least recent out.

Mirrors the engine's own order: it frees a finished prompt from the tail, so the tail is evicted before the head and
what remains of a prompt is a prefix. An engine also keeps generated tokens, which nobody outside knows: this is an
estimate, optimistic for long answers.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from pilothouse.core.units import BlockKey

BLOCKS_UNKNOWN = 4096  # assumed capacity where the engine's is unknown: a 7B model's KV cache of 64k tokens, 8 GiB
VICTIMS = 1024  # looked up at once: finding the front of a dict whose front was deleted takes a walk


class Lru:
    """Block keys in order of use, oldest first, at most `capacity` of them."""

    __slots__ = ("_tick", "_ticks", "_victims", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._ticks: dict[int, int] = {}  # key -> the touch that used it last
        self._tick = 0
        self._victims: list[tuple[int, int]] = []  # the oldest keys, oldest last, with their touch when looked up

    def __contains__(self, key: int) -> bool:
        return key in self._ticks

    def __len__(self) -> int:
        return len(self._ticks)

    def touch(self, blocks: Sequence[int]) -> list[int]:
        """Uses a prompt, head last; returns what had to go, in order."""
        self._tick += 1
        ticks, tick = self._ticks, self._tick
        for key in reversed(blocks):
            ticks.pop(key, None)
            ticks[key] = tick
        return [self._oldest() for _ in range(len(ticks) - self.capacity)]

    def drop(self, blocks: Iterable[int]) -> None:
        """Forgets blocks that were never computed."""
        for key in blocks:
            self._ticks.pop(key, None)

    def clear(self) -> None:
        self._ticks.clear()
        self._victims.clear()

    def keys(self) -> list[BlockKey]:
        """All keys, oldest first."""
        return [BlockKey(key) for key in self._ticks]

    def _oldest(self) -> int:
        """Removes and returns the least recently used key."""
        while True:
            if not self._victims:
                self._victims = list(islice(self._ticks.items(), VICTIMS))[::-1]
            key, tick = self._victims.pop()
            if self._ticks.get(key) == tick:  # otherwise it was used or dropped since
                del self._ticks[key]
                return key
