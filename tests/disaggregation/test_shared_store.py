"""A store that two real engines share: the gateway knows what one put there, and that the other can fetch it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.core.commands import Route
from pilothouse.core.events import BlocksStored, Role, Tier
from rig.engines import Engine, Rig, wait_until
from rig.exchange import Exchange, lacking
from rig.gateways import QUICK, Gateway
from tests.disaggregation.by_hand import Address, completion, varied_prompt

pytestmark = pytest.mark.engine

IN_TURN = {"scorers": ["least_requests"]}  # of two idle engines, the one whose turn it is
FULL = 384  # of 400 tokens, in whole blocks


@pytest.mark.parametrize("connector", ["mooncake_store", "lmcache"])
def test_what_one_engine_stored_the_other_fetches_and_the_receipt_says_so(
    connector: str, rig: Rig, tiny: Path, tmp_path: Path, single: Engine
) -> None:
    if why := lacking(connector):
        pytest.skip(why)
    prompt = varied_prompt(11)
    with Exchange(rig, connector) as exchange:
        pair = [exchange.start(Role.BOTH, tiny) for _ in range(2)]
        for engine in pair:
            engine.wait_ready()
        pool = exchange.pool(Role.BOTH, *pair) | {"tiers": {"store_size": "64MiB"}}
        with Gateway.start(tmp_path / "gateway", QUICK | {"pools": [pool], "policy": IN_TURN}) as gateway:
            wait_until(gateway.is_steering, 20)
            first = completion(Address(gateway.url), prompt, request="first")
            wait_until(lambda: stored(gateway) >= FULL // 32, 20)
            second = completion(Address(gateway.url), prompt, request="second")
            routes = [decided(gateway, name) for name in ("first", "second")]
            gateway.stop()
    assert routes[0].endpoint != routes[1].endpoint and routes[1].cached_tokens == FULL
    lower = {c.endpoint: c.lower_tokens for c in routes[1].why.candidates}
    assert lower == {routes[0].endpoint: [], routes[1].endpoint: [0, 0, FULL]}
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == FULL
    right = completion(single, prompt)["choices"][0]["token_ids"]
    assert first["choices"][0]["token_ids"] == second["choices"][0]["token_ids"] == right
    put = [e.event for e in gateway.entries() if isinstance(e.event, BlocksStored) and e.event.tier is Tier.REMOTE]
    assert put and gateway.verified().differences == 0


def stored(gateway: Gateway) -> int:
    """Blocks in the store, as far as the gateway knows."""
    index: dict[str, Any] = gateway.status()["index"]
    return sum(index["stores"].values())


def decided(gateway: Gateway, request: str) -> Route:
    (route,) = json.loads(gateway.get(f"/explain/{request}")[1])["routes"]
    return msgspec.convert(route, Route)
