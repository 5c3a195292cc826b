"""Requests that no endpoint can take just now, or should: per model in the order their places say, bounded in number and
in time.

Who waits stands by `Place.order` (time of joining, unless the policy's queue says otherwise) as long as it is on time, and
behind all who are on time once it is late: a request that can no longer be served as wished must not make the next ones
late as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from pilothouse.core.request import Place, Request
from pilothouse.core.units import Micros, RequestId

Entry = tuple[int, int, Request]  # order, number, who; dead when the request is no longer in the room
SPARE = 64  # dead entries that a heap may hold beside as many as it has living ones


@dataclass(slots=True)
class Line:
    """Those who wait for one model."""

    count: int = 0
    on_time: list[Entry] = field(default_factory=list)  # heap
    late: list[Entry] = field(default_factory=list)  # heap


@dataclass(slots=True)
class Waiting:
    """The waiting room. A request that waits again (after a failed attempt) keeps its first deadline and place."""

    requests_max: int
    wait_us_max: Micros
    held_us_max: Micros  # of requests that could be served at once, if not well
    line: dict[RequestId, Request] = field(default_factory=dict)  # in order of joining
    lines: dict[str, Line] = field(default_factory=dict)  # model -> the same requests
    _deadlines: list[Entry] = field(default_factory=list)  # heap
    _number: int = 0

    def add(self, request: Request, now_us: Micros) -> bool:
        """False when the room is full or the request has waited long enough."""
        if request.waiting_until_us == 0:
            request.waiting_until_us = Micros(
                now_us + (self.held_us_max if request.held_for is not None else self.wait_us_max)
            )
        if len(self.line) >= self.requests_max or now_us >= request.waiting_until_us:
            return False
        if request.place is None:
            request.place = Place(now_us)
        self.join(request)
        return True

    def join(self, request: Request) -> None:
        """Stands in line, whatever the bounds say."""
        place = request.place
        assert place is not None
        if not place.number:
            place.number = self._number + 1
        self._number = max(self._number, place.number)
        self.line[request.arrived.request] = request
        line = self.lines.get(request.arrived.model)
        if line is None:
            line = self.lines[request.arrived.model] = Line()
        line.count += 1
        self._push(line.on_time, line.count, place.order, request)
        self._push(self._deadlines, len(self.line), request.waiting_until_us, request)

    def count_from(self, requests: Iterable[Request]) -> None:
        """Numbers that these were given once are not given again: some may come back and stand in line anew."""
        self._number = max((r.place.number for r in requests if r.place is not None), default=self._number)

    def remove(self, request_id: RequestId) -> None:
        request = self.line.pop(request_id, None)
        if request is None:
            return
        line = self.lines[request.arrived.model]
        line.count -= 1
        if not line.count:
            del self.lines[request.arrived.model]

    def first(self, model: str, now_us: Micros) -> Request | None:
        """Takes the first in line out of its order; it stays in the room until it is removed or stands again."""
        line = self.lines.get(model)
        if line is None:
            return None
        while line.on_time:
            request = heappop(line.on_time)[2]
            if self._lives(request):
                place = request.place
                assert place is not None
                if place.late_us is None or now_us <= place.late_us:
                    return request
                self._push(line.late, line.count, place.late_order, request)
        while line.late:
            request = heappop(line.late)[2]
            if self._lives(request):
                return request
        return None

    def hasten(self, request: Request, now_us: Micros) -> None:
        """It waited for an endpoint it could have had, and now there is none: from here on it waits as if for any."""
        until_us = Micros(now_us + self.wait_us_max)
        if until_us < request.waiting_until_us:
            request.waiting_until_us = until_us
            self._push(self._deadlines, len(self.line), until_us, request)

    def hasten_all(self, model: str, now_us: Micros) -> None:
        """Nobody serves the model at present."""
        for request in self.line.values():
            if request.arrived.model == model:
                self.hasten(request, now_us)

    def stand_again(self, request: Request) -> None:
        """It was taken out of its order and found nobody."""
        line, place = self.lines[request.arrived.model], request.place
        assert place is not None
        self._push(line.on_time, line.count, place.order, request)

    def expired(self, now_us: Micros) -> list[Request]:
        """Requests whose time is up, taken out of the room, the longest due first."""
        late = []
        while self._deadlines and (self._deadlines[0][0] <= now_us or not self._lives(self._deadlines[0][2])):
            request = heappop(self._deadlines)[2]
            if self._lives(request) and request.waiting_until_us <= now_us:
                late.append(request)
                self.remove(request.arrived.request)
        return late

    def next_deadline_us(self) -> Micros | None:
        while self._deadlines and not self._lives(self._deadlines[0][2]):
            heappop(self._deadlines)
        return Micros(self._deadlines[0][0]) if self._deadlines else None

    def _lives(self, request: Request) -> bool:
        return self.line.get(request.arrived.request) is request

    def _push(self, heap: list[Entry], living: int, order: int, request: Request) -> None:
        assert request.place is not None
        heappush(heap, (order, request.place.number, request))
        if len(heap) > 2 * living + SPARE:
            heap[:] = [entry for entry in heap if self._lives(entry[2])]
            heapify(heap)
