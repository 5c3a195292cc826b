"""Engines that many tests here ask and none hurts."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.events import Role
from rig.engines import Engine, Rig, wait_until
from rig.exchange import Exchange, lacking
from rig.gateways import Gateway
from tests.gateway.laws import Gateways

Front = Callable[..., Gateway]


@pytest.fixture(scope="package")
def single(rig: Rig, tiny: Path) -> Iterator[Engine]:
    """An engine that exchanges nothing: what it says is right."""
    with rig.start(tiny) as engine:
        yield engine


@pytest.fixture
def pair(rig: Rig, tiny: Path, connector: str) -> Iterator[tuple[Exchange, Engine, Engine]]:
    """A prefill and a decode engine with the test's connector."""
    if why := lacking(connector):
        pytest.skip(why)
    with Exchange(rig, connector) as exchange:
        prefill, decode = (exchange.start(role, tiny) for role in (Role.PREFILL, Role.DECODE))
        prefill.wait_ready(), decode.wait_ready()
        yield exchange, prefill, decode


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """Starts gateways that split whatever can be split; each is held to the laws of all gateways at its end."""
    made = Gateways(tmp_path)

    def start(*pools: dict[str, Any], fallback: str = "local", **more: Any) -> Gateway:
        policy = {"like": "marginal_cost", "decider": {"type": "always", "fallback": fallback}}
        gateway = asyncio.run(made.start(pools=list(pools), policy=policy, **more))
        assert wait_until(gateway.is_steering, 20), gateway.status()
        return gateway

    try:
        yield start
        for gateway in list(made.running):
            made.finish_now(gateway)
    finally:
        for gateway in made.running:
            gateway.kill()
