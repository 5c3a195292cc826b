"""Events in, commands out: the only writer of the dispatcher's state. Read this first.

A request arrives, is routed to the endpoint its profile chooses (or waits, or is refused), reports its first token, and
ends. An attempt that failed before a byte reached the client is routed again, within the retry budget. Everything a
decision uses lies in the parts: `fleet` (endpoints and ledger), `index` (KV blocks), `waiting`, `sessions`, `retries`.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from pilothouse.core import events, snapshot
from pilothouse.core.choosing import Chooser, Plan
from pilothouse.core.commands import Abort, AnyCommand, Reject, RejectReason, Route
from pilothouse.core.events import FailureKind
from pilothouse.core.fleet import Endpoint, Fleet
from pilothouse.core.health import Health, HealthSettings
from pilothouse.core.kvindex import KvIndex
from pilothouse.core.policy import Known, Queue
from pilothouse.core.request import Request
from pilothouse.core.retries import RetryBudget
from pilothouse.core.selection import Choice, Profile
from pilothouse.core.sessions import Sessions
from pilothouse.core.steps import Steps
from pilothouse.core.units import SECOND, Micros, RequestId
from pilothouse.core.waiting import Waiting


class DispatcherSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the decision; all of it is part of the journal, so a replay uses the same."""

    seed: int = 0
    attempts_max: int = 4  # per request, the first one included
    deaths_max: int = 3  # engines that may close the connection on one request before it is suspected and refused
    retry_ratio: float = 0.2  # retries earned per arrival
    retries_per_second: float = 10.0  # retries earned by time
    retries_burst: float = 200.0  # most retries saved up
    waiting_max: int = 1024  # requests without an endpoint that may wait
    wait_us_max: Micros = Micros(30 * SECOND)  # for any endpoint
    held_us_max: Micros = Micros(600 * SECOND)  # for one with little to do: as long as it might wait inside an engine
    sessions_max: int = 100_000  # conversations remembered
    index_blocks_max: int = 20_000_000  # KV blocks remembered
    report_stale_us: Micros = Micros(10 * SECOND)
    why_max: int = 16  # candidates listed in a receipt; 0 = receipts of which nobody will ask for details
    declared: tuple[str, ...] = ()  # models that the fleet is said to serve: requests wait for their first engine
    strict: bool = False  # a policy's bug raises instead of falling back to least requests
    health: HealthSettings = HealthSettings()


class Dispatcher:
    """The decision. `handle` is synchronous, so each decision is atomic without a lock."""

    def __init__(self, settings: DispatcherSettings, profile: Profile) -> None:
        self.settings, self.profile = settings, profile
        self.fleet = Fleet(settings.report_stale_us, profile.uses_speeds)
        self.index = KvIndex(settings.index_blocks_max)
        self.steps = Steps(self.fleet, self.index)
        self.health = Health(self.fleet, settings.health)
        self.waiting = Waiting(settings.waiting_max, settings.wait_us_max, settings.held_us_max)
        self.sessions = Sessions(settings.sessions_max)
        self.retries = RetryBudget(settings.retry_ratio, settings.retries_per_second, settings.retries_burst)
        self.requests: dict[RequestId, Request] = {}  # in flight and waiting
        self.now_us = Micros(0)
        self.turns: dict[str, int] = {}  # model -> decisions made: rotates ties among the engines of each model
        self.decisions = 0  # of all models
        self.chooser = Chooser(
            profile, self.fleet, self.index, self.sessions, settings.seed, settings.why_max, settings.strict
        )
        self._handlers: dict[type[events.Event], Callable[[Any], list[AnyCommand]]] = {
            events.EndpointSeen: self._endpoint_seen,
            events.EndpointGone: self._endpoint_gone,
            events.Probed: self._probed,
            events.LoadReported: self._load_reported,
            events.BlocksStored: self._blocks_stored,
            events.BlocksRemoved: self._blocks_removed,
            events.BlocksCleared: self._blocks_cleared,
            events.Arrived: self._arrived,
            events.PrefillDone: self._prefill_done,
            events.FirstToken: self._first_token,
            events.Finished: self._finished,
            events.Failed: self._failed,
            events.Cancelled: self._cancelled,
            events.Tick: self._tick,
        }

    def handle(self, event: events.AnyEvent) -> list[AnyCommand]:
        """Takes one event and returns what to do. `event.at_us` never goes back."""
        assert event.at_us >= self.now_us, f"time went back from {self.now_us} to {event.at_us}"
        self.now_us = event.at_us
        if self.fleet.releases:
            self._release_prefills()
        self.index.expire(event.at_us)
        return self._handlers[type(event)](event)

    def next_wake_us(self) -> Micros | None:
        """When a `Tick` is due at the latest; None if nothing is pending."""
        if not self.waiting.line:
            return self.index.next_expiry_us()
        full = [e for e in self.fleet.endpoints.values() if e.room is not None]
        times = [self.health.next_growth_us(e, self.now_us) for e in full]
        times.append(Micros(self.now_us + SECOND))  # the retry budget refills by time
        times += [t for t in (self.waiting.next_deadline_us(), self.index.next_expiry_us()) if t is not None]
        return min(times)

    @property
    def policy_failures(self) -> int:
        """Choices that least requests made, because a policy failed."""
        return self.chooser.failures

    def snapshot(self) -> bytes:
        """The whole state; `restore` on a new dispatcher of the same settings and profile continues from there."""
        return snapshot.save(self)

    def restore(self, data: bytes) -> None:
        snapshot.restore(self, data)

    # Endpoints

    def _endpoint_seen(self, event: events.EndpointSeen) -> list[AnyCommand]:
        self.fleet.see(event)
        self.index.see(event)
        return self._drain()

    def _endpoint_gone(self, event: events.EndpointGone) -> list[AnyCommand]:
        self.fleet.lose(event.endpoint)
        self.index.remove(event.endpoint)
        return []

    def _probed(self, event: events.Probed) -> list[AnyCommand]:
        endpoint = self.fleet.endpoints.get(event.endpoint)
        if endpoint is None:
            return []
        was_ejected = endpoint.ejected
        if self.health.probed(endpoint, event.ok, event.at_us):
            return self._abort_all(endpoint)
        return self._drain() if was_ejected and not endpoint.ejected else []  # that one is well is news only then

    def _abort_all(self, endpoint: Endpoint) -> list[AnyCommand]:
        """An endpoint that stopped answering holds requests that another could serve."""
        held = [r for r in self.requests.values() if endpoint.id in (r.endpoint, r.step and r.step.endpoint)]
        lost = [r for r in held if r.prefilling or not r.arrived.stream]
        return [Abort(r.arrived.request, endpoint.id) for r in lost]

    def _load_reported(self, event: events.LoadReported) -> list[AnyCommand]:
        self.fleet.report(event)
        return self._drain() if self.waiting.lines else []

    def _blocks_stored(self, event: events.BlocksStored) -> list[AnyCommand]:
        self.index.stored(event.endpoint, event.blocks, event.tier)
        return []

    def _blocks_removed(self, event: events.BlocksRemoved) -> list[AnyCommand]:
        self.index.removed(event.endpoint, event.blocks, event.tier)
        return []

    def _blocks_cleared(self, event: events.BlocksCleared) -> list[AnyCommand]:
        self.index.cleared(event.endpoint)
        return []

    # Requests

    def _arrived(self, event: events.Arrived) -> list[AnyCommand]:
        assert event.request not in self.requests, f"request {event.request} arrived twice"
        self.retries.arrival()
        unknown = not self.fleet.serving(event.model) and self.fleet.lacks(event.model)
        if unknown and event.model not in self.settings.declared:
            return [Reject(event.request, RejectReason.UNKNOWN_MODEL)]
        pinned = self.fleet.endpoints.get(event.pinned) if event.pinned is not None else None
        if event.pinned is not None and (pinned is None or pinned.gone or event.model not in pinned.models):
            return [Reject(event.request, RejectReason.PINNED_GONE)]
        request = self.requests[event.request] = Request(event)
        return self._route_or_wait(request, RejectReason.TOO_MANY_WAITING)

    def _first_token(self, event: events.FirstToken) -> list[AnyCommand]:
        request = self.requests[event.request]
        self.fleet.prefilled(request, event.at_us, seen=True)
        self.index.prefilled(event.request, event.at_us)
        return self._drain() if self.waiting.lines else []

    def _prefill_done(self, event: events.PrefillDone) -> list[AnyCommand]:
        endpoint = self.steps.done(self.requests[event.request], event.at_us)
        if endpoint:
            self.health.succeeded(endpoint)
        return self._drain() if self.waiting.lines else []

    def _finished(self, event: events.Finished) -> list[AnyCommand]:
        request = self.requests.pop(event.request)
        self.steps.drop(request, event.at_us)
        self.index.ended(event.request, event.at_us, computed=True)
        endpoint = self.fleet.release(request, event.at_us, event.output_tokens)
        if endpoint:
            self.health.succeeded(endpoint)
        return self._drain()

    def _cancelled(self, event: events.Cancelled) -> list[AnyCommand]:
        request = self.requests.pop(event.request)
        self.waiting.remove(event.request)
        self.fleet.let_go(request)
        self.steps.drop(request, event.at_us)
        self.index.ended(event.request, event.at_us, computed=not request.prefilling)
        self.fleet.release(request, event.at_us)
        return self._drain()

    def _failed(self, event: events.Failed) -> list[AnyCommand]:
        request = self.requests[event.request]
        step_endpoint = self.steps.drop(request, event.at_us)
        self.index.ended(event.request, event.at_us, computed=event.sent)
        endpoint = self.fleet.release(request, event.at_us)
        if event.prefill:
            endpoint = step_endpoint
        if endpoint:
            if event.kind is not FailureKind.EXPIRED:  # that one was busy is no fault
                self.health.failed(endpoint, event.kind, event.at_us)
            if event.kind is not FailureKind.BUSY:
                request.tried.append(endpoint.id)
        request.busy = event.kind is FailureKind.BUSY
        request.deaths += event.kind is FailureKind.CLOSED
        if event.sent:
            del self.requests[event.request]
            return self._drain()
        return self._retry(request) + self._drain()

    def _retry(self, request: Request) -> list[AnyCommand]:
        """Another attempt, if the request is not to blame and the fleet can bear it; a full queue costs no attempt."""
        tired = len(request.tried) >= self.settings.attempts_max and not request.busy
        if tired or request.deaths >= self.settings.deaths_max:
            return self._reject(request, RejectReason.RETRIES_EXHAUSTED)
        request.unpaid = not request.busy and not self.retries.take(self.now_us)
        if request.unpaid:
            return self._wait(request, RejectReason.RETRIES_EXHAUSTED)
        return self._route_or_wait(request, RejectReason.RETRIES_EXHAUSTED)

    # Time

    def _tick(self, event: events.Tick) -> list[AnyCommand]:
        refused: list[AnyCommand] = []
        for request in self.waiting.expired(event.at_us):
            up = self.fleet.serving(request.arrived.model)
            reason = RejectReason.BUSY if up else RejectReason.NO_ENDPOINT  # those that are up had no room
            if up and request.no_prefill:
                reason = RejectReason.NO_PREFILL
            refused += self._reject(request, RejectReason.RETRIES_EXHAUSTED if request.unpaid else reason)
        return refused + self._drain()

    def _release_prefills(self) -> None:
        for request_id, attempt in self.fleet.due(self.now_us):
            request = self.requests.get(request_id)
            if request and request.attempt == attempt:
                self.fleet.prefilled(request, self.now_us, seen=False)

    # The choice

    def _route_or_wait(self, request: Request, refusal: RejectReason) -> list[AnyCommand]:
        route = self._route(request)
        return self._wait(request, refusal) if route is None else [route]

    def _wait(self, request: Request, refusal: RejectReason) -> list[AnyCommand]:
        if request.place is None and self.profile.queue is not None:
            serving = self.fleet.serving(request.arrived.model)
            if serving:
                request.place = self.profile.queue.place(request.arrived, self._known(request, serving))
        if self.waiting.add(request, self.now_us):
            return []
        return self._reject(request, refusal)

    def _reject(self, request: Request, reason: RejectReason) -> list[AnyCommand]:
        del self.requests[request.arrived.request]
        self.fleet.let_go(request)
        return [Reject(request.arrived.request, RejectReason.BUSY if request.busy else reason, SECOND)]

    def _drain(self) -> list[AnyCommand]:
        """Routes whoever waits and can be routed now, in the order of each model's line."""
        routes: list[AnyCommand] = []
        for model in list(self.waiting.lines):
            routes += self._drain_line(model)
        return routes

    def _drain_line(self, model: str) -> list[AnyCommand]:
        """Until so many have found nobody that the others need not ask."""
        queue, serving = self.profile.queue, self.fleet.serving(model)
        if not serving:
            self.waiting.hasten_all(model, self.now_us)
            return []
        if queue is not None and all(not queue.admits(e, 0, 0) for e in serving):
            return []
        routes: list[AnyCommand] = []
        stuck: list[Request] = []
        misses_left = 1 if queue is None else queue.looks
        while misses_left and (request := self.waiting.first(model, self.now_us)):
            if request.unpaid and not self.retries.take(self.now_us):
                stuck.append(request)
                continue
            request.unpaid = False
            route = None if self._is_stuck(request) else self._route(request)
            if route is not None:
                self.waiting.remove(request.arrived.request)
                routes.append(route)
                continue
            stuck.append(request)
            if request.held_for is None:
                self.waiting.hasten(request, self.now_us)
            misses_left -= request.arrived.pinned is None
        for request in stuck:
            self.waiting.stand_again(request)
        return routes

    def _is_stuck(self, request: Request) -> bool:
        """It is held for a prefill endpoint and none has room for it yet: a look that is cheaper than a new choice."""
        queue, held = self.profile.queue, self.fleet.endpoints.get(request.held_for) if request.held_for else None
        if queue is None or held is None or held.seen.role is not events.Role.PREFILL:
            return False
        prefill = self.fleet.prefilling(request.arrived.model)
        return bool(prefill) and not any(queue.admits(e, request.held_tokens, 0) for e in prefill)

    def _route(self, request: Request) -> Route | None:
        """Chooses who serves it, whole or split, and charges them. None if there is nobody, or it had better wait."""
        arrived = request.arrived
        self.fleet.let_go(request)
        left_out: dict[str, int] = {}
        plan = self._plan(request, left_out)
        if plan is None or not self._admitted(request, plan):
            return None
        self.turns[arrived.model] = self.turns.get(arrived.model, 0) + 1
        request.attempt += 1
        choice, endpoint = plan.choice, plan.choice.endpoint
        if choice.cold:
            endpoint.cold_turn = self.decisions
        self.decisions += 1
        step = self.steps.begin(request, plan, self.now_us)
        computed, request.loads = choice.uncached_tokens if step is None else 0, choice.load_us > 0
        self.fleet.charge(request, endpoint, computed, self.now_us)
        self.index.routed(arrived.request, endpoint.id, arrived.blocks, self.now_us, arrived.block_size)
        self.sessions.routed(arrived.session, endpoint.id)
        seen, why = endpoint.seen, choice.why
        if request.place is not None:
            waited = f"waited {(self.now_us - arrived.at_us) // 1000} ms at the gateway"
            why = msgspec.structs.replace(why, note=f"{why.note}; {waited}" if why.note else waited)
        if plan.split is not None:
            why = msgspec.structs.replace(why, split=plan.split)
        return Route(arrived.request, seen.endpoint, seen.url, request.attempt, choice.cached_tokens, why, step)

    def _plan(self, request: Request, left_out: dict[str, int]) -> Plan | None:
        """Who serves it, and who computes its prompt. None if there is nobody."""
        model, decider = request.arrived.model, self.profile.decider
        candidates = self._candidates(request, self.fleet.serving(model), left_out)
        request.no_prefill = False
        if not candidates:
            return None
        known = self._known(request, candidates)
        whole = self.chooser.choose(request.arrived, known, left_out)
        if whole is None or decider is None or not self.fleet.has_prefill_pool(model):
            return None if whole is None else Plan(whole)
        prefill = self._candidates(request, self.fleet.prefilling(model), {})
        plan = self.chooser.plan(request, known, whole, prefill, left_out)
        request.no_prefill = decider.required and plan.prefill is None and self.chooser.is_splittable(request)
        return None if request.no_prefill else plan

    def _admitted(self, request: Request, plan: Plan) -> bool:
        """Whether it is sent now. If not, it is held for who has enough to do."""
        queue = self.profile.queue
        if queue is None:
            return True
        parts = [(plan.choice, plan.choice.uncached_tokens if plan.prefill is None else 0)]
        if plan.prefill is not None:
            parts.insert(0, (plan.prefill, plan.prefill.uncached_tokens))
        for choice, uncached_tokens in parts:
            if not self._admits(queue, request.arrived, choice, uncached_tokens):
                self.fleet.hold(request, choice.endpoint, uncached_tokens)
                return False
        return True

    def _admits(self, queue: Queue, arrived: events.Arrived, choice: Choice, uncached_tokens: int) -> bool:
        blocks, size, fresh = arrived.blocks, arrived.block_size, arrived.prompt_tokens
        if choice.cached_tokens and size:
            fresh -= choice.endpoint.sharing.shared(blocks, choice.cached_tokens // size, size)
        return queue.admits(choice.endpoint, uncached_tokens, fresh)

    def _candidates(self, request: Request, up: list[Endpoint], left_out: dict[str, int]) -> list[Endpoint]:
        """Of endpoints that are up, those that have room and did not fail this request before."""
        now_us, pinned = self.now_us, request.arrived.pinned
        fit = [e for e in up if e.room is None or self.health.has_room(e, now_us)]
        if len(fit) < len(up):
            left_out["full"] = len(up) - len(fit)
        if not request.tried and pinned is None:
            return fit
        if pinned is not None:
            return [e for e in fit if e.id == pinned]
        fresh = [e for e in fit if e.id not in request.tried]
        if fresh and len(fresh) < len(fit):
            left_out["failed_before"] = len(fit) - len(fresh)
        return fresh or fit

    def _known(self, request: Request, candidates: list[Endpoint]) -> Known:
        turn = self.turns.get(request.arrived.model, 0)
        return self.chooser.known(request.arrived, candidates, self.now_us, turn)
