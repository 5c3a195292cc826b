"""Filters: who must not be chosen. Health, models and learned limits are the dispatcher's own and need no filter."""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Filter, Known, filters


@filters.register("kv_headroom")
class KvHeadroom(Filter, frozen=True):
    """Leaves out endpoints whose KV cache is nearly all in use by running requests, unless that leaves nobody.

    Signal: last load report (scraped); an endpoint without one, or with a stale one, stays.
    """

    used_ratio_max: float = 0.95  # of the KV space, 0..1

    def __post_init__(self) -> None:
        if not 0 < self.used_ratio_max <= 1:
            raise ValueError("used_ratio_max must be above 0 and at most 1")

    def keep(self, arrived: Arrived, known: Known) -> list[bool]:
        keep = [r is None or r.kv_used_ratio <= self.used_ratio_max for r in known.reports]
        return keep if any(keep) else [True] * len(keep)


@filters.register("in_flight_limit")
class InFlightLimit(Filter, frozen=True):
    """Leaves out endpoints that have `requests_max` of our requests; with none left, the request waits.

    Signal: the in-flight ledger, always current.
    """

    requests_max: int = 256  # requests per endpoint

    def __post_init__(self) -> None:
        if self.requests_max < 1:
            raise ValueError("requests_max must be at least 1")

    def keep(self, arrived: Arrived, known: Known) -> list[bool]:
        return [e.in_flight < self.requests_max for e in known.endpoints]


@filters.register("without_speculation")
class WithoutSpeculation(Filter, frozen=True):
    """Requests that a grammar, a schema or tools bind go to endpoints that do not speculate, if one is up.

    Engines reject drafts that the grammar forbids, so that drafting for such a request is work for little or nothing.
    Other requests go anywhere. Signals: the request's body; what the engine says of its speculation; in-flight ledger.
    """

    requests_max: int = 0  # an endpoint with so many of our requests is as good as one that speculates; 0 = no limit

    def __post_init__(self) -> None:
        if self.requests_max < 0:
            raise ValueError("requests_max must not be negative")

    def keep(self, arrived: Arrived, known: Known) -> list[bool]:
        if not arrived.constrained:
            return [True] * len(known.endpoints)
        most = self.requests_max
        keep = [not e.seen.speculation and not 0 < most <= e.in_flight for e in known.endpoints]
        return keep if any(keep) else [True] * len(keep)
