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
