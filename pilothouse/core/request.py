"""What the core remembers of one request between its arrival and its end."""

from dataclasses import dataclass, field

from pilothouse.core.events import Arrived
from pilothouse.core.units import EndpointId, Micros


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
    ahead_tokens: int = 0  # prefill queued there when it was routed, its own included
    prefilling: bool = False  # that charge is still held
    routed_at_us: Micros = Micros(0)
    waiting_until_us: Micros = Micros(0)  # deadline in the waiting room; 0 = never waited
