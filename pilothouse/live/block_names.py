"""What an engine calls its blocks -> the keys that requests of its pool carry.

Direct: the pool's dialect reproduces the engine's hashes, so they are the keys. That is believed until the first block
of a prompt shows otherwise, and checked there, since only such a block can be computed from its event alone.
Mapped: the engine's hashes cannot be computed outside (random seed, unknown algorithm). Each block's key is then
computed with the pool's dialect from the event's token ids, on top of its parent's, and remembered until the block
leaves its last tier of the engine's own; blocks below HBM are known by then, since their events hide what their hash
covers besides tokens.

What cannot be named stays out of the index and is counted: blocks with media or embeddings (their tokens are
placeholders), blocks whose parent was never seen. Engines that leave extra keys out of their events (old vLLM, SGLang)
do not show a cache salt: mapped blocks of a salted prompt then pass for unsalted ones.
"""

from collections.abc import Mapping
from typing import Literal

from pilothouse.core.events import Tier
from pilothouse.core.units import BlockKey
from pilothouse.live.tokens.dialect import Dialect, Scope, pack
from pilothouse.wire.kv_events import BlockRemoved, BlockStored, key_of, keys_of, tier_of

Extra = list[object] | None  # what one block's hash covers besides tokens
Mode = Literal["unchecked", "direct", "mapped"]
FULL_ATTENTION = (None, "full_attention", "mla_attention", "sink_full_attention")
BITS = {tier: 1 << i for i, tier in enumerate(Tier)}


class BlockNames:
    """Names for the blocks of one engine.

    dialect      how requests of the pool name their blocks
    lora_paths   adapter name -> path: the path is part of a block's key but not of its event
    blocks_max   mapped blocks remembered
    shares       what the engine keeps outside its GPU lies in a store that it shares
    """

    def __init__(
        self,
        dialect: Dialect,
        lora_paths: Mapping[str, str] | None = None,
        blocks_max: int = 1_000_000,
        *,
        shares: bool = False,
    ) -> None:
        self.shares = shares
        self.dialect, self.lora_paths, self.blocks_max = dialect, lora_paths or {}, blocks_max
        self.unnamed = 0  # blocks that could not be named; a total
        self.wrong_size = 0  # block size of the engine if it is not the dialect's, so that nothing can match
        self.reset()

    def reset(self) -> None:
        """Another process may run now: nothing is known of it."""
        self.mode: Mode = "mapped" if self.dialect.algorithm == "own" or not self.dialect.reproducible else "unchecked"
        self._group: int | None = None
        self.forget()

    def forget(self) -> None:
        """The engine holds nothing any more."""
        self._digests: dict[BlockKey, bytes] = {}  # engine's key -> our digest; its low 64 bits are our key
        self._tiers: dict[BlockKey, int] = {}  # engine's key -> bits of the tiers that hold the block

    def stored(self, event: BlockStored) -> list[BlockKey]:
        """Keys of the blocks to be added, as far as they can be named."""
        if not self._counts(event):
            return []
        self.wrong_size = event.block_size if event.block_size not in (0, self.dialect.block_size) else 0
        if self.wrong_size:
            self.unnamed += len(event.block_hashes)
            return []
        names = keys_of(event.block_hashes)
        if self.mode == "unchecked" and event.parent_block_hash is None and self.tier(event) is Tier.HBM:
            self._check(event, names)
        return self._map(event, names) if self.mode == "mapped" else names

    def removed(self, event: BlockRemoved) -> list[BlockKey]:
        """Keys of the blocks to be taken off."""
        if event.group_idx not in (None, self._group):
            return []
        names = keys_of(event.block_hashes)
        if self.mode != "mapped":
            return names
        return [key for name in names for key in self._unmap(name, self._bit(event))]

    def tier(self, event: BlockStored | BlockRemoved) -> Tier:
        return tier_of(event, shares=self.shares)

    def _bit(self, event: BlockStored | BlockRemoved) -> int:
        """0 for a shared store: nobody says when it drops a block, so it keeps no name alive."""
        tier = self.tier(event)
        return 0 if self.shares and tier is Tier.REMOTE else BITS[tier]

    def _counts(self, event: BlockStored) -> bool:
        """Hybrid models keep each block once per group of layers. A prefix can be reused as far as full attention has
        it, so the first such group speaks for all; the other groups' windows and states stay out."""
        if event.group_idx is None:
            return True
        if self._group is None and event.kv_cache_spec_kind in FULL_ATTENTION:
            self._group = event.group_idx
        return event.group_idx == self._group

    def _check(self, event: BlockStored, names: list[BlockKey]) -> None:
        """Direct or mapped? An adapter of unknown path, or media, leaves the question open."""
        scope = self._scope(event, (event.extras()[:1] or [None])[0])
        if scope is None or not event.tokens():
            return
        if event.lora_name is None or event.lora_name in self.lora_paths:
            keys = self.dialect.chain(event.tokens(), scope.lora, scope.cache_salt)
            self.mode = "direct" if keys[: len(names)] == names else "mapped"

    def _map(self, event: BlockStored, names: list[BlockKey]) -> list[BlockKey]:
        bit, size, keys = self._bit(event), self.dialect.block_size, list[BlockKey]()
        parent = None if event.parent_block_hash is None else self._digests.get(key_of(event.parent_block_hash))
        first = event.parent_block_hash is None
        tells = self.tier(event) is Tier.HBM and any(name not in self._digests for name in names)
        tokens = event.tokens() if tells else []
        extras = event.extras() if tokens else []
        extras += [None] * (len(names) - len(extras))
        for i, name in enumerate(names):
            digest = self._digests.get(name)
            if digest is None and (first or parent is not None) and len(tokens) >= (i + 1) * size:
                digest = self._extended(event, parent, tokens[i * size : (i + 1) * size], extras[i])
            if digest is None or len(self._digests) >= self.blocks_max:
                self.unnamed += len(names) - i
                break
            self._digests[name] = parent = digest
            self._tiers[name] = self._tiers.get(name, 0) | bit
            keys.append(key_of(digest))
        return keys

    def _extended(self, event: BlockStored, parent: bytes | None, tokens: list[int], extra: Extra) -> bytes | None:
        """Our digest of one block; None if it cannot be computed."""
        scope = self._scope(event, extra, first=parent is None)
        if scope is None or min(tokens) < 0 or max(tokens) >= 2**32:
            return None
        first, parent = parent is None, self.dialect.root(scope) if parent is None else parent
        return self.dialect.extend(parent, pack(tokens), scope, first)[0]

    def _scope(self, event: BlockStored, extra: Extra, first: bool = True) -> Scope | None:
        """What the block's hash covers besides tokens; None if that is more than adapter and salt."""
        name, extra = event.lora_name, extra or []
        if name is not None and extra[:1] == [name]:
            extra = extra[1:]
        lora = (name, self.lora_paths.get(name, "")) if name is not None else None
        if not extra:
            return Scope(lora)
        salt = extra[0]
        return Scope(lora, salt) if first and len(extra) == 1 and isinstance(salt, str) else None

    def _unmap(self, name: BlockKey, bit: int) -> list[BlockKey]:
        digest = self._digests.get(name)
        if digest is None:
            return []
        self._tiers[name] &= ~bit
        if not self._tiers[name]:
            del self._digests[name], self._tiers[name]
        return [key_of(digest)]
