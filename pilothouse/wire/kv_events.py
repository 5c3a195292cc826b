"""KV cache events of an engine: msgpack in ZeroMQ frames -> structs, and the engine's own list of where it sends them.

One message is three frames, topic | sequence (8 bytes, big endian) | batch. A batch is `[time, [events], rank]`. An event
is a map with a "type" (vLLM since 0.12) or the same fields as an array with the type first (older vLLM, and SGLang,
which copied that form and leaves out the later fields). Both decode to the classes below. Unknown fields and unknown
event types are skipped; the latter are counted. Token ids and extra keys stay undecoded until someone asks.

source   vllm/distributed/kv_events.py of 0.32; sglang/srt/disaggregation/kv_events.py
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from pilothouse.core.errors import PilothouseError
from pilothouse.core.events import Tier
from pilothouse.core.units import BlockKey

BlockHash = int | bytes  # the low 64 bits, or the whole digest
END = b"\xff" * 8  # sequence frame of the last reply of a replay
T = TypeVar("T")
_LOW64 = 2**64 - 1
_NIL = msgspec.Raw(b"\xc0")
_MEDIA = {None: Tier.HBM, "gpu": Tier.HBM, "cpu": Tier.DRAM, "storage": Tier.DISK, "disk": Tier.DISK, "ssd": Tier.DISK}


class KvEventError(PilothouseError):
    """Bytes that are not a batch of KV events, or not a message of them."""


class BlockStored(msgspec.Struct, frozen=True, tag_field="type", tag="BlockStored"):
    """Blocks of one prompt, consecutive, newly held in one tier."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None = None  # None: the first block is the first of a prompt
    token_ids: msgspec.Raw = _NIL
    block_size: int = 0  # tokens
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: msgspec.Raw = _NIL
    group_idx: int | None = None  # KV cache group of a hybrid model
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None

    def tokens(self) -> list[int]:
        """Token ids of all blocks, end to end; empty if the event has none."""
        return _decoded(self.token_ids, _TOKENS) or []

    def extras(self) -> list[list[object] | None]:
        """Per block what its hash covers besides tokens: adapter name, salt, media; empty if the event has none."""
        return _decoded(self.extra_keys, _EXTRAS) or []


class BlockRemoved(msgspec.Struct, frozen=True, tag_field="type", tag="BlockRemoved"):
    """Blocks evicted from one tier."""

    block_hashes: list[BlockHash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, tag_field="type", tag="AllBlocksCleared"):
    """The prefix cache was reset."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class _BlockStoredArray(BlockStored, frozen=True, array_like=True, tag="BlockStored"):
    pass


class _BlockRemovedArray(BlockRemoved, frozen=True, array_like=True, tag="BlockRemoved"):
    pass


class _AllBlocksClearedArray(AllBlocksCleared, frozen=True, array_like=True, tag="AllBlocksCleared"):
    pass


class Batch(msgspec.Struct, frozen=True):
    """The events of one engine step."""

    events: list[KvEvent]
    rank: int | None = None  # data-parallel rank
    skipped: int = 0  # events of unknown type


class _MapBatch(msgspec.Struct, frozen=True, array_like=True):
    time: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    rank: int | None = None


class _ArrayBatch(msgspec.Struct, frozen=True, array_like=True):
    time: float
    events: list[_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray]
    rank: int | None = None


class _RawBatch(msgspec.Struct, frozen=True, array_like=True):
    time: float
    events: list[msgspec.Raw]
    rank: int | None = None


_TOKENS = msgspec.msgpack.Decoder(list[int])
_EXTRAS = msgspec.msgpack.Decoder(list[list[object] | None])
_BATCHES: list[msgspec.msgpack.Decoder[_MapBatch] | msgspec.msgpack.Decoder[_ArrayBatch]] = [
    msgspec.msgpack.Decoder(_MapBatch),
    msgspec.msgpack.Decoder(_ArrayBatch),
]
_RAW = msgspec.msgpack.Decoder(_RawBatch)
_MAP_EVENT = msgspec.msgpack.Decoder(BlockStored | BlockRemoved | AllBlocksCleared)
_ARRAY_EVENT = msgspec.msgpack.Decoder(_BlockStoredArray | _BlockRemovedArray | _AllBlocksClearedArray)
_KNOWN = {"BlockStored", "BlockRemoved", "AllBlocksCleared"}
_BAD = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class BatchDecoder:
    """Decodes one engine's batches; remembers which form it speaks, to try that first."""

    def __init__(self) -> None:
        self._form = 0

    def decode(self, payload: bytes) -> Batch:
        """Raises KvEventError if this is not a batch."""
        for form in (self._form, 1 - self._form):
            try:
                found = _BATCHES[form].decode(payload)
            except _BAD:
                continue
            self._form = form
            return Batch(list(found.events), found.rank)
        return _one_by_one(payload)


def _one_by_one(payload: bytes) -> Batch:
    """The slow way, for batches with events of unknown type."""
    try:
        raw = _RAW.decode(payload)
        events = [_event(each) for each in raw.events]
    except _BAD as error:
        raise KvEventError(f"not a batch of KV events: {error}") from error
    known = [event for event in events if event is not None]
    return Batch(known, raw.rank, len(events) - len(known))


def _event(raw: msgspec.Raw) -> KvEvent | None:
    """None for a type this version does not know."""
    value = msgspec.msgpack.decode(raw)
    is_array = isinstance(value, list)
    kind = value.get("type") if isinstance(value, dict) else value[0] if is_array and value else None
    if not isinstance(kind, str):
        raise msgspec.ValidationError("an event without a type")
    if kind not in _KNOWN:
        return None
    event: KvEvent = (_ARRAY_EVENT if is_array else _MAP_EVENT).decode(raw)
    return event


def _decoded(raw: msgspec.Raw, decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    if raw == _NIL:
        return None
    try:
        return decoder.decode(raw)
    except _BAD as error:
        raise KvEventError(f"not a field of a KV event: {error}") from error


def key_of(block_hash: BlockHash) -> BlockKey:
    """The low 64 bits, unsigned: what every form of the hash has in common."""
    if isinstance(block_hash, bytes):
        return BlockKey(int.from_bytes(block_hash[-8:], "big"))
    return BlockKey(block_hash & _LOW64)  # SGLang sends signed ones


def keys_of(block_hashes: list[BlockHash]) -> list[BlockKey]:
    return [key_of(block_hash) for block_hash in block_hashes]


def tier_of(event: BlockStored | BlockRemoved, *, shares: bool = False) -> Tier:
    """Where the blocks lie. The spelling of media varies; an unknown one counts as the slowest.

    shares   what the engine keeps outside its GPU lies in a store that others fetch from as well, whatever its medium
    """
    if event.locality is not None and event.locality.upper() == "REMOTE":
        return Tier.REMOTE
    tier = _MEDIA.get(event.medium.lower() if event.medium else None, Tier.REMOTE)
    return Tier.REMOTE if shares and tier is not Tier.HBM else tier


class Message(msgspec.Struct, frozen=True):
    """One message of the feed, or one reply of a replay."""

    sequence: int
    payload: bytes


def parse_message(frames: Sequence[bytes]) -> Message | None:
    """The last two frames count; a topic, and the empty frame of a replay, come before. None ends a replay."""
    if not 2 <= len(frames) <= 4 or len(frames[-2]) != 8:
        raise KvEventError(f"{len(frames)} frames that are no KV event message")
    if frames[-2] == END:
        return None
    return Message(int.from_bytes(frames[-2], "big"), frames[-1])


class Source(msgspec.Struct, frozen=True):
    """Where one data-parallel rank of an engine publishes."""

    endpoint: str  # ZeroMQ address to connect to
    replay_endpoint: str | None = None
    topic: str = ""
    rank: int = 0


class _Published(msgspec.Struct, frozen=True):
    endpoint: str
    replay_endpoint: str | None = None
    topic: str = ""


def parse_sources(body: bytes, host: str) -> list[Source]:
    """Reads the answer of `GET /kv_event_sources`, by rank. `host` stands in for the wildcard of a bound address."""
    try:
        ranks = msgspec.json.decode(body, type=dict[int, _Published])
    except _BAD as error:
        raise KvEventError(f"not a list of KV event sources: {error}") from error
    return [
        Source(
            _reachable(found.endpoint, host),
            found.replay_endpoint and _reachable(found.replay_endpoint, host),
            found.topic,
            rank,
        )
        for rank, found in sorted(ranks.items())
    ]


def _reachable(address: str, host: str) -> str:
    scheme, _, rest = address.partition("://")
    name, _, port = rest.rpartition(":")
    if scheme != "tcp" or name not in ("*", "0.0.0.0", "[::]", "::"):
        return address
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"
