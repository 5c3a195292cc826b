"""Where a pool's KV lies below the GPU, from its configuration: how fast it comes from there, and which store it shares.

With a connector to a store (mooncake_store, lmcache) all pools of that connector share one, unless their `tiers.store`
names say otherwise; it holds the KV of one model, as its keys do. Mooncake's engines report each block that they put into
it, and never what it drops. LMCache's server writes through, and its events, if any, name chunks of its own size by
hashes of its own: what an engine computes counts as stored there, and those events are passed over. (It keeps whole
chunks: the end of a prompt may be missing.)
"""

from enum import StrEnum

import msgspec

from pilothouse.config.schema import Pool
from pilothouse.core.events import EndpointSeen, Tier
from pilothouse.core.handover import TOKEN_BYTES

STORES = ("mooncake_store", "lmcache")


class StoreFeed(StrEnum):
    """How one learns what an engine puts into a shared store."""

    NONE = "none"  # there is no such store: what lies outside the GPU is the engine's own
    TOLD = "told"  # by its events
    ASSUMED = "assumed"  # all that it computes


def store_feed(pool: Pool) -> StoreFeed:
    if not store_name(pool):
        return StoreFeed.NONE
    return StoreFeed.ASSUMED if pool.connector is not None and pool.connector.type == "lmcache" else StoreFeed.TOLD


def store_name(pool: Pool) -> str:
    """ "" = it shares none."""
    if pool.tiers.store is not None:
        return pool.tiers.store
    return pool.connector.type if pool.connector is not None and pool.connector.type in STORES else ""


def with_tiers(seen: EndpointSeen, pool: Pool) -> EndpointSeen:
    """The description of one of its engines, with what its pool says of tiers."""
    name, tiers = store_name(pool), pool.tiers
    rates = {Tier.DRAM: tiers.dram_gb_per_s, Tier.DISK: tiers.disk_gb_per_s, Tier.REMOTE: tiers.remote_gb_per_s}
    block_bytes = seen.block_size * (seen.kv_token_bytes or TOKEN_BYTES)
    return msgspec.structs.replace(
        seen,
        store=f"{name}/{seen.models[0]}" if name and seen.models else "",
        store_blocks=tiers.store_size // block_bytes if name and tiers.store_size and block_bytes else 0,
        tier_gb_per_s={tier: rate for tier, rate in rates.items() if rate is not None},
    )
