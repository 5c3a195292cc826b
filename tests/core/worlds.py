"""The language of the core's tests: given a fleet described in one line, when events happen, expect commands.

    given("a queue=3 | b running=9 kv=.5", "least_requests").when(arrived("r", 900)).expect(route("r", "a"))

A fleet is a list of endpoints, `|` between them, each a name and perhaps words:

    models=m,n     names it lists (default m)                exact         it reports its KV blocks
    cached=p:40    it reports the first 40 blocks of p       blocks=500    its KV capacity
    prefill        computes prompts for others               decode        takes KV from those who do
    busy=3x1000    3 of our requests of 1000 tokens wait     streaming=4   4 of our requests decode there
    running= queue= kv=    its load report                   ejected       two probes failed

A prompt `p:40` is 40 blocks of 16 tokens that share their beginning with every other `p:`. Events carry no time: the
world stamps them, and `after` moves its clock. Commands are matched in part: what is not named may be anything.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from pilothouse.config.policy import profile
from pilothouse.core.commands import Abort, AnyCommand, Reject, RejectReason, Route, Split
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import (
    AnyEvent,
    Arrived,
    BlocksStored,
    Cancelled,
    EndpointGone,
    EndpointSeen,
    Failed,
    FailureKind,
    Finished,
    FirstToken,
    LoadReported,
    PrefillDone,
    Probed,
    Role,
    Tick,
)
from pilothouse.core.fleet import Endpoint
from pilothouse.core.selection import Profile
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId

BLOCK = 16  # tokens
NOW = Micros(0)  # the world stamps its own time over it
ZERO = Micros(0)


# Events


def blocks(prompt: str) -> list[BlockKey]:
    """`name:count` -> keys; the same name gives the same beginning."""
    name, _, count = prompt.partition(":")
    base = int.from_bytes(name.encode().ljust(4, b"\0")[:4]) << 32
    return [BlockKey(base + i) for i in range(int(count))] if count else []


def arrived(request: str, tokens: int | None = None, prompt: str = "", **more: Any) -> Arrived:
    """Streams, and asks for model m, unless told otherwise; `tokens` defaults to the prompt's blocks and one more."""
    keys = blocks(prompt)
    count = tokens if tokens is not None else len(keys) * BLOCK + 1
    fields: dict[str, Any] = {"model": "m", "stream": True, "block_size": BLOCK if keys else 0} | more
    return Arrived(NOW, RequestId(request), prompt_tokens=count, blocks=keys, **fields)


def first_token(request: str) -> FirstToken:
    return FirstToken(NOW, RequestId(request))


def finished(request: str) -> Finished:
    return Finished(NOW, RequestId(request))


def failed(request: str, kind: FailureKind = FailureKind.ERROR, *, sent: bool = False, prefill: bool = False) -> Failed:
    return Failed(NOW, RequestId(request), kind, sent, prefill)


def prefill_done(request: str) -> PrefillDone:
    return PrefillDone(NOW, RequestId(request))


def cancelled(request: str) -> Cancelled:
    return Cancelled(NOW, RequestId(request))


def seen(endpoint: str, models: str = "m", **more: Any) -> EndpointSeen:
    return EndpointSeen(NOW, EndpointId(endpoint), f"http://{endpoint}:8000", "pool", models.split(","), **more)


def partner(role: Role, exchange: str = "alike") -> dict[str, Any]:
    """Of a `seen` that exchanges KV."""
    return {"role": role, "connector": "nixl", "exchange": exchange}


def gone(endpoint: str) -> EndpointGone:
    return EndpointGone(NOW, EndpointId(endpoint))


def probed(endpoint: str, ok: bool) -> Probed:
    return Probed(NOW, EndpointId(endpoint), ok)


def reported(endpoint: str, running: int = 0, queue: int = 0, kv: float = 0.0) -> LoadReported:
    return LoadReported(NOW, EndpointId(endpoint), running, queue, kv)


def stored(endpoint: str, prompt: str) -> BlocksStored:
    return BlocksStored(NOW, EndpointId(endpoint), blocks(prompt))


def tick() -> Tick:
    return Tick(NOW)


# Commands


@dataclass
class Match:
    """A command, as far as it matters."""

    kind: type[AnyCommand]
    fields: dict[str, Any]

    def meets(self, command: AnyCommand) -> bool:
        return type(command) is self.kind and all(getattr(command, k) == v for k, v in self.fields.items())


def route(request: str, endpoint: str, **more: Any) -> Match:
    return Match(Route, {"request": request, "endpoint": endpoint} | more)


def reject(request: str, reason: RejectReason, **more: Any) -> Match:
    return Match(Reject, {"request": request, "reason": reason} | more)


def abort(request: str, endpoint: str) -> Match:
    return Match(Abort, {"request": request, "endpoint": endpoint})


# The world


@dataclass
class World:
    """A dispatcher, the time, and all that happened."""

    dispatcher: Dispatcher
    now_us: Micros = Micros(0)
    commands: list[AnyCommand] = field(default_factory=list)  # of the last `when`
    history: list[tuple[AnyEvent, list[AnyCommand]]] = field(default_factory=list)

    def after(self, ms: float = 0, s: float = 0) -> Self:
        self.now_us = Micros(self.now_us + round(ms * 1e3 + s * 1e6))
        return self

    def when(self, *happened: AnyEvent) -> Self:
        self.commands = [command for event in happened for command in self.send(event)]
        return self

    def send(self, event: AnyEvent) -> list[AnyCommand]:
        stamped = msgspec.structs.replace(event, at_us=self.now_us)
        commands = self.dispatcher.handle(stamped)
        self.history.append((stamped, commands))
        return commands

    def expect(self, *matches: Match) -> Self:
        """The last `when` led to these commands, in this order, and no others."""
        got = "\n".join(map(str, self.commands)) or "nothing"
        assert len(matches) == len(self.commands), f"expected {matches}, got {got}"
        for match, command in zip(matches, self.commands, strict=True):
            assert match.meets(command), f"expected {match}, got {got}"
        return self

    def then_ticks(self, seconds: float) -> Self:
        """Ticks whenever the dispatcher wants one, for so long; `commands` are all that came of it."""
        end_us = Micros(self.now_us + round(seconds * 1e6))
        commands: list[AnyCommand] = []
        for _ in range(10_000):
            wake_us = self.dispatcher.next_wake_us()
            if wake_us is None or wake_us > end_us:
                self.now_us, self.commands = end_us, commands
                return self
            self.now_us = max(self.now_us, wake_us)
            commands += self.send(tick())
        raise AssertionError("the dispatcher wants a tick again and again: a hot loop")

    def endpoint(self, name: str) -> Endpoint:
        return self.dispatcher.fleet.endpoints[EndpointId(name)]

    def ledger(self, **expected: tuple[int, int]) -> Self:
        """(prefill tokens, requests in flight) of the endpoints named."""
        for name, charge in expected.items():
            endpoint = self.endpoint(name)
            assert (endpoint.prefill_tokens, endpoint.in_flight) == charge, name
        return self

    def contexts(self, **expected: tuple[int, int]) -> Self:
        """(prompt tokens in flight, requests past their first token) of the endpoints named."""
        for name, charge in expected.items():
            endpoint = self.endpoint(name)
            assert (endpoint.context_tokens, endpoint.decoding) == charge, name
        return self

    def last_split(self) -> Split:
        split = self.last_route().why.split
        assert split is not None
        return split

    def last_route(self) -> Route:
        return next(c for c in reversed(self.commands) if isinstance(c, Route))


SETTINGS = {"strict": True, "index_blocks_max": 100_000}  # room for 20 million blocks takes a millisecond to make


def given(fleet: str, policy: object = "cache_and_load", **settings: Any) -> World:
    """A world with this fleet. `policy` as in the configuration, or a Profile; a policy's bug raises unless `strict`
    is False."""
    chosen = policy if isinstance(policy, Profile) else profile(policy)
    world = World(Dispatcher(DispatcherSettings(**(SETTINGS | settings)), chosen))
    described = [part.split() for part in fleet.split("|") if part.strip()]
    for name, *words in described:
        _join(world, name, dict(_word(word) for word in words))
    for name, *words in described:
        _settle(world, name, dict(_word(word) for word in words))
    world.dispatcher.turns.clear()  # what was put on the fleet here is no decision: the first tie goes to the first
    world.commands = []
    return world


def _word(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


def _join(world: World, name: str, words: dict[str, str]) -> None:
    known = {"models", "exact", "cached", "blocks", "busy", "streaming", "running", "queue", "kv", "ejected"}
    known |= {"prefill", "decode", "exchange"}
    assert words.keys() <= known, f"a fleet knows no {words.keys() - known}"
    exact = "exact" in words or "cached" in words
    more: dict[str, Any] = {}
    if words.keys() & {"prefill", "decode"}:
        more = partner(Role.PREFILL if "prefill" in words else Role.DECODE, words.get("exchange", "alike"))
    blocks_max = int(words.get("blocks", 0))
    world.send(seen(name, words.get("models", "m"), exact=exact, kv_blocks=blocks_max, block_size=BLOCK, **more))
    if "cached" in words:
        world.send(stored(name, words["cached"]))


def _settle(world: World, name: str, words: dict[str, str]) -> None:
    model = words.get("models", "m").split(",")[0]
    count, _, tokens = words.get("busy", "0x0").partition("x")
    for i in range(int(count)):
        world.send(arrived(f"busy-{name}-{i}", int(tokens), pinned=EndpointId(name), model=model))
    for i in range(int(words.get("streaming", 0))):
        world.send(arrived(f"streaming-{name}-{i}", 0, pinned=EndpointId(name), model=model))
        world.send(first_token(f"streaming-{name}-{i}"))
    if words.keys() & {"running", "queue", "kv"}:
        load = int(words.get("running", 0)), int(words.get("queue", 0)), float(words.get("kv", 0))
        world.send(reported(name, *load))
    if "ejected" in words:
        world.when(probed(name, False), probed(name, False))
