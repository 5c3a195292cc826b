"""Engines that many tests here ask and none hurts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.core.events import Role
from rig.engines import Engine, Rig
from rig.exchange import Exchange, lacking


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
