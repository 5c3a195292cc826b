"""How rivals choose among equals, and how a cost becomes a score."""

from hashlib import blake2b

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Picker, pickers
from pilothouse.policies.pickers import TIE


def by_cost(costs: list[float]) -> list[float]:
    """Scores in [0, 1], 1 for the lowest cost; the order of costs is the order of scores, reversed."""
    lowest = min(costs)
    return [(1.0 + lowest) / (1.0 + cost) for cost in costs]


def only(chosen: list[bool]) -> list[float]:
    """1 for whom a rule chooses, 0 for the others."""
    return [1.0 if one else 0.0 for one in chosen]


def _tied(totals: list[float]) -> list[int]:
    bar = max(totals) - TIE
    return [i for i, total in enumerate(totals) if total >= bar]


@pickers.register("best_random_tie")
class BestRandomTie(Picker, frozen=True):
    """The highest total; equal ones are drawn from, by the request's own random stream. As llm-d's max-score picker,
    which shuffles before it sorts, and as Dynamo's at temperature 0."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        tied = _tied(totals)
        return tied[0] if len(tied) == 1 else known.luck(arrived).choice(tied)


@pickers.register("best_fewest_requests")
class BestFewestRequests(Picker, frozen=True):
    """The highest total; of equal ones that with the fewest of our requests in flight, and then each in turn."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        tied = _tied(totals)
        fewest = min(known.endpoints[i].in_flight for i in tied)
        tied = [i for i in tied if known.endpoints[i].in_flight == fewest]
        return tied[known.turn % len(tied)]


@pickers.register("session_hash")
class SessionHash(Picker, frozen=True):
    """The endpoint whose id hashes highest together with the conversation's key (rendezvous hashing), whatever the
    scores: a conversation stays where it is while the fleet is the same, and only those of a lost endpoint move. A
    request without a conversation goes to the highest total; equal ones take turns.

    source   vllm-router `rendezvous_hash`, and its `consistent_hash` and production-stack's `session`, whose ring of
             virtual nodes spreads as this does; production-stack too sends a request without key by load
    """

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        if not arrived.session:
            tied = _tied(totals)
            return tied[known.turn % len(tied)]
        hashes = [_hash(arrived.session, endpoint.id) for endpoint in known.endpoints]
        return hashes.index(max(hashes))


def _hash(session: int, endpoint: str) -> int:
    return int.from_bytes(blake2b(f"{session}/{endpoint}".encode(), digest_size=8).digest())
