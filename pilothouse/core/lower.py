"""The index below HBM: blocks in an engine's DRAM, on its disk, or in a store that several engines share.

A store is a holder of its own, with a slot like an endpoint's: what one of its engines puts there, all of them can fetch.
It outlives every engine but the last. Stores say what is put into them and seldom what they drop, so each is taken for
an LRU of its capacity.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pilothouse.core.assumed import Lru
from pilothouse.core.events import Tier
from pilothouse.core.holders import Holders, slots_of
from pilothouse.core.slots import Slots
from pilothouse.core.units import BlockKey

TIERS = list(Tier)
LEVELS = {tier: level for level, tier in enumerate(TIERS)}
HBM, REMOTE = LEVELS[Tier.HBM], LEVELS[Tier.REMOTE]
STORE_BLOCKS_UNKNOWN = 1_000_000  # assumed capacity of a store where nobody says: 16 million tokens, a few TB


@dataclass(slots=True)
class Store:
    """One shared store."""

    name: str
    slot: int
    used: Lru
    mask: int = 0  # bits of the engines that see it

    @property
    def bit(self) -> int:
        return 1 << self.slot

    def use(self, blocks: list[BlockKey]) -> None:
        """A request of one of its engines has this prompt: what is here of it is used."""
        self.used.touch([key for key in blocks if key in self.used])


@dataclass(slots=True)
class Stores:
    """All shared stores, by name."""

    slots: Slots
    by_name: dict[str, Store] = field(default_factory=dict)

    def join(self, name: str, slot: int, capacity: int) -> Store:
        """An engine sees the store from now on."""
        store = self.by_name.get(name)
        if store is None:
            store = self.by_name[name] = Store(name, self.slots.take(), Lru(STORE_BLOCKS_UNKNOWN))
        if capacity:
            store.used.capacity = capacity
        store.mask |= 1 << slot
        return store

    def leave(self, store: Store, slot: int) -> None:
        """It does not any more. With its last engine a store is forgotten: nobody would tell what happens to it."""
        store.mask &= ~(1 << slot)
        if not store.mask:
            del self.by_name[store.name]
            self.slots.retire(store.slot, used=bool(len(store.used)))


class Layers:
    """The masks of all tiers, those below HBM only if there is anything in them."""

    def __init__(self, blocks_max: int, slots: Slots) -> None:
        self.blocks_max = blocks_max
        self.hbm = Holders(blocks_max)
        self.there = [self.hbm]  # those that there are, fastest first
        self.stores = Stores(slots)
        self._levels: list[Holders | None] = [self.hbm] + [None] * (len(TIERS) - 1)

    @property
    def room(self) -> int:
        """How many blocks may still be new."""
        return self.blocks_max - sum([holders.size for holders in self.there])

    @property
    def lower(self) -> list[tuple[Tier, Holders]]:
        """Those below HBM that there are."""
        return [(tier, layer) for tier, layer in zip(TIERS[1:], self._levels[1:], strict=True) if layer is not None]

    def at(self, level: int) -> Holders:
        found = self._levels[level]
        if found is None:
            found = self._levels[level] = Holders(self.blocks_max)
            self.there = [layer for layer in self._levels if layer is not None]
        return found

    def put(self, store: Store, blocks: list[BlockKey]) -> None:
        """Into a shared store; what no longer fits goes."""
        remote = self.at(REMOTE)
        remote.store(blocks, store.bit, self.room)
        gone = store.used.touch(blocks)
        if gone:
            remote.remove(gone, store.bit)

    def drop(self, store: Store, blocks: list[BlockKey]) -> None:
        """Out of a shared store, as one of its engines says."""
        store.used.drop(blocks)
        self.at(REMOTE).remove(blocks, store.bit)


def reaches(hbm: Holders, lower: list[Holders], blocks: list[BlockKey], stores: Stores) -> list[list[int]]:
    """Per tier, HBM first and then `lower` in their order, and slot: how many leading blocks of a prompt can be used from
    that tier and faster ones together.

    As engines do it: what HBM holds without a gap is used as it is, and from there on each block is fetched. A block that
    HBM holds behind a gap is not used.
    """
    shared, live, width = list(stores.by_name.values()), stores.slots.live, stores.slots.width
    levels = [[0] * width for _ in range(len(lower) + 1)]
    alive, n = [live] * len(levels), 0
    for masks, count in _side_by_side([holders.spans(blocks) for holders in (hbm, *lower)]):
        have = masks[0] & alive[0]
        for level, mask in enumerate(masks):
            if level:
                for store in shared:
                    if mask & store.bit:
                        mask |= store.mask
                have |= mask
            lost = alive[level] & ~have
            if lost:
                _set(levels[level], lost, n)
                alive[level] ^= lost
        if not alive[-1]:
            return levels
        n += count
    for level, bits in enumerate(alive):
        _set(levels[level], bits, n)
    return levels


def _side_by_side(walks: list[Iterator[tuple[int, int]]]) -> Iterator[tuple[list[int], int]]:
    """Several walks along one prompt as one: (each one's mask, how many blocks in a row have these)."""
    heads = [next(walk, (0, 0)) for walk in walks]
    while all(left for _, left in heads):
        count = min(left for _, left in heads)
        yield [mask for mask, _ in heads], count
        heads = [
            (mask, left - count) if left > count else next(walk, (0, 0))
            for (mask, left), walk in zip(heads, walks, strict=True)
        ]


def _set(lengths: list[int], bits: int, length: int) -> None:
    if length:
        for slot in slots_of(bits):
            lengths[slot] = length
