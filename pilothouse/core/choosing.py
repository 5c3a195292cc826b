"""The decision about one request: what is known of each candidate, the profile's choice, and whether to split.

A request is split when the profile's decider says that it pays to have its prompt computed by a prefill endpoint and the
KV handed over. The decode endpoint of a split request is chosen anew, for what is left to do there, and then a prefill
endpoint for it: what the way of the KV takes counts in both choices.
"""

from dataclasses import dataclass, replace

from pilothouse.core.commands import Split, Why
from pilothouse.core.errors import PolicyError
from pilothouse.core.events import Arrived
from pilothouse.core.fleet import Endpoint, Fleet
from pilothouse.core.kvindex import KvIndex
from pilothouse.core.policy import Decider, Known, Side
from pilothouse.core.request import Request
from pilothouse.core.selection import Choice, Profile, choose, chosen
from pilothouse.core.sessions import Sessions
from pilothouse.core.tiers import cached
from pilothouse.core.units import Micros

SPLITS_MAX = 2  # attempts at one request with somebody else's prefill; after that it is served whole


@dataclass(slots=True)
class Plan:
    """Where a request goes, and who computes its prompt if that is somebody else."""

    choice: Choice
    prefill: Choice | None = None
    split: Split | None = None


@dataclass(slots=True)
class Chooser:
    """Reads the dispatcher's parts, changes none."""

    profile: Profile
    fleet: Fleet
    index: KvIndex
    sessions: Sessions
    seed: int
    why_max: int
    strict: bool
    failures: int = 0  # of policies: least requests decided instead

    def choose(self, arrived: Arrived, known: Known, left_out: dict[str, int]) -> Choice | None:
        """The profile's choice; None when its filters leave nobody."""
        try:
            return choose(self.profile, arrived, known, left_out, self.why_max)
        except Exception as error:  # a policy is somebody else's code: its bug must not stop the fleet
            if self.strict:
                raise PolicyError(f"profile {self.profile.name}: {error}") from error
            self.failures += 1
            loads = [e.in_flight for e in known.endpoints]
            i = loads.index(min(loads))
            fallback = f"fallback: {type(error).__name__}: {error}"
            why = Why("least_requests", [], [], len(known.endpoints), left_out, fallback)
            return chosen(known, i, why)

    def known(self, arrived: Arrived, candidates: list[Endpoint], now_us: Micros, turn: int) -> Known:
        held = cached(self.index, arrived, candidates)
        reports = self.fleet.fresh_reports(candidates, now_us)
        tokens = arrived.prompt_tokens
        return Known(
            now_us,
            candidates,
            held.tokens,
            [tokens - c for c in held.tokens],
            reports,
            [0 if report is None else e.others for e, report in zip(candidates, reports, strict=True)],
            self.sessions.endpoint(arrived.session),
            turn,
            self.seed,
            [self.fleet.speed(e) for e in candidates],
            self._expected_output(arrived),
            load_us=held.load_us,
            lower_tokens=held.lower_tokens,
        )

    def is_splittable(self, request: Request) -> bool:
        """Whether its prompt may be computed by somebody else at all."""
        return request.arrived.splittable and request.arrived.pinned is None

    def plan(
        self, request: Request, known: Known, whole: Choice, prefill: list[Endpoint], left_out: dict[str, int]
    ) -> Plan:
        """Whole, or split between a decode endpoint and one of `prefill`.

        known   of those who could serve it; `whole` is the choice among them if nobody else computes its prompt
        """
        decider, arrived = self.profile.decider, request.arrived
        assert decider is not None
        if not self.is_splittable(request):
            return _kept(decider, whole, "its prompt cannot be computed elsewhere")
        if request.splits >= SPLITS_MAX:
            return _kept(decider, whole, "splitting it failed before")
        reason = decider.keeps(self._side(whole))
        if reason:
            return _kept(decider, whole, reason)
        decode = self._decode_known(known, prefill)
        partners = [any(_pair(p, d) for p in prefill) for d in decode.endpoints]
        if not any(partners):
            none = "exchanges KV with these" if prefill else "is up and has room"
            return _kept(decider, whole, f"no prefill endpoint {none}")
        choice = self.choose(arrived, decode if all(partners) else decode.only(partners), dict(left_out))
        if choice is None:
            return _kept(decider, whole, "the profile's filters leave no decode endpoint")
        able, handed = [p for p in prefill if _pair(p, choice.endpoint)], arrived.prompt_tokens - choice.cached_tokens
        ways_us = [self.fleet.handover(p, choice.endpoint).expected_us(handed) for p in able]
        nearest_us = min(ways_us)
        computing = self.known(arrived, able, known.now_us, known.turn)
        computing = replace(computing, output_tokens=1.0, fetch_us=[way_us - nearest_us for way_us in ways_us])
        first = self.choose(arrived, computing, {})
        if first is None:
            return _kept(decider, whole, "the profile's filters leave no prefill endpoint")
        handover_us = Micros(int(self.fleet.handover(first.endpoint, choice.endpoint).expected_us(handed)))
        split = decider.decide(arrived, self._side(whole), self._side(first), self._side(choice), handover_us)
        return Plan(choice, first, split) if split.split else Plan(whole, None, split)

    def _side(self, choice: Choice) -> Side:
        endpoint, cached, uncached = choice.endpoint, choice.cached_tokens, choice.uncached_tokens
        return Side(endpoint, self.fleet.speed(endpoint), cached, uncached, choice.load_us)

    def _decode_known(self, known: Known, prefill: list[Endpoint]) -> Known:
        """The same candidates, for a request whose KV is brought to them: nothing to compute, something to fetch."""
        pools = list({p.seen.pool: p for p in prefill}.values())
        fetch_us = [
            min((self.fleet.handover(p, e).expected_us(uncached) for p in pools if _pair(p, e)), default=0.0)
            for e, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
        ]
        return replace(known, uncached_tokens=[0] * len(known.endpoints), fetch_us=fetch_us)

    def _expected_output(self, arrived: Arrived) -> float:
        expected, most = self.fleet.lengths.expected(arrived.model), arrived.output_tokens_max
        return expected if most is None else max(1.0, min(expected, most))


def _kept(decider: Decider, whole: Choice, reason: str) -> Plan:
    return Plan(whole, None, Split(decider.name, False, reason))


def _pair(prefill: Endpoint, decode: Endpoint) -> bool:
    """Whether KV that one computes can be used by the other. What is not known to be alike is not."""
    one, other = prefill.seen, decode.seen
    return bool(one.connector and one.exchange) and (one.connector, one.exchange) == (other.connector, other.exchange)
