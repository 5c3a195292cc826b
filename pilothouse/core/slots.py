"""Bit positions for endpoints, and how those of cleared endpoints get out of the masks again, a little at a time."""

from dataclasses import dataclass, field

from pilothouse.core.holders import Holders, slots_of

SWEEP_ENTRIES = 500  # index entries visited per call while a slot is swept out, to the next whole shard


@dataclass(slots=True)
class Slots:
    """A slot that was given up is swept out of all masks before it is used again."""

    live: int = 0  # bits in use
    width: int = 0  # slots ever used
    _free: list[int] = field(default_factory=list)
    _waiting: int = 0  # bits for the next pass
    _sweeping: int = 0  # bits of this pass
    _hand: int = 0  # shards this pass has done

    @property
    def dirty(self) -> int:
        """Bits that may still be in masks and mean nothing."""
        return self._waiting | self._sweeping

    def take(self) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot, self.width = self.width, self.width + 1
        self.live |= 1 << slot
        return slot

    def retire(self, slot: int, used: bool) -> None:
        """Gives a slot up; `used` if any mask may have its bit."""
        self.live ^= 1 << slot
        if used:
            self._waiting |= 1 << slot
        else:
            self._free.append(slot)

    def sweep(self, layers: list[Holders], entries: int) -> None:
        """Visits about so many entries. A pass over all shards clears the bits that were waiting when it began."""
        total = sum(holders.shards for holders in layers)
        while entries > 0 and self.dirty:
            if self._hand == 0:
                self._sweeping, self._waiting = self._waiting, 0
            layer, shard = divmod(self._hand, layers[0].shards)
            entries -= layers[layer].sweep(shard, self._sweeping) + 1
            self._hand += 1
            if self._hand >= total:
                self._free += slots_of(self._sweeping)
                self._hand = self._sweeping = 0
