"""Whole gateways in front of real engines. Every gateway of a test is stopped and held to the laws at its end."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.engines import Engine, Rig
from tests.gateway.laws import Gateways

TEST_S_MAX = 90.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs tests that are coroutines."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), TEST_S_MAX))
    return True


Pair = tuple[Engine, Engine]


@pytest.fixture(scope="session")
def replicas(rig: Rig, tiny: Path) -> Iterator[Pair]:
    """Two real engines for all tests."""
    yield from running(rig.start(tiny), rig.start(tiny))


@pytest.fixture(scope="session")
def quiet_replicas(rig: Rig, tiny: Path) -> Iterator[Pair]:
    """Two that publish no KV events."""
    yield from running(rig.start(tiny, kv_events=False), rig.start(tiny, kv_events=False))


@pytest.fixture
def pair(rig: Rig, replicas: Pair) -> Pair:
    """The two, alive and answering whatever the test before did to them."""
    return revived(rig, replicas)


@pytest.fixture
def quiet(rig: Rig, quiet_replicas: Pair) -> Pair:
    """The same without KV events."""
    return revived(rig, quiet_replicas)


def running(*pair: Engine) -> Iterator[Pair]:
    yield pair  # type: ignore[misc]
    for engine in pair:
        engine.kill()


def revived(rig: Rig, pair: Pair) -> Pair:
    for engine in pair:
        engine.resume()
        if not engine.alive:
            rig.restart(engine)
    for engine in pair:
        engine.wait_ready()
    return pair


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    """The factory; a gateway that a test did not finish itself is finished here."""
    made = Gateways(tmp_path)
    try:
        yield made
        for gateway in list(made.running):
            made.finish_now(gateway)
    finally:
        for gateway in made.running:
            gateway.kill()
