"""The kinds of plugin a routing profile is made of, and the registries that name them.

A policy is a frozen struct: its fields are its parameters, its docstring is its manual page. It has no memory; what it
may know is in `Known`, so any profile can be judged on the same state as any other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import ClassVar, Generic, TypeVar

import msgspec

from pilothouse.core.commands import Split
from pilothouse.core.events import Arrived, LoadReported
from pilothouse.core.fleet import Endpoint
from pilothouse.core.random_stream import Random, stream
from pilothouse.core.request import Place
from pilothouse.core.speed import OUTPUT_TYPICAL, Speed
from pilothouse.core.units import EndpointId, Micros


@dataclass(slots=True)
class Known:
    """What one decision may use. All lists are aligned with `endpoints`, which is in registration order."""

    now_us: Micros
    endpoints: list[Endpoint]
    cached_tokens: list[int]  # of this prompt, expected in each endpoint's KV cache, in whatever tier
    uncached_tokens: list[int]  # the rest: prefill work the request brings there
    reports: list[LoadReported | None]  # each engine's last load report; None when there is none or it is stale
    others: list[int]  # requests on each engine that are not ours; 0 when its report is stale
    session_endpoint: EndpointId | None  # where this conversation was served last
    turn: int  # decisions made for this model so far: rotates ties
    seed: int
    speeds: list[Speed] = field(default_factory=list)  # what each endpoint's pool taught about step times
    output_tokens: float = OUTPUT_TYPICAL  # expected of the answer
    fetch_us: list[float] = field(default_factory=list)  # until KV is there that is handed over; empty = 0
    load_us: list[float] = field(default_factory=list)  # until what lower tiers hold of it is in HBM; empty = 0
    lower_tokens: list[list[int]] = field(default_factory=list)  # of `cached_tokens`, below HBM by tier; empty = none

    def fresh_tokens(self, arrived: Arrived) -> list[int]:
        """Prompt tokens that each endpoint would have to keep in KV beside what its running requests use already: what it
        does not hold, and what it holds for nobody at present."""
        blocks, size, prompt = arrived.blocks, arrived.block_size, arrived.prompt_tokens
        return [
            prompt - endpoint.sharing.shared(blocks, cached // size, size) if cached and size else prompt
            for endpoint, cached in zip(self.endpoints, self.cached_tokens, strict=True)
        ]

    def only(self, keep: list[bool]) -> "Known":
        """The same, without the endpoints that a filter removed."""
        pick = [i for i, kept in enumerate(keep) if kept]
        return Known(
            self.now_us,
            [self.endpoints[i] for i in pick],
            [self.cached_tokens[i] for i in pick],
            [self.uncached_tokens[i] for i in pick],
            [self.reports[i] for i in pick],
            [self.others[i] for i in pick],
            self.session_endpoint,
            self.turn,
            self.seed,
            [self.speeds[i] for i in pick],
            self.output_tokens,
            [self.fetch_us[i] for i in pick] if self.fetch_us else [],
            [self.load_us[i] for i in pick] if self.load_us else [],
            [self.lower_tokens[i] for i in pick] if self.lower_tokens else [],
        )

    def luck(self, arrived: Arrived) -> Random:
        """This request's own stream: two policies compared on one seed meet the same luck."""
        return stream(self.seed, arrived.request)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all plugins."""

    uses_speeds: ClassVar[bool] = False  # of `Known.speeds` and `Known.output_tokens`: else nobody learns them


class Filter(Policy, frozen=True):
    """Removes endpoints that must not be chosen."""

    def keep(self, arrived: Arrived, known: Known) -> list[bool]:
        """Aligned with `known.endpoints`: True stays. Removing all leaves the request without an endpoint."""
        raise NotImplementedError


class Scorer(Policy, frozen=True):
    """Rates endpoints."""

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        """Aligned with `known.endpoints`, each in [0, 1], higher is better."""
        raise NotImplementedError


class Picker(Policy, frozen=True):
    """Chooses one endpoint by the weighted sum of scores."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        """Index into `known.endpoints`, which is not empty."""
        raise NotImplementedError


class Queue(Policy, frozen=True):
    """Keeps a request at the gateway while the endpoint that was chosen for it has enough to do. What waits here can
    still be routed elsewhere, and overtaken; what waits inside an engine cannot."""

    looks: int = 16  # how many of those in line are tried when something has changed

    def admits(self, endpoint: Endpoint, uncached_tokens: int, fresh_tokens: int) -> bool:
        """Whether the endpoint may be sent a request with so much prefill, and so much KV (`Known.fresh_tokens`), now.
        One that does not admit a request of 0 and 0 is full."""
        raise NotImplementedError

    def place(self, arrived: Arrived, known: Known) -> Place:
        """Where in line a request stands that has to wait."""
        raise NotImplementedError


@dataclass(slots=True)
class Side:
    """One endpoint's part in a possible split."""

    endpoint: Endpoint
    speed: Speed
    cached_tokens: int  # of the prompt, in its KV cache
    uncached_tokens: int  # to be computed there; 0 where KV is brought
    load_us: float = 0.0  # until those of the cached tokens that lie in lower tiers are in HBM


class Decider(Policy, frozen=True):
    """Says whether a prompt is computed by somebody else than who answers."""

    name: ClassVar[str] = ""  # as registered

    @property
    def required(self) -> bool:
        """Whether a request that cannot be split is refused rather than served whole."""
        return False

    def keeps(self, whole: Side) -> str:
        """Why a request stays whole, whoever could compute its prompt; empty if that depends on them. Asked first: the
        endpoints of a split need not be chosen then."""
        return ""

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        """The choice between `whole` doing all, and `prefill` computing the prompt for `decode`.

        handover_us   expected from the end of the prefill to the first token
        """
        raise NotImplementedError


Kind = TypeVar("Kind", bound=Policy)


class Registry(Generic[Kind]):
    """Names of one kind of plugin. Filled at import, sealed before first use."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._types: dict[str, type[Kind]] = {}
        self._sealed = False

    def register(self, name: str) -> Callable[[type[Kind]], type[Kind]]:
        """Class decorator. A name taken twice, or a registration after sealing, is a bug."""

        def add(cls: type[Kind]) -> type[Kind]:
            assert not self._sealed, f"{self.kind} registry is sealed: {name} came too late"
            assert name not in self._types, f"{self.kind} {name} is registered twice"
            assert cls.__doc__, f"{self.kind} {name} has no docstring, which is its manual page"
            self._types[name] = cls
            return cls

        return add

    def seal(self) -> None:
        self._sealed = True

    def get(self, name: str) -> type[Kind]:
        """Raises KeyError whose message suggests the nearest name."""
        if name not in self._types:
            near = get_close_matches(name, self._types, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(self._types))}"
            raise KeyError(f"unknown {self.kind} {name!r}, {hint}")
        return self._types[name]

    def __iter__(self) -> Iterator[tuple[str, type[Kind]]]:
        return iter(sorted(self._types.items()))


filters: Registry[Filter] = Registry("filter")
scorers: Registry[Scorer] = Registry("scorer")
pickers: Registry[Picker] = Registry("picker")
queues: Registry[Queue] = Registry("queue")
deciders: Registry[Decider] = Registry("decider")
