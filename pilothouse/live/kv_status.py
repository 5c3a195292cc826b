"""Limits of a KV event feed, and what it says of itself, so that degraded knowledge is seen."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from pilothouse.core.units import EndpointId, Micros


class FeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one feed."""

    messages_max: int = 256  # queued by ZeroMQ when the loop is late; what does not fit is a gap, and repaired
    message_bytes_max: int = 4 << 20  # a larger frame ends the connection; a step of 64k new tokens has 0.4 MB
    reconnect_ms: int = 100
    reconnect_ms_max: int = 1000
    replay_timeout_s: float = 2.0  # between two replies; engines look at the replay socket every 0.1 s
    blocks_max: int = 1_000_000  # mapped names remembered


class FeedStatus(msgspec.Struct, frozen=True):
    """What a dashboard or the doctor needs to see degraded knowledge. Counts are totals since the feed began."""

    endpoint: EndpointId
    mode: Literal["silent", "unchecked", "direct", "mapped"]  # silent: no event yet
    connected: bool
    events: int
    blocks: int  # stored and removed
    gaps: int
    repaired: int  # gaps filled from the ring without loss
    resets: int  # times all knowledge was cleared
    malformed: int  # messages that could not be read
    skipped: int  # events of unknown type
    unnamed: int  # blocks that could not be given a key of the pool
    last_event_us: Micros | None
    note: str  # what went wrong last; empty if nothing did


@dataclass(slots=True)
class Counts:
    """The feed's tallies."""

    events: int = 0
    blocks: int = 0
    gaps: int = 0
    repaired: int = 0
    resets: int = 0
    malformed: int = 0
    skipped: int = 0


DEFAULTS = FeedSettings()
