"""Everything that can happen. The dispatcher knows the world through these alone.

Encoded as arrays (tag first) to stay small in the journal and between processes: new fields go last and have a default.
"""

from enum import StrEnum

import msgspec

from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId

VERSION = 1


class Tier(StrEnum):
    """Where a KV block lies, fastest first."""

    HBM = "hbm"
    DRAM = "dram"
    DISK = "disk"
    REMOTE = "remote"


class Role(StrEnum):
    """What a pool is for."""

    BOTH = "both"  # serves whole requests
    PREFILL = "prefill"  # computes prompts' KV for others
    DECODE = "decode"  # serves requests, with KV from a prefill pool where that pays


class FailureKind(StrEnum):
    """How an attempt at an engine ended badly."""

    CONNECT = "connect"  # no connection could be made
    CLOSED = (
        "closed"  # the connection closed before a byte of the answer: the engine may have died of this very request
    )
    TIMEOUT = "timeout"  # first byte, idle or total time exceeded
    ERROR = "error"  # status 5xx other than busy
    BUSY = "busy"  # the engine refused: its own queue is full (503 or 429)
    BROKEN = "broken"  # the answer stopped in the middle
    GARBAGE = "garbage"  # the answer was not HTTP
    EXPIRED = "expired"  # KV computed elsewhere was not here in time: after that it might be somebody else's


class Event(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base: `at_us` is when the driver saw it, on its monotonic clock [microseconds]."""

    at_us: Micros


class EndpointSeen(Event, frozen=True, tag=True, array_like=True):
    """An engine joined, or what is known of it changed (the same id again replaces the description)."""

    endpoint: EndpointId
    url: str  # http://host:port
    pool: str
    models: list[str]  # model and adapter names it lists
    exact: bool = False  # it reports its KV blocks (events), so nothing need be assumed
    kv_blocks: int = 0  # its KV capacity [blocks]; 0 = unknown
    block_size: int = 0  # [tokens]; 0 = unknown
    role: Role = Role.BOTH
    connector: str = ""  # how it exchanges KV; "" = it cannot
    exchange: str = ""  # all that both ends of a transfer must have alike, as one string: other engines are no partners
    labels: dict[str, str] = {}  # where it stands: rack, zone, ...
    kv_token_bytes: int = 0  # KV of one token [bytes]; 0 = unknown
    speculation: str = ""  # its method of speculative decoding; "" = none
    store: str = ""  # shared store whose KV it can fetch: its own blocks in the remote tier are that store's; "" = none
    store_blocks: int = 0  # capacity of that store [blocks of this engine]; 0 = unknown
    tier_gb_per_s: dict[Tier, float] = {}  # how fast it fetches KV from each tier [GB/s]; missing = as usual


class EndpointGone(Event, frozen=True, tag=True, array_like=True):
    """An engine left discovery: no new requests; those in flight run to their end."""

    endpoint: EndpointId


class Probed(Event, frozen=True, tag=True, array_like=True):
    """Outcome of an active health check."""

    endpoint: EndpointId
    ok: bool


class LoadReported(Event, frozen=True, tag=True, array_like=True):
    """What the engine says of itself: a scrape of its metrics."""

    endpoint: EndpointId
    running: int  # requests in the batch
    waiting: int  # requests in its queue
    kv_used_ratio: float  # 0..1
    drafted_tokens: int = 0  # by speculative decoding since the last report
    accepted_tokens: int = 0  # of those


class BlocksStored(Event, frozen=True, tag=True, array_like=True):
    """The engine now holds these KV blocks in `tier`."""

    endpoint: EndpointId
    blocks: list[BlockKey]
    tier: Tier = Tier.HBM


class BlocksRemoved(Event, frozen=True, tag=True, array_like=True):
    """The engine evicted these KV blocks from `tier`."""

    endpoint: EndpointId
    blocks: list[BlockKey]
    tier: Tier = Tier.HBM


class BlocksCleared(Event, frozen=True, tag=True, array_like=True):
    """The engine holds no blocks any more: reset, restart, or we lost track of it."""

    endpoint: EndpointId


class Arrived(Event, frozen=True, tag=True, array_like=True):
    """A request wants an engine. Holds counts and keys, never text."""

    request: RequestId
    model: str
    prompt_tokens: int  # exact or estimated, see the gateway's token mode
    blocks: list[BlockKey]  # keys of the prompt's full KV blocks, first to last; empty = unknown
    block_size: int = 0  # tokens per block of `blocks`; 0 when there are none
    stream: bool = False  # its first token can be seen
    output_tokens_max: int | None = None
    session: int = 0  # 64-bit key of the conversation; 0 = none
    pinned: EndpointId | None = None  # must go there: the engine holds state that the request refers to
    constrained: bool = False  # the answer is bound by a grammar, a schema or tools
    splittable: bool = True  # its prompt can be computed elsewhere


class PrefillDone(Event, frozen=True, tag=True, array_like=True):
    """The prefill engine of a split request has computed its prompt: the decode engine is being asked now."""

    request: RequestId
    prompt_tokens: int | None = None  # as the prefill engine counted
    cached_tokens: int | None = None  # of those, reused there


class FirstToken(Event, frozen=True, tag=True, array_like=True):
    """The first byte of a streamed answer's body was received, or its KV has been fetched: its prefill is over."""

    request: RequestId


class Finished(Event, frozen=True, tag=True, array_like=True):
    """The answer is complete. Token counts as the engine reported them; None where it did not."""

    request: RequestId
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


class Failed(Event, frozen=True, tag=True, array_like=True):
    """The attempt failed. If no byte reached the client (`sent` false), the dispatcher may route it again."""

    request: RequestId
    kind: FailureKind
    sent: bool
    prefill: bool = False  # it was the prefill engine's step that failed


class Cancelled(Event, frozen=True, tag=True, array_like=True):
    """The client went away, or the gateway gave up for it."""

    request: RequestId


class Tick(Event, frozen=True, tag=True, array_like=True):
    """Time passed: the wake-up that `Dispatcher.next_wake_us` asked for."""


AnyEvent = (
    EndpointSeen
    | EndpointGone
    | Probed
    | LoadReported
    | BlocksStored
    | BlocksRemoved
    | BlocksCleared
    | Arrived
    | PrefillDone
    | FirstToken
    | Finished
    | Failed
    | Cancelled
    | Tick
)
