"""Scorers: how good each endpoint is for this request, between 0 and 1."""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Scorer, scorers


@scorers.register("cache_and_load")
class CacheAndLoad(Scorer, frozen=True):
    """Cache and load in one unit: the prefill work, in tokens, that stands between this request and its first token.

    cost = (queued prefill + this prompt's uncached tokens + step_tokens) x (1 + decode_slowdown x running requests)
           + work_weight x this prompt's uncached tokens

    A cached prefix and a short queue are worth exactly the prefill they save, so there is no threshold at which one
    overrides the other. The factor is what decodes already running do to a prefill step, and what the prefill would do
    to them. The last term is what new work costs everybody who comes later: without it a burst of equal prompts would
    be computed on every idle engine. A prefix that has to be loaded from a lower tier counts as the tokens that the
    endpoint would compute in that time, by its learned speed. The score is the lowest cost divided by the endpoint's cost.
    Signals: KV index (events, or own routes), in-flight ledger (current); others' requests by the last report.
    Source of the form: pending prefill plus uncached length, as in Mooncake (FAST'25) and LPWL; batch factor as in
    LMetric (arXiv 2603.15202), softened; default slope = batch slope over fixed step time of published step-time fits
    (0.00042 s / 0.0106 s per running request).
    """

    decode_slowdown: float = 0.04  # relative slowdown per running request
    work_weight: float = 0.25  # cost to others of a token computed rather than reused
    step_tokens: int = 16  # fixed cost of any prefill [tokens], so that load counts for a fully cached prompt too

    def __post_init__(self) -> None:
        if not 0 <= self.decode_slowdown < 1e6:  # also refuses what is not a number
            raise ValueError("decode_slowdown must be at least 0 and below a million")
        if self.work_weight < 0:
            raise ValueError("work_weight must not be negative")
        if self.step_tokens < 1:
            raise ValueError("step_tokens must be at least 1")

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        slowdown, step, work = self.decode_slowdown, self.step_tokens, self.work_weight
        costs = [
            (endpoint.prefill_tokens + uncached + step) * (1.0 + slowdown * (endpoint.in_flight + others))
            + work * uncached
            for endpoint, uncached, others in zip(known.endpoints, known.uncached_tokens, known.others, strict=True)
        ]
        if known.load_us:
            costs = [
                cost + load_us * endpoint.prefill_rate
                for cost, load_us, endpoint in zip(costs, known.load_us, known.endpoints, strict=True)
            ]
        lowest = min(costs)
        return [lowest / cost for cost in costs]


@scorers.register("prefix_cache")
class PrefixCache(Scorer, frozen=True):
    """The share of the prompt that the endpoint is expected to hold in its KV cache. Signal: KV index."""

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        tokens = max(1, arrived.prompt_tokens)
        return [min(1.0, cached / tokens) for cached in known.cached_tokens]


@scorers.register("least_requests")
class LeastRequests(Scorer, frozen=True):
    """1 for the endpoint with the fewest requests, falling with each one more.

    Signals: in-flight ledger (current); others' requests by the last report.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        counts = [e.in_flight + others for e, others in zip(known.endpoints, known.others, strict=True)]
        fewest = min(counts)
        return [(1 + fewest) / (1 + count) for count in counts]


@scorers.register("queue_depth")
class QueueDepth(Scorer, frozen=True):
    """1 for an empty engine queue, falling linearly to 0 at `requests_max` waiting requests.

    Signal: last load report (scraped); an endpoint without one, or with a stale one, scores 0.5.
    """

    requests_max: int = 128  # waiting requests at which the score is 0

    def __post_init__(self) -> None:
        if self.requests_max < 1:
            raise ValueError("requests_max must be at least 1")

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return [0.5 if r is None else max(0.0, 1 - r.waiting / self.requests_max) for r in known.reports]


@scorers.register("kv_free")
class KvFree(Scorer, frozen=True):
    """The share of KV space not in use by running requests. Signal: last load report; without a fresh one, 0.5."""

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return [0.5 if r is None else min(1.0, max(0.0, 1 - r.kv_used_ratio)) for r in known.reports]


@scorers.register("session")
class Session(Scorer, frozen=True):
    """1 for the endpoint that served this conversation last, else 0. Signal: own routes, bounded memory.

    The conversation is named by the client: see `session` in the gateway's configuration.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return [1.0 if e.id == known.session_endpoint else 0.0 for e in known.endpoints]
