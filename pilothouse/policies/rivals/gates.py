"""Rivals that look at the prefix first and at the load behind a gate: SGLang, vllm-router, AIBrix, production-stack."""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Scorer, scorers
from pilothouse.policies.rivals.choosing import only


@scorers.register("sglang_cache_aware")
class SglangCacheAware(Scorer, frozen=True):
    """Cache-aware mode of SGLang's gateway and of vllm-router: if the fleet is imbalanced, the least loaded; else the
    longest match, if it is long enough; else the least loaded.

    Imbalanced: (most - fewest) > balance_abs and most > balance_rel x fewest requests, over the fleet. The defaults are
    those of both command lines; their documentation has 0.5 / 32 / 1.1. With `sessions`, as in vllm-router, a
    conversation of a balanced fleet stays where it was, whatever matches.
    The original matches characters in its own radix tree; here it is tokens in the KV index. SGLang's older revisions
    send what nobody matches to the smallest tree; here, as in vllm-router and later revisions, to the least loaded.
    Signals: KV index, in-flight ledger; with `sessions` own routes of conversations.
    source   sgl-project/sglang sgl-router/src/policies/cache_aware.rs, vllm-project/router src/policies/cache_aware.rs
    """

    match_ratio_min: float = 0.3  # of the prompt
    balance_abs: int = 64  # requests
    balance_rel: float = 1.5
    sessions: bool = False

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        loads = [endpoint.in_flight for endpoint in known.endpoints]
        most, fewest, longest = max(loads), min(loads), max(known.cached_tokens)
        balanced = most - fewest <= self.balance_abs or most <= fewest * self.balance_rel
        if balanced and self.sessions and known.session_endpoint is not None:
            last = [endpoint.id == known.session_endpoint for endpoint in known.endpoints]
            if any(last):
                return only(last)
        if balanced and longest > self.match_ratio_min * arrived.prompt_tokens:
            return only([cached == longest for cached in known.cached_tokens])
        return only([load == fewest for load in loads])


@scorers.register("aibrix_prefix_cache")
class AibrixPrefixCache(Scorer, frozen=True):
    """AIBrix `prefix-cache`: the longest match among endpoints with at most mean + deviations x (standard deviation)
    requests, of equal matches the fewest requests; without any, the fewest requests of all.

    If (most - fewest) > balance_abs requests, only those with the fewest may match. Defaults are the code's, 8 and 1;
    its documentation has 16 and 2. Matches are compared in whole percent, as there. The original hashes blocks of
    characters in a table of 200,000; here it is the KV index.
    Signals: KV index, in-flight ledger.
    source   vllm-project/aibrix pkg/plugins/gateway/algorithms/prefix_cache.go, revision e3e10f9 (August 2026)
    """

    balance_abs: int = 8  # requests
    deviations: float = 1.0

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        loads = [endpoint.in_flight for endpoint in known.endpoints]
        most, fewest, mean = max(loads), min(loads), sum(loads) / len(loads)
        busy = mean + self.deviations * (sum((load - mean) ** 2 for load in loads) / len(loads)) ** 0.5
        limit = fewest if most - fewest > self.balance_abs else busy + 1e-9  # two endpoints differ by rounding alone
        tokens = max(1, arrived.prompt_tokens)
        ranks = [
            (100 * cached // tokens, -load) if cached and load <= min(limit, busy + 1e-9) else (0, -load)
            for cached, load in zip(known.cached_tokens, loads, strict=True)
        ]
        best = max(ranks)
        return only([rank == best for rank in ranks])


@scorers.register("production_stack_prefix")
class ProductionStackPrefix(Scorer, frozen=True):
    """vLLM production-stack `prefixaware`: 1 for the longest match, 0 for the others, whatever their load; all 1 if
    nobody matches. Its fall-back to the lowest request rate is off by default (a minimal match of 0).

    The original keeps a trie of hashed chunks of 128 characters that forgets nothing; here it is the KV index, in its
    own blocks. Signal: KV index.
    source   vllm-project/production-stack src/vllm_router/routers/routing_logic.py, revision a6c01db (August 2026)
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        longest = max(known.cached_tokens)
        return only([cached == longest for cached in known.cached_tokens])
