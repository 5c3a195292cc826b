"""What a pool's configuration says of tiers and stores, as its engines' descriptions carry it."""

from typing import Any

import pytest

from pilothouse.config.schema import Connector, Pool, Tiers
from pilothouse.config.values import Size
from pilothouse.core.events import EndpointSeen, Tier
from pilothouse.core.handover import TOKEN_BYTES
from pilothouse.core.units import EndpointId, Micros
from pilothouse.live.stores import StoreFeed, store_feed, with_tiers

SEEN = EndpointSeen(Micros(0), EndpointId("e"), "http://e:8000", "pool", ["m", "m-adapter"], True, 1000, 32)


def pool(connector: str = "", **tiers: Any) -> Pool:
    return Pool(connector=Connector(type=connector) if connector else None, tiers=Tiers(**tiers))


@pytest.mark.parametrize(
    ("connector", "named", "store", "feed"),
    [
        ("", None, "", StoreFeed.NONE),
        ("nixl", None, "", StoreFeed.NONE),
        ("offloading", None, "", StoreFeed.NONE),
        ("mooncake_store", None, "mooncake_store/m", StoreFeed.TOLD),
        ("lmcache", None, "lmcache/m", StoreFeed.ASSUMED),
        ("lmcache", "rack1", "rack1/m", StoreFeed.ASSUMED),
        ("multi", "rack1", "rack1/m", StoreFeed.TOLD),
        ("mooncake_store", "", "", StoreFeed.NONE),
    ],
)
def test_who_shares_which_store(connector: str, named: str | None, store: str, feed: StoreFeed) -> None:
    described = pool(connector, store=named)
    assert (with_tiers(SEEN, described).store, store_feed(described)) == (store, feed)


def test_rates_and_sizes() -> None:
    said = with_tiers(SEEN, pool("lmcache", disk_gb_per_s=3.0, store_size=Size(64 * TOKEN_BYTES)))
    assert (said.tier_gb_per_s, said.store_blocks) == ({Tier.DISK: 3.0}, 2)
    assert with_tiers(SEEN, Pool()) == SEEN
