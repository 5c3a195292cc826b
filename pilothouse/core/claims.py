"""Blocks an endpoint is expected to hold soon: routed there, not yet reported or seen computed.

Several requests may claim one block; it stays claimed until the last of them withdraws, or until anything is known for
certain. A claim is marked with the serial of its route, so a late withdrawal cannot take away a newer claim.
"""

from collections import deque
from collections.abc import Iterable
from itertools import repeat

from pilothouse.core.units import BlockKey

CLAIMED_MAX = 65_536  # blocks claimed on one endpoint: a million tokens in its queue


class Claims:
    """Unconfirmed blocks of one endpoint, each with the serials that claim it."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: dict[int, tuple[int, ...]] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._marks

    def __len__(self) -> int:
        return len(self._marks)

    def touches(self, blocks: Iterable[int]) -> bool:
        """Whether any of these blocks is claimed."""
        return bool(self._marks) and not self._marks.keys().isdisjoint(blocks)

    def add(self, serial: int, blocks: Iterable[int]) -> None:
        marks, mine = self._marks, (serial,)  # one tuple for the whole prompt
        if not self.touches(blocks):  # a new prompt, the usual case
            marks.update(dict.fromkeys(blocks, mine))
            return
        for key in blocks:
            others = marks.get(key)
            marks[key] = mine if others is None else others + mine

    def confirm(self, blocks: Iterable[int]) -> None:
        """Nothing about these blocks is a guess any more."""
        if self._marks:
            deque(map(self._marks.pop, blocks, repeat(None)), 0)  # a loop at the speed of C

    def mine(self, serial: int, blocks: Iterable[BlockKey]) -> list[BlockKey]:
        """Those that this serial still claims."""
        return [key for key in blocks if serial in self._marks.get(key, ())]

    def withdraw(self, serial: int, blocks: Iterable[BlockKey]) -> list[BlockKey]:
        """Ends one serial's claims; returns the blocks that nobody claims now."""
        left = []
        for key in self.mine(serial, blocks):
            others = tuple(mark for mark in self._marks[key] if mark != serial)
            if others:
                self._marks[key] = others
            else:
                del self._marks[key]
                left.append(key)
        return left

    def clear(self) -> None:
        self._marks.clear()
