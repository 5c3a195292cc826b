"""What the block index tells about itself: answers, counts, and a snapshot for the head of a journal segment."""

import msgspec

from pilothouse.core.events import Tier
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId


class Prefixes(msgspec.Struct, frozen=True):
    """Leading blocks that can be used, aligned with the candidates asked for."""

    hbm: list[int]
    lower: list[tuple[Tier, list[int]]]  # the same together with each tier that there is below: never less


class KnownStats(msgspec.Struct, frozen=True):
    """Counts of one endpoint [blocks]."""

    endpoint: EndpointId
    exact: bool
    hbm: int  # speculative ones included
    lower: int  # all other tiers together
    speculative: int


class IndexStats(msgspec.Struct, frozen=True):
    """Counts of the whole index."""

    blocks: int  # distinct, per tier; those of cleared endpoints until they are swept
    holders: int  # blocks times endpoints
    speculative: int
    refused: int  # blocks not taken in because the index was full; a total
    ignored: int  # blocks reported by endpoints that are unknown or not exact; a total
    sweeping: int  # slots of cleared endpoints not yet reusable
    endpoints: list[KnownStats]
    stores: dict[str, int] = {}  # blocks in each shared store


class EndpointState(msgspec.Struct, frozen=True, array_like=True):
    """One endpoint and, if its blocks are assumed, their order of use."""

    endpoint: EndpointId
    exact: bool
    kv_blocks: int
    block_size: int
    capacity: int  # of `used` [blocks]
    used: list[BlockKey]  # oldest first
    store: str = ""


class StoreState(msgspec.Struct, frozen=True, array_like=True):
    """One shared store: its blocks in order of use."""

    name: str
    capacity: int  # [blocks]
    used: list[BlockKey]  # oldest first


class Group(msgspec.Struct, frozen=True, array_like=True):
    """Blocks with the same holders."""

    tier: Tier
    holders: list[int]  # positions in IndexState.endpoints
    blocks: list[BlockKey]


class ClaimState(msgspec.Struct, frozen=True, array_like=True):
    """One route's unconfirmed blocks."""

    request: RequestId
    endpoint: EndpointId
    serial: int
    prompt: list[BlockKey]
    blocks: list[BlockKey]
    expires_us: Micros | None
    open: bool  # the request has not ended


class IndexState(msgspec.Struct, frozen=True, array_like=True):
    """Everything that later answers depend on."""

    endpoints: list[EndpointState]
    groups: list[Group]
    claims: list[ClaimState]
    serial: int
    ignored: int
    stores: list[StoreState] = []
