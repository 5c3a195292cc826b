"""One endpoint as the block index knows it, and one route's claim on it."""

from dataclasses import dataclass, field
from typing import Protocol

from pilothouse.core.assumed import Lru
from pilothouse.core.claims import Claims
from pilothouse.core.lower import TIERS, Store
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId


class Candidate(Protocol):
    """What a lookup needs of an endpoint."""

    @property
    def id(self) -> EndpointId: ...


@dataclass(slots=True)
class Known:
    """One endpoint."""

    id: EndpointId
    exact: bool
    kv_blocks: int
    block_size: int
    slot: int
    held: list[int] = field(default_factory=lambda: [0] * len(TIERS))  # blocks per tier
    claims: Claims = field(default_factory=Claims)
    used: Lru | None = None  # assumed endpoints only
    store: Store | None = None  # the shared one that it can fetch from
    gone: bool = False

    @property
    def bit(self) -> int:
        return 1 << self.slot


@dataclass(slots=True)
class Claim:
    """One route's share of an endpoint's unconfirmed blocks."""

    request: RequestId
    known: Known
    serial: int
    prompt: list[BlockKey]
    blocks: list[BlockKey]  # those of the prompt that were not known to be held
    expires_us: Micros | None = None
