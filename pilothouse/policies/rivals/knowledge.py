"""How each rival knows what the engines hold, so that a comparison gives each what it has, no less and no more."""

from enum import StrEnum

import msgspec

from pilothouse.core.units import SECOND, Micros

LLMD_SCRAPE_US = Micros(SECOND // 20)  # its default refresh interval of metrics
CHARACTERS_PER_BLOCK = 4 * 16  # at 4 characters per token, as the approximate routers count
NEVER_FORGETS = 10_000_000  # blocks; stands for no bound
SMG_TREE = 67_108_864 // CHARACTERS_PER_BLOCK  # --max-tree-size, characters per engine
AIBRIX_TABLE = 200_000 * 128 // CHARACTERS_PER_BLOCK  # blocks of 128 characters, one table for all engines


class Knows(StrEnum):
    """Where the KV index comes from."""

    NOTHING = "nothing"  # it does not look at caches
    APPROXIMATE = "approximate"  # it remembers its own routes
    PRECISE = "precise"  # the engines' KV events


class CacheKnowledge(msgspec.Struct, frozen=True):
    """One rival's signals."""

    knows: Knows
    blocks: int | None = None  # remembered per engine, of 16 tokens; None = as many as the engine has
    scrape_us: Micros = Micros(0)  # between load reports; 0 = it reads none


NOTHING = CacheKnowledge(Knows.NOTHING)
PRECISE = CacheKnowledge(Knows.PRECISE)

CACHE_KNOWLEDGE = {
    "kube_service": NOTHING,
    "round_robin": NOTHING,
    "least_requests": NOTHING,
    "power_of_two": NOTHING,
    "session_affinity": NOTHING,
    "session_hash": NOTHING,
    # A bound of 10,000 characters in the documented set applies only at evictions, 30 s apart: not to be represented.
    "sglang_cache_aware": CacheKnowledge(Knows.APPROXIMATE, SMG_TREE),
    "sglang_cache_aware_docs": CacheKnowledge(Knows.APPROXIMATE, SMG_TREE),
    "vllm_router_cache_aware": CacheKnowledge(Knows.APPROXIMATE, SMG_TREE),
    "production_stack_prefix": CacheKnowledge(Knows.APPROXIMATE, NEVER_FORGETS),
    "aibrix_prefix_cache": CacheKnowledge(Knows.APPROXIMATE, AIBRIX_TABLE),
    "aibrix_prefix_cache_docs": CacheKnowledge(Knows.APPROXIMATE, AIBRIX_TABLE),
    # Tuned to the engine's number of blocks, which its metrics tell; 31,250 where they do not.
    "llmd_default": CacheKnowledge(Knows.APPROXIMATE, None, LLMD_SCRAPE_US),
    "llmd_optimized_baseline": CacheKnowledge(Knows.APPROXIMATE, None),
    "llmd_precise_prefix": CacheKnowledge(Knows.PRECISE, None, LLMD_SCRAPE_US),
    "dynamo": PRECISE,
    # Papers and prototypes: they are given the better of the two.
    "lmetric": PRECISE,
    "least_prefill": PRECISE,
}
