"""What holds for every legal sequence of events, whatever the engines do."""

from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pilothouse.config.policy import profile
from pilothouse.core.commands import Abort, AnyCommand, Reject, Route
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import AnyEvent, BlocksCleared, BlocksRemoved, FailureKind, Role
from pilothouse.core.health import HealthSettings
from pilothouse.core.selection import Profile
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from tests.core import worlds
from tests.core.worlds import NOW, World

ENDPOINTS, MODELS = ["a", "b", "c", "d"], ["m", "n"]
ROLES = {"a": Role.BOTH, "b": Role.PREFILL, "c": Role.DECODE, "d": Role.PREFILL}  # in a fleet that splits
names = st.sampled_from(ENDPOINTS)
prompts = st.builds("{}:{}".format, st.sampled_from("pqr"), st.integers(0, 12))
POLICIES: list[object] = [
    "marginal_cost",
    "cache_and_load",
    "least_requests",
    "session_affinity",
    "random",
    {"filters": ["kv_headroom"], "scorers": ["queue_depth", "kv_free", {"type": "prefix_cache", "weight": 2}]},
    {
        "filters": [{"type": "in_flight_limit", "requests_max": 2}],
        "scorers": ["prefix_cache"],
        "picker": "power_of_two",
    },
    {"scorers": ["cache_and_load", "session"], "picker": "weighted_random"},
    {"like": "marginal_cost", "decider": "always"},
    {"like": "cache_and_load", "decider": {"type": "always", "fallback": "error"}},
]
limits = st.builds(
    DispatcherSettings,
    seed=st.integers(0, 3),
    attempts_max=st.integers(1, 4),
    deaths_max=st.integers(1, 2),
    retry_ratio=st.sampled_from([0.0, 0.5]),
    retries_per_second=st.sampled_from([0.0, 2.0]),
    retries_burst=st.sampled_from([1.0, 3.0]),
    waiting_max=st.sampled_from([4, 4, 1, 0]),
    wait_us_max=st.sampled_from([5 * SECOND, 700_000, 0]),
    sessions_max=st.integers(1, 3),
    index_blocks_max=st.sampled_from([20, 100_000]),
    report_stale_us=st.just(Micros(2 * SECOND)),
    why_max=st.integers(1, 4),
    strict=st.just(True),
    health=st.builds(HealthSettings, failures_max=st.integers(1, 3), probe_failures_max=st.integers(1, 2)),
)


class Fleet(RuleBasedStateMachine):
    """The world outside: it knows who is in flight where, and lets anything happen that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Counter[str] = Counter()  # request -> terminal outcomes
        self.arrived: dict[str, bool] = {}  # request -> it streams
        self.at: dict[str, str] = {}  # request in flight -> its endpoint
        self.waits: set[str] = set()
        self.begun: set[str] = set()  # requests in flight whose first token came
        self.steps: dict[str, str] = {}  # request in flight whose prompt is being computed elsewhere -> where
        self.splits = False  # there are endpoints that compute prompts for others
        self.models: dict[str, set[str]] = {}  # endpoint that did not leave -> models
        self.paid = 0  # attempts that cost retry budget
        self.busy: set[str] = set()  # requests whose last attempt met a full queue
        self.shadow: Dispatcher | None = None  # restored from a snapshot on the way

    @initialize(
        limits=limits,
        policy=st.sampled_from(POLICIES),
        endpoints=st.integers(1, 4),
        exact=st.booleans(),
        splits=st.booleans(),
    )
    def begin(self, limits: DispatcherSettings, policy: object, endpoints: int, exact: bool, splits: bool) -> None:
        self.settings, self.profile, self.splits = limits, profile(policy), splits
        self.world = World(self.fresh())
        for endpoint in ENDPOINTS[:endpoints]:
            self.endpoint_seen(endpoint, {"m"}, exact, 15)

    def fresh(self) -> Dispatcher:
        return Dispatcher(self.settings, self.profile)

    # What can happen

    @rule(data=st.data(), endpoint=names, what=st.sampled_from(["seen", "seen", "gone", "probed", "probed", "report"]))
    def fleet_changes(self, data: st.DataObject, endpoint: str, what: str) -> None:
        match what:
            case "seen":
                models = data.draw(st.sampled_from([{"m"}, {"m", "n"}, {"n"}]))
                self.endpoint_seen(endpoint, models, data.draw(st.booleans()), data.draw(st.sampled_from([0, 15])))
            case "gone":
                self.models.pop(endpoint, None)
                self.send(worlds.gone(endpoint))
            case "probed":
                self.send(worlds.probed(endpoint, data.draw(st.booleans())))
            case "report":
                running, queue = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 200))
                self.send(worlds.reported(endpoint, running, queue, data.draw(st.floats(0, 1.5))))

    def endpoint_seen(self, endpoint: str, models: set[str], exact: bool, kv_blocks: int) -> None:
        self.models[endpoint] = models
        listed = ",".join(sorted(models))
        more = worlds.partner(ROLES[endpoint]) if self.splits else {}
        self.send(worlds.seen(endpoint, listed, exact=exact, kv_blocks=kv_blocks, block_size=worlds.BLOCK, **more))

    @rule(endpoint=names, prompt=prompts, how=st.sampled_from(["stored", "stored", "removed", "cleared"]))
    def blocks_reported(self, endpoint: str, prompt: str, how: str) -> None:
        if how == "stored":
            self.send(worlds.stored(endpoint, prompt))
        elif how == "removed":
            self.send(BlocksRemoved(NOW, EndpointId(endpoint), worlds.blocks(prompt)))
        else:
            self.send(BlocksCleared(NOW, EndpointId(endpoint)))

    @rule(endpoint=names)
    def endpoint_hangs(self, endpoint: str) -> None:
        """Its checks fail; what is aborted there fails, or ends in another way that was already on its way."""
        self.send(worlds.probed(endpoint, False))
        self.send(worlds.probed(endpoint, False))

    @rule(
        prompt=prompts,
        stream=st.booleans(),
        model=st.sampled_from([*MODELS, "unknown"]),
        session=st.integers(0, 4),
        pinned=st.none() | st.none() | names,
    )
    def request_arrived(self, prompt: str, stream: bool, model: str, session: int, pinned: str | None) -> None:
        self.arrive(prompt, stream=stream, model=model, session=session, pinned=pinned)

    @rule(prompts=st.lists(prompts, min_size=1, max_size=4), stream=st.booleans())
    def requests_arrived(self, prompts: list[str], stream: bool) -> None:
        for prompt in prompts:
            self.arrive(prompt, stream=stream)

    @rule(prompt=prompts, ms=st.sampled_from([1, 70]))
    def request_shows_the_speed(self, prompt: str, ms: int) -> None:
        """From its first token the endpoint's rate is learned, which unseen prefills are released by."""
        request = f"r{len(self.arrived)}"
        self.arrive(prompt, stream=True)
        if request in self.at:
            self.time_passes(ms)
            self.prefill_ends(request)
            self.begun.add(request)
            self.send(worlds.first_token(request))

    @precondition(lambda self: self.steps)
    @rule(data=st.data())
    def prefill_done(self, data: st.DataObject) -> None:
        self.prefill_ends(data.draw(st.sampled_from(list(self.steps))))

    def prefill_ends(self, request: str) -> None:
        if self.steps.pop(request, None):
            self.send(worlds.prefill_done(request))

    def arrive(self, prompt: str, stream: bool, **more: Any) -> None:
        request = f"r{len(self.arrived)}"
        self.arrived[request] = stream
        self.waits.add(request)
        self.send(worlds.arrived(request, prompt=prompt, stream=stream, **more))

    def may_begin(self) -> list[str]:
        return [r for r in self.at if self.arrived[r] and r not in self.begun and r not in self.steps]

    @precondition(lambda self: self.may_begin())
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.may_begin()))
        self.begun.add(request)
        self.send(worlds.first_token(request))

    @precondition(lambda self: self.at)
    @rule(data=st.data())
    def request_finished(self, data: st.DataObject) -> None:
        request = self.in_flight(data)
        self.prefill_ends(request)
        self.end(request)
        self.send(worlds.finished(request))

    @precondition(lambda self: self.at)
    @rule(data=st.data(), kind=st.sampled_from(FailureKind), sent=st.booleans())
    def request_failed(self, data: st.DataObject, kind: FailureKind, sent: bool) -> None:
        self.fail(self.in_flight(data), kind, sent)

    @precondition(lambda self: self.at)
    @rule(data=st.data(), kind=st.sampled_from(FailureKind))
    def engine_fails(self, data: st.DataObject, kind: FailureKind) -> None:
        """All that is on it fails at once."""
        endpoint = self.at[self.in_flight(data)]
        for request in [r for r, where in self.at.items() if where == endpoint or self.steps.get(r) == endpoint]:
            self.fail(request, kind, sent=request in self.begun)

    def fail(self, request: str, kind: FailureKind, sent: bool) -> None:
        if sent and kind is not FailureKind.BUSY:
            self.prefill_ends(request)
            self.end(request)
            self.send(worlds.failed(request, kind, sent=True))
            return
        del self.at[request]
        self.begun.discard(request)
        self.waits.add(request)
        (self.busy.add if kind is FailureKind.BUSY else self.busy.discard)(request)
        self.send(worlds.failed(request, kind, prefill=self.steps.pop(request, None) is not None))

    @precondition(lambda self: self.at or self.waits)
    @rule(data=st.data())
    def request_cancelled(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([*self.at, *sorted(self.waits)]))
        self.end(request)
        self.send(worlds.cancelled(request))

    @rule(ms=st.sampled_from([1, 50, 600, 2000]))
    def time_passes(self, ms: int) -> None:
        """As with a real driver: every wake-up that is asked for comes, in time."""
        end_us = Micros(self.world.now_us + ms * 1000)
        for _ in range(50):
            wake_us = self.world.dispatcher.next_wake_us()
            if wake_us is None or wake_us > end_us:
                break
            self.world.now_us = max(self.world.now_us, wake_us)
            self.send(worlds.tick())
        else:
            raise AssertionError("a hot loop: 50 wake-ups within two seconds")
        self.world.now_us = end_us

    @rule()
    def late_tick(self) -> None:
        self.world.after(s=3)
        self.send(worlds.tick())

    @rule()
    def snapshot(self) -> None:
        self.shadow = self.fresh()
        self.shadow.restore(self.world.dispatcher.snapshot())

    # What must hold

    def in_flight(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.at)))

    def end(self, request: str) -> None:
        self.outcomes[request] += 1
        self.at.pop(request, None)
        self.steps.pop(request, None)
        self.waits.discard(request)
        self.begun.discard(request)

    def send(self, event: AnyEvent) -> None:
        commands = self.world.send(event)
        for command in commands:
            self.perform(command)
        if self.shadow is not None:
            assert self.shadow.handle(self.world.history[-1][0]) == commands, "a restored dispatcher decides otherwise"
        self.check()

    def perform(self, command: AnyCommand) -> None:
        request = command.request
        assert self.outcomes[request] == 0, f"{command} for a request that has ended"
        match command:
            case Route():
                assert request in self.waits, f"{command} for a request that is in flight"
                self.waits.remove(request)
                self.paid += command.attempt > 1 and request not in self.busy
                self.busy.discard(request)
                self.at[request] = command.endpoint
                if command.prefill is not None:
                    self.steps[request] = command.prefill.endpoint
                self.check_route(command)
            case Reject():
                assert request in self.waits, f"{command} for a request that is in flight"
                self.end(request)
            case Abort():
                assert command.endpoint in (self.at[request], self.steps.get(request))
                assert request not in self.begun

    def check_route(self, route: Route) -> None:
        endpoint = self.world.dispatcher.fleet.endpoints[route.endpoint]
        arrived = self.world.dispatcher.requests[route.request].arrived
        assert not endpoint.ejected and not endpoint.gone
        assert arrived.model in self.models[route.endpoint] and arrived.pinned in (None, route.endpoint)
        assert endpoint.seen.role is not Role.PREFILL
        if route.prefill is not None:
            first = self.world.dispatcher.fleet.endpoints[route.prefill.endpoint]
            assert first.seen.role is Role.PREFILL and first.seen.exchange == endpoint.seen.exchange
            assert not first.ejected and not first.gone and arrived.model in self.models[route.prefill.endpoint]
        assert 0 <= route.cached_tokens <= max(0, arrived.prompt_tokens - 1)
        assert route.why.candidates[0].endpoint == route.endpoint
        for scored in route.why.candidates:
            assert all(0 <= score <= 1 for score in scored.scores)

    def check(self) -> None:
        dispatcher = self.world.dispatcher
        assert dispatcher.requests.keys() == self.at.keys() | self.waits
        assert dispatcher.waiting.line.keys() == self.waits and len(self.waits) <= self.settings.waiting_max
        assert {r: q.endpoint for r, q in dispatcher.requests.items() if q.endpoint} == self.at
        steps = {r: q.step.endpoint for r, q in dispatcher.requests.items() if q.step is not None and q.step.endpoint}
        assert steps == self.steps
        for endpoint in dispatcher.fleet.endpoints.values():
            parts = [part for r in dispatcher.requests.values() for part in (r, r.step) if part is not None]
            held = [part for part in parts if part.endpoint == endpoint.id]
            assert endpoint.in_flight == len(held)
            assert endpoint.prefill_tokens == sum(r.uncached_tokens for r in held if r.prefilling)
            assert endpoint.context_tokens == sum(r.arrived.prompt_tokens for r in held)
            assert max((r.arrived.prompt_tokens for r in held), default=0) <= endpoint.distinct_tokens
            assert endpoint.distinct_tokens <= endpoint.context_tokens
            assert endpoint.decoding == sum(not r.prefilling for r in held)
            assert -1 <= endpoint.cold_turn < dispatcher.decisions
            assert min(endpoint.others, endpoint.prefill_rate, endpoint.failures, endpoint.probe_failures) >= 0
            assert all(r.uncached_tokens >= 0 for r in held)
            assert endpoint.id in self.models or held, "a departed endpoint without requests is not forgotten"
        assert set(self.at.values()) <= dispatcher.fleet.endpoints.keys()
        assert len(dispatcher.sessions.last) <= self.settings.sessions_max
        self.check_budget(dispatcher)

    def check_budget(self, dispatcher: Dispatcher) -> None:
        limits, seconds = self.settings, self.world.now_us / SECOND
        assert 0 <= dispatcher.retries.tokens <= limits.retries_burst
        earned = limits.retries_burst + limits.retry_ratio * len(self.arrived) + limits.retries_per_second * seconds
        assert self.paid <= earned + 1e-6, f"{self.paid} retries out of a budget of {earned}"

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.settle()
        assert set(self.outcomes) == set(self.arrived) and set(self.outcomes.values()) <= {1}
        for e in self.world.dispatcher.fleet.endpoints.values():
            assert e.in_flight == e.prefill_tokens == e.decoding == e.context_tokens == e.distinct_tokens == 0
        assert not any(e.sharing.holders for e in self.world.dispatcher.fleet.endpoints.values())
        assert not self.world.dispatcher.requests and not self.world.dispatcher.waiting.line
        again = self.fresh()
        assert all(again.handle(event) == commands for event, commands in self.world.history)

    def settle(self) -> None:
        """Whatever is in flight finishes; the dispatcher's own wake-ups do the rest."""
        for _ in range(500):
            if self.at:
                request = next(iter(self.at))
                self.prefill_ends(request)
                self.end(request)
                self.send(worlds.finished(request))
                continue
            wake_us = self.world.dispatcher.next_wake_us()
            if wake_us is None:
                return
            self.world.now_us = max(self.world.now_us, wake_us)
            self.send(worlds.tick())
        raise AssertionError("the dispatcher does not come to rest")


TestLaws = Fleet.TestCase
TestLaws.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_the_same_history_under_other_names_goes_to_the_same_places() -> None:
    """Nothing depends on what endpoints are called."""
    rename = {"a": "zeta", "b": "alpha", "c": "mu"}

    def play(names: dict[str, str]) -> list[AnyCommand]:
        world = worlds.given(" | ".join(names[n] + " exact" for n in "abc"))
        for i in range(60):
            world.send(worlds.arrived(f"r{i}", prompt=f"{'pqr'[i % 3]}:{i % 11}"))
            if i % 2:
                world.send(worlds.finished(f"r{i // 2}"))
        return [command for _, commands in world.history for command in commands]

    there, here = play(rename), play({n: n for n in "abc"})
    assert [c.endpoint for c in there if isinstance(c, Route)] == [
        rename[c.endpoint] for c in here if isinstance(c, Route)
    ]


def test_every_event_and_command_survives_the_journal() -> None:
    world = worlds.given("a cached=p:3 | b").when(worlds.arrived("r", prompt="p:9", session=2**64 - 1))
    world.when(worlds.failed("r"), worlds.failed("r"), worlds.cancelled("r"))
    for event, commands in world.history:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=AnyEvent) == event
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(commands), type=list[AnyCommand]) == commands


def test_a_snapshot_of_a_snapshot_is_the_same() -> None:
    world = worlds.given("a cached=p:3 busy=2x100 | b streaming=1 | c ejected")
    world.when(worlds.arrived("r", prompt="p:9"), worlds.arrived("s", prompt="p:9"), worlds.tick())
    made = world.dispatcher.snapshot()
    restored = Dispatcher(world.dispatcher.settings, world.dispatcher.profile)
    restored.restore(made)
    assert restored.snapshot() == made
    assert any(e.sharing.holders for e in restored.fleet.endpoints.values())


def test_unused_names_are_not_kept() -> None:
    """A model nobody serves, asked for a thousand times under a thousand names, leaves nothing behind."""
    world = worlds.given("a")
    for i in range(1000):
        world.send(worlds.arrived(f"r{i}", 10, model=f"model-{i}"))
    assert not world.dispatcher.fleet._serving and not world.dispatcher.requests
    assert isinstance(world.dispatcher.profile, Profile) and RequestId("r1") not in world.dispatcher.waiting.line
