"""Which endpoint served a conversation last. Bounded: the least recently used conversation is forgotten first."""

from collections import OrderedDict
from dataclasses import dataclass, field

from pilothouse.core.units import EndpointId


@dataclass(slots=True)
class Sessions:
    """Session key -> endpoint."""

    sessions_max: int
    last: OrderedDict[int, EndpointId] = field(default_factory=OrderedDict)

    def endpoint(self, session: int) -> EndpointId | None:
        return self.last.get(session) if session else None

    def routed(self, session: int, endpoint: EndpointId) -> None:
        if not session:
            return
        self.last[session] = endpoint
        self.last.move_to_end(session)
        if len(self.last) > self.sessions_max:
            self.last.popitem(last=False)
