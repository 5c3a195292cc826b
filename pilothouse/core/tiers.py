"""What a prompt's cached tokens cost to bring to the GPU, from the tier they lie in.

An engine loads what its lower tiers hold, dearer than computing or not; so what loading takes is what a block there costs.
A token takes its KV's bytes through the rate of its tier, which a pool's configuration may say.
"""

from dataclasses import dataclass, field

from pilothouse.core.events import Arrived, EndpointSeen, Tier
from pilothouse.core.fleet import Endpoint
from pilothouse.core.handover import TOKEN_BYTES
from pilothouse.core.kvindex import KvIndex

# GB/s where nobody says. DRAM: half of a PCIe 5.0 x16 link's 64; disk: what an NVMe drive sustains (vLLM's tiering code
# reckons with 5); remote: a store that keeps its blocks on such drives. A store in memory behind RDMA is faster: say so.
USUAL_GB_PER_S = {Tier.DRAM: 32.0, Tier.DISK: 5.0, Tier.REMOTE: 5.0}
LOWER = list(USUAL_GB_PER_S)  # fastest first


@dataclass(slots=True)
class Cached:
    """Per candidate, what of a prompt need not be computed."""

    tokens: list[int]  # in all
    lower_tokens: list[list[int]] = field(default_factory=list)  # of these, in each tier of `LOWER`; empty = none
    load_us: list[float] = field(default_factory=list)  # until these are in HBM; empty = nothing to load


def cached(index: KvIndex, arrived: Arrived, candidates: list[Endpoint]) -> Cached:
    """Whole blocks, and never the last token."""
    size = arrived.block_size
    if not arrived.blocks or arrived.prompt_tokens < 1:
        return Cached([0] * len(candidates))
    blocks_max = (arrived.prompt_tokens - 1) // size
    if not index.has_lower:
        return Cached([min(hit, blocks_max) * size for hit in index.lookup(arrived.blocks, candidates)])
    found = index.lookup_tiers(arrived.blocks, candidates)
    reached = [min(hit, blocks_max) * size for hit in found.hbm]
    lower_tokens = [[0] * len(LOWER) for _ in candidates]
    for tier, hits in found.lower:
        place = LOWER.index(tier)
        for i, hit in enumerate(hits):
            upto = min(hit, blocks_max) * size
            lower_tokens[i][place], reached[i] = upto - reached[i], upto
    if not any(map(any, lower_tokens)):
        return Cached(reached)
    loads = [load_us(e.seen, lower) for e, lower in zip(candidates, lower_tokens, strict=True)]
    return Cached(reached, lower_tokens, loads)


def load_us(seen: EndpointSeen, lower_tokens: list[int]) -> float:
    """How long the endpoint takes to load so many tokens from each tier of `LOWER`."""
    if not any(lower_tokens):
        return 0.0
    token_bytes, rates = seen.kv_token_bytes or TOKEN_BYTES, seen.tier_gb_per_s
    return sum(
        tokens * token_bytes / (rates.get(tier, USUAL_GB_PER_S[tier]) * 1e3)
        for tier, tokens in zip(LOWER, lower_tokens, strict=True)
        if tokens
    )
