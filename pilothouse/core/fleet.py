"""The fleet as the dispatcher knows it: endpoints, their last reports, and the ledger of what is in flight on each.

The ledger is the primary signal of load. A request is charged the moment it is routed, before anything is awaited: its
uncached prompt tokens as prefill until the first token, itself and its whole prompt until its end. A request whose first
token cannot be seen (not streamed) gives its prefill back when the endpoint's learned prefill speed says it is done.
First tokens and ends are also what engines' speed is learned from (`speed.py`).
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from pilothouse.core.events import EndpointSeen, LoadReported, Role
from pilothouse.core.handover import Handover, apart, token_us
from pilothouse.core.request import Request
from pilothouse.core.sharing import Sharing, rest
from pilothouse.core.speed import PACE_WEIGHT, Lengths, Meter, Reading, Speed
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId

RATE_SAMPLE_TOKENS_MIN = 64  # shorter prefills tell more about overhead than about speed
RATE_WEIGHT = 0.2  # of a new sample in the moving average
OUTPUT_SAMPLE_MIN = 4  # shorter answers tell more about the network than about decoding
PACE_NOISE = 0.25  # paces this near to 1 are taken for noise: prefills and answers are not all alike
DRAFTED_KEPT = 20_000  # tokens that an acceptance looks back: a minute of an engine that drafts 300 a second
FIRST_STEPS = 1.5  # steps until a first token, beside the prefill itself: half of the one under way, and its own


@dataclass(slots=True)
class Endpoint:
    """One engine: who it is, what it said last, what we have on it."""

    seen: EndpointSeen
    models: frozenset[str]
    gone: bool = False  # left discovery; kept until its last request ends
    prefill_tokens: int = 0  # uncached prompt tokens dispatched and not yet computed
    prefill_squares: int = 0  # the same, each times the context before it
    held: int = 0  # requests that wait at the gateway for it
    held_tokens: int = 0  # uncached prompt tokens of those
    in_flight: int = 0  # our requests on it
    decoding: int = 0  # those of them whose first token was seen, or should be there by estimate
    context_tokens: int = 0  # prompt tokens of our requests on it, cached or not
    kv_rest_tokens: int | None = None  # KV in use by its last report that ours being decoded do not account for
    pace: float = 1.0  # how many times slower than its pool it is
    meter: Meter = field(default_factory=Meter)
    sharing: Sharing = field(default_factory=Sharing)
    distinct_tokens: int = 0  # the same with beginnings that several of them share counted once, as far as is known
    cold_turn: int = -1  # the decision that last gave it a prompt of which no candidate held a block; -1 = never
    others: int = 0  # requests on it that are not ours, by its last report
    report: LoadReported | None = None
    drafted_tokens: float = 0.0  # by its speculation: lately, in its reports
    accepted_tokens: float = 0.0  # of those
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

    @property
    def slowness(self) -> float:
        """Its pace, if that is more than noise."""
        return self.pace if abs(self.pace - 1.0) > PACE_NOISE else 1.0

    @property
    def acceptance(self) -> float | None:
        """Share of drafted tokens that it has accepted lately; None = it has drafted none."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None

    @property
    def kv_tokens(self) -> int:
        """KV capacity; 0 = unknown."""
        return self.seen.kv_blocks * self.seen.block_size

    @property
    def kv_used_tokens(self) -> int:
        """KV that running requests use: by the last report, and what has come and gone of ours since."""
        return max(0, (self.kv_rest_tokens or 0) + self.distinct_tokens - self.prefill_tokens)


@dataclass(slots=True)
class Fleet:
    """All endpoints in registration order, and the charges on them."""

    stale_us: Micros = Micros(10 * SECOND)  # a report older than this says nothing
    learning: bool = True  # speeds and lengths
    endpoints: dict[EndpointId, Endpoint] = field(default_factory=dict)
    releases: list[tuple[Micros, RequestId, int]] = field(default_factory=list)  # heap: (estimated end, whose, attempt)
    speeds: dict[str, Speed] = field(default_factory=dict)  # pool -> what its engines taught
    lengths: Lengths = field(default_factory=Lengths)
    handovers: dict[str, Handover] = field(
        default_factory=dict
    )  # "prefill pool > decode pool" -> what first tokens taught
    _serving: dict[str, list[Endpoint]] = field(default_factory=dict)  # model -> endpoints that are up; a cache
    _prefilling: dict[str, list[Endpoint]] = field(default_factory=dict)  # the same of prefill pools
    _pools: dict[str, bool] = field(default_factory=dict)  # model -> it has prefill endpoints, up or not

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
        self._prefilling.clear()
        self._pools.clear()

    def lacks(self, model: str) -> bool:
        """There are endpoints, and none of them lists the model, up or not."""
        there = [e for e in self.endpoints.values() if not e.gone]
        return bool(there) and not any(model in e.models for e in there)

    def serving(self, model: str) -> list[Endpoint]:
        """Endpoints that answer for the model and are up, in registration order."""
        found = self._serving.get(model)
        if found is None:
            found = self._up(model, prefill=False)
            if found:  # an unknown model must not fill the cache
                self._serving[model] = found
        return found

    def prefilling(self, model: str) -> list[Endpoint]:
        """Endpoints that compute prompts of the model for others and are up, in registration order."""
        found = self._prefilling.get(model)
        if found is None:
            found = self._up(model, prefill=True)
            if self.serving(model):
                self._prefilling[model] = found
        return found

    def has_prefill_pool(self, model: str) -> bool:
        """Whether there are prefill endpoints for the model, up or not."""
        found = self._pools.get(model)
        if found is None:
            there = self.endpoints.values()
            found = any(e.seen.role is Role.PREFILL and model in e.models and not e.gone for e in there)
            if self.serving(model):
                self._pools[model] = found
        return found

    def _up(self, model: str, *, prefill: bool) -> list[Endpoint]:
        up = [e for e in self.endpoints.values() if model in e.models and not e.gone and not e.ejected]
        return [e for e in up if (e.seen.role is Role.PREFILL) == prefill]

    def report(self, report: LoadReported) -> None:
        endpoint = self.endpoints.get(report.endpoint)
        if endpoint:
            endpoint.report = report
            decoded = endpoint.distinct_tokens - endpoint.prefill_tokens
            endpoint.kv_rest_tokens = int(report.kv_used_ratio * endpoint.kv_tokens) - decoded
            endpoint.others = max(0, report.running + report.waiting - endpoint.in_flight)
            if report.drafted_tokens:
                fade = DRAFTED_KEPT / (DRAFTED_KEPT + report.drafted_tokens)
                endpoint.drafted_tokens = fade * endpoint.drafted_tokens + report.drafted_tokens
                endpoint.accepted_tokens = fade * endpoint.accepted_tokens + report.accepted_tokens

    def fresh_reports(self, endpoints: list[Endpoint], now_us: Micros) -> list[LoadReported | None]:
        """The last report of each, unless it is too old to be trusted."""
        oldest_us = now_us - self.stale_us
        reports = [endpoint.report for endpoint in endpoints]
        return [report if report is not None and report.at_us >= oldest_us else None for report in reports]

    # The ledger

    def hold(self, request: Request, endpoint: Endpoint, uncached_tokens: int) -> None:
        """It waits at the gateway for that endpoint: the next ones had better know."""
        request.held_for, request.held_tokens = endpoint.id, uncached_tokens
        endpoint.held += 1
        endpoint.held_tokens += uncached_tokens

    def let_go(self, request: Request) -> None:
        """It is routed, decided anew, or gone."""
        if request.held_for is not None:
            endpoint = self.endpoints.get(request.held_for)
            if endpoint is not None:
                endpoint.held -= 1
                endpoint.held_tokens -= request.held_tokens
            request.held_for, request.held_tokens = None, 0

    def charge(self, request: Request, endpoint: Endpoint, uncached_tokens: int, now_us: Micros) -> None:
        request.endpoint, request.routed_at_us = endpoint.id, now_us
        request.uncached_tokens, request.prefilling = uncached_tokens, True
        prompt = request.arrived.prompt_tokens
        request.squares = uncached_tokens * (2 * prompt - uncached_tokens) // 2
        meter(endpoint, now_us)
        endpoint.prefill_tokens += uncached_tokens
        endpoint.prefill_squares += request.squares
        endpoint.context_tokens += prompt
        blocks, size = request.arrived.blocks, request.arrived.block_size
        endpoint.distinct_tokens += endpoint.sharing.add(blocks, size) + rest(prompt, blocks, size)
        endpoint.in_flight += 1
        request.ahead_tokens, request.ahead_squares = endpoint.prefill_tokens, endpoint.prefill_squares
        if not request.arrived.stream and endpoint.prefill_rate > 0 and request.step is None:
            end_us = now_us + int(endpoint.prefill_tokens / endpoint.prefill_rate)
            heappush(self.releases, (Micros(end_us), request.arrived.request, request.attempt))

    def prefilled(self, request: Request, now_us: Micros, *, seen: bool) -> None:
        """The prefill is over: `seen` by its first token (then its speed is learned), or by estimate."""
        endpoint = self._endpoint_of(request)
        if endpoint is None or not request.prefilling:
            return
        if seen and now_us > request.routed_at_us:
            self._learn_prefill(request, endpoint, now_us)
        meter(endpoint, now_us)
        request.prefilling = False
        endpoint.prefill_tokens -= request.uncached_tokens
        endpoint.prefill_squares -= request.squares
        endpoint.decoding += 1
        done = endpoint.meter
        done.tokens += request.uncached_tokens
        done.squares += request.squares
        if seen:
            request.reading = Reading(now_us, done.decoding_us, done.context_us, done.tokens, done.squares)

    def release(self, request: Request, now_us: Micros, output_tokens: int | None = None) -> Endpoint | None:
        """The attempt is over, well or badly: nothing of it stays on the endpoint. `output_tokens` of a whole answer."""
        endpoint = self._endpoint_of(request)
        if endpoint is None:
            return None
        if request.prefilling:
            self.prefilled(request, now_us, seen=False)
        meter(endpoint, now_us)
        if endpoint.report is not None and endpoint.report.at_us < now_us - self.stale_us:
            endpoint.kv_rest_tokens = None
        if output_tokens is not None:
            if endpoint.kv_rest_tokens is not None:  # its answer was in the report, or would be in the next one
                endpoint.kv_rest_tokens -= output_tokens
            self._learn_decode(request, endpoint, output_tokens)
        endpoint.in_flight -= 1
        endpoint.decoding -= 1
        prompt, blocks, size = request.arrived.prompt_tokens, request.arrived.blocks, request.arrived.block_size
        endpoint.context_tokens -= prompt
        endpoint.distinct_tokens -= endpoint.sharing.remove(blocks, size) + rest(prompt, blocks, size)
        request.endpoint, request.reading = None, None
        if endpoint.gone:
            self._forget_if_idle(endpoint)
        return endpoint

    def speed(self, endpoint: Endpoint) -> Speed:
        found = self.speeds.get(endpoint.seen.pool)
        if found is None:
            found = self.speeds[endpoint.seen.pool] = Speed()
        return found

    def handover(self, prefill: Endpoint, decode: Endpoint) -> Handover:
        one, other = prefill.seen, decode.seen
        pair = f"{one.pool} > {other.pool}"
        found = self.handovers.get(pair)
        if found is None:
            labels = apart(one.labels, other.labels)
            found = self.handovers[pair] = Handover(token_us(other.kv_token_bytes, labels))
        return found

    def _learn_prefill(self, request: Request, endpoint: Endpoint, now_us: Micros) -> None:
        if request.loads:
            return
        if request.step is not None:  # this one computed nothing
            source = self.endpoints.get(request.handed_by) if request.handed_by is not None else None
            if source is not None and request.handed_at_us and now_us > request.handed_at_us:
                self.handover(source, endpoint).learn(request.handed_tokens, now_us - request.handed_at_us)
            return
        took_us = now_us - request.routed_at_us
        if request.uncached_tokens >= RATE_SAMPLE_TOKENS_MIN:
            rate = request.ahead_tokens / took_us
            old = endpoint.prefill_rate
            endpoint.prefill_rate = rate if old == 0 else old + RATE_WEIGHT * (rate - old)
        if not self.learning:
            return
        batch = FIRST_STEPS * endpoint.decoding, FIRST_STEPS * endpoint.distinct_tokens
        features = (FIRST_STEPS, *batch, float(request.ahead_tokens), float(request.ahead_squares))
        self.speed(endpoint).learn(features, float(took_us))

    def _learn_decode(self, request: Request, endpoint: Endpoint, output_tokens: int) -> None:
        if not self.learning:
            return
        self.lengths.learn(request.arrived.model, output_tokens)
        began, now = request.reading, endpoint.meter
        if began is None or output_tokens < OUTPUT_SAMPLE_MIN or now.at_us <= began.at_us:
            return
        took_us, steps = now.at_us - began.at_us, output_tokens - 1
        requests = (now.decoding_us - began.decoding_us) / took_us
        context = (now.context_us - began.context_us) / took_us
        prefilled = (now.tokens - began.tokens) / steps, (now.squares - began.squares) / steps
        ratio = self.speed(endpoint).learn((1.0, requests, context, *prefilled), took_us / steps)
        endpoint.pace += PACE_WEIGHT * (ratio - endpoint.pace)

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


def meter(endpoint: Endpoint, now_us: Micros) -> None:
    """Adds up what the endpoint has been doing since this was last asked."""
    done = endpoint.meter
    span_us = now_us - done.at_us
    if span_us:
        done.decoding_us += endpoint.decoding * span_us
        done.context_us += endpoint.distinct_tokens * span_us
        done.at_us = now_us
