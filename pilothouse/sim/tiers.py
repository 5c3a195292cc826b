"""KV below the GPU of simulated engines: DRAM, disk, and a store that the engines of a pool share.

What an engine has computed or loaded is written through to all its tiers when the step ends, as vLLM's offloading does
it; writing takes no time, for it happens beside the computing. Each tier is an LRU of blocks; a new process finds its own
ones empty. A request whose prefix goes on below HBM takes blocks for its whole prompt, each from the fastest tier that has
it, and joins the batch when all are here; nobody waits for it. Each tier serves an engine one load after the other.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import msgspec

from pilothouse.core.assumed import Lru
from pilothouse.core.events import Tier
from pilothouse.core.units import BlockKey, Micros, RequestId
from pilothouse.sim.agenda import Rank

if TYPE_CHECKING:
    from pilothouse.sim.driver import Driver
    from pilothouse.sim.engine import Engine
    from pilothouse.sim.hosts import Host


class TierSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tier of an engine; of the remote one, what the whole pool shares."""

    tier: Tier
    blocks: int  # capacity
    gb_per_s: float  # at which one engine loads

    def __post_init__(self) -> None:
        if self.tier is Tier.HBM or self.blocks < 1 or self.gb_per_s <= 0:
            raise ValueError("a tier lies below HBM and has room and a rate")


Changes = tuple[Tier, list[BlockKey], list[BlockKey]]  # stored and removed


@dataclass(slots=True, eq=False)
class Shelf:
    """One tier, as its engine sees it."""

    spec: TierSpec
    used: Lru
    free_us: float = 0.0  # when its last load has ended


class Tiers:
    """Those of one engine, fastest first."""

    def __init__(self, specs: list[TierSpec], block_bytes: float, store: Lru | None) -> None:
        """`store`: what the engine's remote tier is."""
        self._block_bytes = block_bytes
        shared = [store if spec.tier is Tier.REMOTE else None for spec in specs]
        self._shelves = [
            Shelf(spec, Lru(spec.blocks) if lru is None else lru) for spec, lru in zip(specs, shared, strict=True)
        ]
        self.loads: list[tuple[RequestId, list[int]]] = []  # begun and not collected: whose, blocks from each tier

    def beyond(self, keys: list[BlockKey], start: int, limit: int) -> int:
        """How many blocks from `start` on, up to `limit`, are in any tier without a gap."""
        at = start
        while at < limit and any(keys[at] in shelf.used for shelf in self._shelves):
            at += 1
        return at - start

    def load(self, request: RequestId, keys: list[BlockKey]) -> None:
        """These blocks, all of which are here, are wanted in HBM."""
        counts = [0] * len(self._shelves)
        for key in keys:
            counts[next(i for i, shelf in enumerate(self._shelves) if key in shelf.used)] += 1
        self.loads.append((request, counts))

    def keep(self, stored: list[BlockKey], prompts: list[list[BlockKey]]) -> list[Changes]:
        """A step has ended that computed `stored`, and these prompts to their end; returns what changed."""
        changes = []
        for shelf in self._shelves:
            used = shelf.used
            new = used.missing(stored)
            gone = used.touch(stored)
            for prompt in prompts:
                used.touch([key for key in prompt if key in used])  # a prompt's head is needed more often than its tail
            if gone:
                passing = set(gone)
                gone, new = [key for key in gone if key not in new], [key for key in new if key not in passing]
            if shelf.spec.tier is Tier.REMOTE:
                gone = []  # a store does not say what it drops
            if new or gone:
                changes.append((shelf.spec.tier, new, gone))
        return changes

    def ready_us(self, counts: list[int], now_us: Micros) -> Micros:
        """When so many blocks from each tier are in HBM, behind the loads before them."""
        ready_us = float(now_us)
        for shelf, count in zip(self._shelves, counts, strict=True):
            if count:
                took_us = count * self._block_bytes / (shelf.spec.gb_per_s * 1e3)
                shelf.free_us = max(shelf.free_us, now_us) + took_us
                ready_us = max(ready_us, shelf.free_us)
        return Micros(ceil(ready_us))

    def by_tier(self, counts: list[int]) -> list[tuple[Tier, int]]:
        return [(shelf.spec.tier, count) for shelf, count in zip(self._shelves, counts, strict=True) if count]


@dataclass(slots=True)
class Loads:
    """What the driver does about loads from lower tiers."""

    driver: "Driver"
    blocks: dict[Tier, int] = field(default_factory=dict)  # loaded from each; a total

    def begin(self, host: "Host") -> None:
        tiers, now_us = host.engine.tiers, self.driver.now_us
        assert tiers is not None
        loads, tiers.loads = tiers.loads, []
        for request, counts in loads:
            for tier, count in tiers.by_tier(counts):
                self.blocks[tier] = self.blocks.get(tier, 0) + count
            what = (host, host.engine, request)
            self.driver.agenda.push(tiers.ready_us(counts, now_us), Rank.SUBMIT, self._arrive, what)

    def _arrive(self, what: "tuple[Host, Engine, RequestId]") -> None:
        host, engine, request = what
        if host.engine is engine and request in engine.handed.fetching:  # else nobody wants it any more
            engine.land(request, self.driver.now_us)
            self.driver.arm(host)
