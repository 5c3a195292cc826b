"""What the engine stored and removed, told as vLLM tells it: with parents, tokens, adapter and salt.

The simulated engine knows block keys alone. Here each key of a request under way leads back to the request, so that
an event can say what the block holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from pilothouse.core.units import BlockKey
from pilothouse.emulate.kv_publisher import Event
from pilothouse.live.tokens.dialect import ID_BYTES, Scope, unpack

MEDIUM = "GPU"


class Chain(msgspec.Struct, frozen=True, eq=False):
    """The blocks of one request: its prompt's, and those that its answer will fill."""

    keys: list[BlockKey]
    ids: bytes  # packed tokens of all of them
    scope: Scope
    lora_id: int | None


@dataclass(slots=True, eq=False)
class Place:
    """Where a key is found. Any request that has the key will do: a key covers all that comes before it."""

    chain: Chain
    at: int
    users: int  # requests under way that have it


class KvBlocks:
    """Events from keys, for one engine."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._known: dict[BlockKey, Place] = {}
        self._parents: dict[BlockKey, BlockKey | None] = {}  # of the blocks that are held

    def begin(self, chain: Chain) -> None:
        known = self._known
        for at, key in enumerate(chain.keys):
            place = known.get(key)
            if place is None:
                known[key] = Place(chain, at, 1)
            else:
                place.users += 1

    def end(self, chain: Chain) -> None:
        known = self._known
        for key in chain.keys:
            place = known[key]
            place.users -= 1
            if not place.users:
                del known[key]

    def stored(self, keys: list[BlockKey]) -> list[Event]:
        """One event for each stretch of blocks that follow one another."""
        events: list[Event] = []
        before: BlockKey | None = None
        for key in keys:
            place = self._known[key]
            chain, at = place.chain, place.at
            self._parents[key] = parent = chain.keys[at - 1] if at else None
            if parent is not None and parent == before:
                self._add(events[-1], key, chain, at)
            else:
                events.append(self._event(key, parent, chain, at))
            before = key
        return events

    def removed(self, keys: list[BlockKey]) -> list[Event]:
        """One event a block, the end of each chain first."""
        events: list[Event] = []
        for run in self._runs(keys):
            for key in reversed(run):
                del self._parents[key]
                events.append({"type": "BlockRemoved", "block_hashes": [key], "medium": MEDIUM, "group_idx": 0})
        return events

    def clear(self) -> list[Event]:
        self._parents.clear()
        return [{"type": "AllBlocksCleared"}]

    def _runs(self, keys: list[BlockKey]) -> Iterator[list[BlockKey]]:
        run = keys[:1]
        for before, key in pairwise(keys):
            if self._parents[key] != before:
                yield run
                run = []
            run.append(key)
        yield run

    def _event(self, key: BlockKey, parent: BlockKey | None, chain: Chain, at: int) -> Event:
        lora = chain.scope.lora
        return {
            "type": "BlockStored",
            "block_hashes": [key],
            "parent_block_hash": parent,
            "token_ids": self._tokens(chain, at),
            "block_size": self._size,
            "lora_id": chain.lora_id,
            "medium": MEDIUM,
            "lora_name": lora[0] if lora else None,
            "extra_keys": [_extra(chain.scope, at)],
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }

    def _add(self, event: Event, key: BlockKey, chain: Chain, at: int) -> None:
        event["block_hashes"].append(key)
        event["token_ids"] += self._tokens(chain, at)
        event["extra_keys"].append(_extra(chain.scope, at))

    def _tokens(self, chain: Chain, at: int) -> list[int]:
        step = self._size * ID_BYTES
        return list(unpack(chain.ids[at * step : (at + 1) * step]))


def _extra(scope: Scope, at: int) -> list[str] | None:
    """What the block's name covers besides tokens. The event has the values alone."""
    extra = [scope.lora[0]] if scope.lora else []
    if scope.cache_salt and at == 0:
        extra.append(scope.cache_salt)
    return extra or None
