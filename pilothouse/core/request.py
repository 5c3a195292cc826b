"""What the core remembers of one request between its arrival and its end."""

from dataclasses import dataclass, field

from pilothouse.core.events import Arrived
from pilothouse.core.speed import Reading
from pilothouse.core.units import EndpointId, Micros


@dataclass(slots=True)
class Place:
    """Where a waiting request stands: by `order`, until `late_us`; after that behind all who are on time, by
    `late_order`. Lower is sooner."""

    order: int
    late_us: int | None = None  # None = never late
    late_order: int = 0
    number: int = 0  # in order of joining, from 1: decides between equals


@dataclass(slots=True)
class Request:
    """One request in flight or waiting. `endpoint` is None while it waits."""

    arrived: Arrived
    attempt: int = 0
    endpoint: EndpointId | None = None
    tried: list[EndpointId] = field(default_factory=list)  # endpoints that failed it
    deaths: int = 0  # engines that closed the connection on it before a byte: it may be what kills them
    busy: bool = False  # the last attempt ended at a full queue
    unpaid: bool = False  # it waits for the retry budget, whatever endpoints there are
    uncached_tokens: int = 0  # charged to the endpoint's prefill until the first token
    squares: int = 0  # the same, each token times the context before it
    ahead_tokens: int = 0  # prefill queued there when it was routed, its own included
    ahead_squares: int = 0
    prefilling: bool = False  # that charge is still held
    routed_at_us: Micros = Micros(0)
    reading: Reading | None = None  # the endpoint's meter when its first token was seen
    waiting_until_us: Micros = Micros(0)  # deadline in the waiting room; 0 = never waited
    held_for: EndpointId | None = None  # it waits for this endpoint to have less to do, not for want of endpoints
    held_tokens: int = 0  # charged to that endpoint meanwhile
    place: Place | None = None  # in the line, since it first waited
    step: "Request | None" = None  # its prefill at another endpoint, charged there like a request of its own
    splits: int = 0  # attempts that had one
    no_prefill: bool = False  # it waits because it must be split and cannot be
    handed_tokens: int = 0  # whose KV has to come from there
    handed_by: EndpointId | None = None
    handed_at_us: Micros = Micros(0)  # when it was computed; 0 = not yet
    loads: bool = False  # KV from a lower tier: what its first token takes tells nothing about computing
