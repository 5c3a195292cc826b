"""Requests that no endpoint can take just now, first come first served, bounded in number and in time."""

from dataclasses import dataclass, field

from pilothouse.core.request import Request
from pilothouse.core.units import Micros, RequestId


@dataclass(slots=True)
class Waiting:
    """The waiting room. A request that waits again (after a failed attempt) keeps its first deadline."""

    requests_max: int
    wait_us_max: Micros
    line: dict[RequestId, Request] = field(default_factory=dict)

    def add(self, request: Request, now_us: Micros) -> bool:
        """False when the room is full or the request has waited long enough."""
        if request.waiting_until_us == 0:
            request.waiting_until_us = Micros(now_us + self.wait_us_max)
        if len(self.line) >= self.requests_max or now_us >= request.waiting_until_us:
            return False
        self.line[request.arrived.request] = request
        return True

    def remove(self, request_id: RequestId) -> None:
        self.line.pop(request_id, None)

    def expired(self, now_us: Micros) -> list[Request]:
        """Requests whose time is up, taken out of the line."""
        late = [r for r in self.line.values() if r.waiting_until_us <= now_us]
        for request in late:
            del self.line[request.arrived.request]
        return late

    def next_deadline_us(self) -> Micros | None:
        return min((r.waiting_until_us for r in self.line.values()), default=None)
