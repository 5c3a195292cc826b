"""What others ship, from their published formulas, to be compared with: registered like any policy, defaults of theirs.

Policies have no memory, so where a rival keeps some, the docstring of its part says what stands in for it. `RIVALS` are
the whole profiles by name; `CACHE_KNOWLEDGE` says how each knows what the engines hold.
"""

from pilothouse.core.policy import Filter, Picker, Scorer
from pilothouse.core.selection import Named, Profile
from pilothouse.policies.pickers import Best, PowerOfTwo, Random, RoundRobin
from pilothouse.policies.profiles import PROFILES
from pilothouse.policies.rivals.choosing import BestFewestRequests, BestRandomTie, SessionHash
from pilothouse.policies.rivals.costs import DynamoCost, LeastPrefill, LMetric
from pilothouse.policies.rivals.gates import AibrixPrefixCache, ProductionStackPrefix, SglangCacheAware
from pilothouse.policies.rivals.knowledge import CACHE_KNOWLEDGE, CacheKnowledge, Knows
from pilothouse.policies.rivals.llmd import LlmdNoHitLru, LlmdPrefixAffinity, LlmdQueue, LlmdTokenLoad
from pilothouse.policies.scorers import KvFree, LeastRequests, PrefixCache

__all__ = [
    "CACHE_KNOWLEDGE",
    "RIVALS",
    "BestFewestRequests",
    "BestRandomTie",
    "CacheKnowledge",
    "Knows",
    "SessionHash",
]

LLMD_BLEND = [
    Named("llmd_queue", LlmdQueue(), 2.0),
    Named("kv_free", KvFree(), 2.0),
    Named("prefix_cache", PrefixCache(), 3.0),
    Named("llmd_no_hit_lru", LlmdNoHitLru(), 2.0),
]


def _one(
    name: str, scorer: tuple[str, Scorer], picker: Picker, filters: list[tuple[str, Filter]] | None = None
) -> Profile:
    return Profile(name, filters or [], [Named(*scorer)], picker)


RIVALS = {
    profile.name: profile
    for profile in (
        Profile("kube_service", [], [], Random()),
        Profile("round_robin", [], [], RoundRobin()),
        _one("least_requests", ("least_requests", LeastRequests()), Best()),
        _one("power_of_two", ("least_requests", LeastRequests()), PowerOfTwo()),
        PROFILES["session_affinity"],  # sticky, the least loaded at first, as vllm-router's `sticky_least_loaded`
        _one("session_hash", ("least_requests", LeastRequests()), SessionHash()),
        _one("sglang_cache_aware", ("sglang_cache_aware", SglangCacheAware()), Best()),
        _one("sglang_cache_aware_docs", ("sglang_cache_aware", SglangCacheAware(0.5, 32, 1.1)), Best()),
        _one("vllm_router_cache_aware", ("sglang_cache_aware", SglangCacheAware(sessions=True)), Best()),
        _one("production_stack_prefix", ("production_stack_prefix", ProductionStackPrefix()), BestRandomTie()),
        _one("aibrix_prefix_cache", ("aibrix_prefix_cache", AibrixPrefixCache()), BestRandomTie()),
        _one("aibrix_prefix_cache_docs", ("aibrix_prefix_cache", AibrixPrefixCache(16, 2.0)), BestRandomTie()),
        Profile("llmd_default", [], LLMD_BLEND, BestRandomTie()),
        Profile("llmd_precise_prefix", [], LLMD_BLEND, BestRandomTie()),  # same weights; told of caches by events
        _one(
            "llmd_optimized_baseline",
            ("llmd_token_load", LlmdTokenLoad()),
            BestRandomTie(),
            [("llmd_prefix_affinity", LlmdPrefixAffinity())],
        ),
        _one("dynamo", ("dynamo_cost", DynamoCost()), BestRandomTie()),
        _one("lmetric", ("lmetric", LMetric()), Best()),
        _one("least_prefill", ("least_prefill", LeastPrefill()), BestFewestRequests()),
    )
}
