"""The fleet as the dispatcher knows it: endpoints, their last reports, and the ledger of what is in flight on each.

The ledger is the primary signal of load. A request is charged the moment it is routed, before anything is awaited: its
uncached prompt tokens as prefill until the first token, itself and its whole prompt until its end. A request whose first
token cannot be seen (not streamed) gives its prefill back when the endpoint's learned prefill speed says it is done.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from pilothouse.core.events import EndpointSeen, LoadReported
from pilothouse.core.request import Request
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId

RATE_SAMPLE_TOKENS_MIN = 64  # shorter prefills tell more about overhead than about speed
RATE_WEIGHT = 0.2  # of a new sample in the moving average


@dataclass(slots=True)
class Endpoint:
    """One engine: who it is, what it said last, what we have on it."""

    seen: EndpointSeen
    models: frozenset[str]
    gone: bool = False  # left discovery; kept until its last request ends
    prefill_tokens: int = 0  # uncached prompt tokens dispatched and not yet computed
    in_flight: int = 0  # our requests on it
    decoding: int = 0  # those of them whose first token was seen, or should be there by estimate
    context_tokens: int = 0  # prompt tokens of our requests on it, cached or not
    cold_turn: int = -1  # the decision that last gave it a prompt of which no candidate held a block; -1 = never
    others: int = 0  # requests on it that are not ours, by its last report
    report: LoadReported | None = None
    prefill_rate: float = 0.0  # learned [uncached tokens per microsecond]; 0 = unknown
    failures: int = 0  # in a row
    ejected: bool = False
    probe_failures: int = 0  # in a row
    retry_at_us: Micros = Micros(0)  # an ejected endpoint is not taken back before this, even if a probe succeeds
    ejections: int = 0  # in a row: the back-off grows with them
    room: int | None = None  # in-flight limit learned from a refusal; it grows again with time
    room_grows_at_us: Micros = Micros(0)

    @property
    def id(self) -> EndpointId:
        return self.seen.endpoint


@dataclass(slots=True)
class Fleet:
    """All endpoints in registration order, and the charges on them."""

    stale_us: Micros = Micros(10 * SECOND)  # a report older than this says nothing
    endpoints: dict[EndpointId, Endpoint] = field(default_factory=dict)
    releases: list[tuple[Micros, RequestId, int]] = field(default_factory=list)  # heap: (estimated end, whose, attempt)
    _serving: dict[str, list[Endpoint]] = field(default_factory=dict)  # model -> endpoints that are up; a cache

    def see(self, seen: EndpointSeen) -> Endpoint:
        """Add an endpoint, or replace what is known of it; the ledger stays."""
        endpoint = self.endpoints.get(seen.endpoint)
        if endpoint is None:
            endpoint = self.endpoints[seen.endpoint] = Endpoint(seen, frozenset(seen.models))
        else:
            endpoint.seen, endpoint.models, endpoint.gone = seen, frozenset(seen.models), False
        self.changed()
        return endpoint

    def lose(self, endpoint_id: EndpointId) -> None:
        """The endpoint gets nothing new; it is forgotten once its last request has ended."""
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint:
            endpoint.gone = True
            self._forget_if_idle(endpoint)
            self.changed()

    def changed(self) -> None:
        """Membership, health or models changed: the per-model lists are built anew on demand."""
        self._serving.clear()

    def lacks(self, model: str) -> bool:
        """There are endpoints, and none of them lists the model, up or not."""
        there = [e for e in self.endpoints.values() if not e.gone]
        return bool(there) and not any(model in e.models for e in there)

    def serving(self, model: str) -> list[Endpoint]:
        """Endpoints that list the model and are up, in registration order."""
        found = self._serving.get(model)
        if found is None:
            found = [e for e in self.endpoints.values() if model in e.models and not e.gone and not e.ejected]
            if found:  # an unknown model must not fill the cache
                self._serving[model] = found
        return found

    def report(self, report: LoadReported) -> None:
        endpoint = self.endpoints.get(report.endpoint)
        if endpoint:
            endpoint.report = report
            endpoint.others = max(0, report.running + report.waiting - endpoint.in_flight)

    def fresh_reports(self, endpoints: list[Endpoint], now_us: Micros) -> list[LoadReported | None]:
        """The last report of each, unless it is too old to be trusted."""
        oldest_us = now_us - self.stale_us
        reports = [endpoint.report for endpoint in endpoints]
        return [report if report is not None and report.at_us >= oldest_us else None for report in reports]

    # The ledger

    def charge(self, request: Request, endpoint: Endpoint, uncached_tokens: int, now_us: Micros) -> None:
        request.endpoint, request.routed_at_us = endpoint.id, now_us
        request.uncached_tokens, request.prefilling = uncached_tokens, True
        endpoint.prefill_tokens += uncached_tokens
        endpoint.context_tokens += request.arrived.prompt_tokens
        endpoint.in_flight += 1
        request.ahead_tokens = endpoint.prefill_tokens
        if not request.arrived.stream and endpoint.prefill_rate > 0:
            end_us = now_us + int(endpoint.prefill_tokens / endpoint.prefill_rate)
            heappush(self.releases, (Micros(end_us), request.arrived.request, request.attempt))

    def prefilled(self, request: Request, now_us: Micros, *, seen: bool) -> None:
        """The prefill is over: `seen` by its first token (then its speed is learned), or by estimate."""
        endpoint = self._endpoint_of(request)
        if endpoint is None or not request.prefilling:
            return
        request.prefilling = False
        endpoint.prefill_tokens -= request.uncached_tokens
        endpoint.decoding += 1
        if seen and request.uncached_tokens >= RATE_SAMPLE_TOKENS_MIN and now_us > request.routed_at_us:
            rate = request.ahead_tokens / (now_us - request.routed_at_us)
            old = endpoint.prefill_rate
            endpoint.prefill_rate = rate if old == 0 else old + RATE_WEIGHT * (rate - old)

    def release(self, request: Request, now_us: Micros) -> Endpoint | None:
        """The attempt is over, well or badly: nothing of it stays on the endpoint."""
        endpoint = self._endpoint_of(request)
        if endpoint is None:
            return None
        if request.prefilling:
            self.prefilled(request, now_us, seen=False)
        endpoint.in_flight -= 1
        endpoint.decoding -= 1
        endpoint.context_tokens -= request.arrived.prompt_tokens
        request.endpoint = None
        if endpoint.gone:
            self._forget_if_idle(endpoint)
        return endpoint

    def due(self, now_us: Micros) -> list[tuple[RequestId, int]]:
        """Requests, and which attempt of theirs, whose unseen prefill should be over by now."""
        ready = []
        while self.releases and self.releases[0][0] <= now_us:
            _, request, attempt = heappop(self.releases)
            ready.append((request, attempt))
        return ready

    def _endpoint_of(self, request: Request) -> Endpoint | None:
        return self.endpoints.get(request.endpoint) if request.endpoint is not None else None

    def _forget_if_idle(self, endpoint: Endpoint) -> None:
        if endpoint.gone and endpoint.in_flight == 0:
            self.endpoints.pop(endpoint.id, None)
