"""What others ship, from their published formulas, to be compared with: registered like any policy, defaults of theirs.

Policies have no memory, so where a rival keeps some, the docstring says what stands in for it. `RIVALS` are the whole
profiles by name.
Sources: llm-d router v0.8 and its guides; SGLang gateway; NVIDIA Dynamo; LMetric (arXiv 2603.15202); LPWL
(gahow/agentic-kvc). Formulas were read in the projects' public documentation and source.
"""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Picker, Scorer, pickers, scorers
from pilothouse.core.selection import Named, Profile
from pilothouse.policies.pickers import TIE, Best, Random
from pilothouse.policies.scorers import KvFree, LeastRequests, PrefixCache


def _by_cost(costs: list[float]) -> list[float]:
    """Scores in [0, 1], 1 for the lowest cost; the order of costs is the order of scores, reversed."""
    lowest = min(costs)
    return [(1.0 + lowest) / (1.0 + cost) for cost in costs]


@pickers.register("best_random_tie")
class BestRandomTie(Picker, frozen=True):
    """The highest total; equal ones are drawn from, by the request's own random stream. As llm-d's max-score picker."""

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        bar = max(totals) - TIE
        tied = [i for i, total in enumerate(totals) if total >= bar]
        return tied[0] if len(tied) == 1 else known.luck(arrived).choice(tied)


@scorers.register("llmd_queue")
class LlmdQueue(Scorer, frozen=True):
    """llm-d's queue scorer: 1 for the shortest engine queue, 0 for the longest, linear between; all 1 if equal.

    Signal: last load report (scraped); an endpoint without one, or with a stale one, counts as an empty queue.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        queues = [0 if report is None else report.waiting for report in known.reports]
        shortest, longest = min(queues), max(queues)
        if shortest == longest:
            return [1.0] * len(queues)
        return [(longest - queue) / (longest - shortest) for queue in queues]


@scorers.register("llmd_no_hit_lru")
class LlmdNoHitLru(Scorer, frozen=True):
    """llm-d's no-hit LRU: a prompt that nobody holds goes to whom such a prompt came to longest ago; else all get 0.5.

    The list of last cold assignments is memory, which policies do not have. The ledger stands in for it: endpoints are
    ranked by requests in flight, then by pending prefill, which is where recent cold prompts went. (A rotation by turns
    would not do: it hands out common beginnings unevenly, and the published ladder comes out 20 % too slow.)
    Signals: KV index, in-flight ledger.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        count = len(known.endpoints)
        if any(known.cached_tokens) or count == 1:
            return [0.5] * count
        loads = [(endpoint.in_flight, endpoint.prefill_tokens) for endpoint in known.endpoints]
        ranked = sorted(loads)
        return [1.0 - ranked.index(load) / (count - 1) for load in loads]


@scorers.register("sglang_cache_aware")
class SglangCacheAware(Scorer, frozen=True):
    """SGLang gateway's cache-aware mode: if the fleet is imbalanced, the least loaded; else the longest match, if it is
    long enough; else the least loaded.

    Imbalanced: (most - fewest) > balance_abs and most > balance_rel x fewest requests, over the fleet. The original
    matches characters in its own tree and sends what nobody matches to the smallest tree; here it is tokens in the KV
    index, and the least loaded.
    Signals: KV index, in-flight ledger.
    """

    match_ratio_min: float = 0.3  # of the prompt
    balance_abs: int = 64  # requests
    balance_rel: float = 1.5

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        loads = [endpoint.in_flight for endpoint in known.endpoints]
        most, fewest, longest = max(loads), min(loads), max(known.cached_tokens)
        imbalanced = most - fewest > self.balance_abs and most > fewest * self.balance_rel
        if not imbalanced and longest > self.match_ratio_min * arrived.prompt_tokens:
            return [1.0 if cached == longest else 0.0 for cached in known.cached_tokens]
        return [1.0 if load == fewest else 0.0 for load in loads]


@scorers.register("dynamo_cost")
class DynamoCost(Scorer, frozen=True):
    """NVIDIA Dynamo's KV router: prefill_load_scale x prefill blocks (pending and new, less what is cached) + decode
    blocks; the lowest is chosen (temperature 0).

    Decode blocks: the original counts the blocks of active sequences. The ledger counts requests, so each stands for one
    prompt as long as this one, which overstates load when long and short prompts mix.
    Signals: KV index, in-flight ledger.
    """

    prefill_load_scale: float = 1.0
    block_tokens: int = 16

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        size = self.block_tokens
        prompt = arrived.prompt_tokens / size
        costs = [
            self.prefill_load_scale * (endpoint.prefill_tokens + uncached) / size + (endpoint.in_flight + 1) * prompt
            for endpoint, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
        ]
        return _by_cost(costs)


@scorers.register("lmetric")
class LMetric(Scorer, frozen=True):
    """LMetric: (pending prefill + new uncached tokens) x (requests + 1); the lowest is chosen. One is added so that an
    idle endpoint does not cancel the other factor. Signals: KV index, in-flight ledger."""

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return _by_cost(
            [
                float((endpoint.prefill_tokens + uncached) * (endpoint.in_flight + 1))
                for endpoint, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
            ]
        )


@scorers.register("least_prefill")
class LeastPrefill(Scorer, frozen=True):
    """Least pending prefill: tokens dispatched and not computed, plus this prompt's uncached ones; equal ones go by
    fewest requests. No parameters. Signals: KV index, in-flight ledger."""

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return _by_cost(
            [
                endpoint.prefill_tokens + uncached + endpoint.in_flight / 1e6
                for endpoint, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
            ]
        )


RIVALS = {
    profile.name: profile
    for profile in (
        Profile("kube_service", [], [], Random()),
        Profile(
            "llmd_default",
            [],
            [
                Named("llmd_queue", LlmdQueue(), 2.0),
                Named("kv_free", KvFree(), 2.0),
                Named("prefix_cache", PrefixCache(), 3.0),
                Named("llmd_no_hit_lru", LlmdNoHitLru(), 2.0),
            ],
            BestRandomTie(),
        ),
        Profile("sglang_cache_aware", [], [Named("sglang_cache_aware", SglangCacheAware())], Best()),
        Profile("dynamo", [], [Named("dynamo_cost", DynamoCost())], BestRandomTie()),
        Profile("lmetric", [], [Named("lmetric", LMetric())], Best()),
        Profile("least_prefill", [], [Named("least_prefill", LeastPrefill())], Best()),
        Profile("least_requests", [], [Named("least_requests", LeastRequests())], Best()),
    )
}
