"""Whole gateways in front of real engines. Every gateway of a test is stopped and held to the laws at its end."""

import asyncio
import inspect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.commands import Reject
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished
from rig.engines import Engine, Rig, wait_until
from rig.gateways import COMMAND, Gateway, fleet
from tests.gateway.language import MARK

TEST_S_MAX = 90.0
_numbers = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs tests that are coroutines."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), TEST_S_MAX))
    return True


@pytest.fixture(scope="session")
def replicas(rig: Rig, tiny: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two real engines for all tests."""
    pair = rig.start(tiny), rig.start(tiny)
    yield pair
    for engine in pair:
        engine.kill()


@pytest.fixture
def pair(rig: Rig, replicas: tuple[Engine, Engine]) -> tuple[Engine, Engine]:
    """The two, alive and answering whatever the test before did to them."""
    for engine in replicas:
        engine.resume()
        if not engine.alive:
            rig.restart(engine)
    for engine in replicas:
        engine.wait_ready()
    return replicas


@dataclass
class Gateways:
    """Starts gateways and holds each to the laws when it stops."""

    directory: Path
    running: list[Gateway] = field(default_factory=list)
    secrets: list[bytes] = field(default_factory=lambda: [MARK.encode()])

    def start(self, *urls: str, env: dict[str, str] | None = None, command: tuple[str, ...] = COMMAND, **config: Any) -> Gateway:
        """A gateway in front of these engines; it knows what they are when this returns, if they answer."""
        directory = self.directory / f"gateway-{next(_numbers)}"
        gateway = Gateway.start(directory, fleet(*urls, **config), env=env, command=command)
        self.running.append(gateway)
        return gateway

    def steer(self, *urls: str, **config: Any) -> Gateway:
        """`start`, and wait until all engines are up."""
        gateway = self.start(*urls, **config)
        assert wait_until(lambda: gateway.states() == " ".join(["up"] * len(urls)), 10), gateway.said()
        wanted = len(urls)
        assert wait_until(lambda: sum(bool(e["models"]) for e in gateway.status()["endpoints"]) == wanted, 10)
        return gateway

    def finish(self, gateway: Gateway, *, status: int = 0, idle: bool = True) -> None:
        """The laws that hold at the end of every gateway."""
        self.running.remove(gateway)
        if gateway.process.poll() is None:
            assert not idle or wait_until(gateway.is_idle, 10), gateway.status()
            family = [gateway.process.pid, *gateway.children()]
            assert gateway.stop() == status, gateway.said()
            assert not [pid for pid in family if Path(f"/proc/{pid}").exists()], "a process is left"
        assert not list(gateway.directory.glob("pilothouse-*")), "a directory is left"
        assert gateway.verified().differences == 0, gateway.verified().first
        assert_one_end_each(gateway)
        assert_secret(gateway, self.secrets)
        said = gateway.said()
        assert "Traceback" not in said or status == 70, said
        assert "crashed" not in said, said


def assert_one_end_each(gateway: Gateway) -> None:
    """In the journal each request arrives, and ends, exactly once; a new picker may be asked again for one it lost."""
    open_requests: dict[str, int] = {}
    for entry in gateway.entries():
        event = entry.event
        if isinstance(event, Arrived):
            open_requests[event.request] = open_requests.get(event.request, 0) + 1
        ends = isinstance(event, Finished | Cancelled) or (isinstance(event, Failed) and event.sent)
        ended = [event.request] if ends else []  # type: ignore[union-attr]
        ended += [command.request for command in entry.commands if isinstance(command, Reject)]
        for request in ended:
            open_requests[request] -= 1
            assert open_requests[request] == 0, f"{request} ended twice"
    if gateway.process.returncode == 0 and not re.search(r"picker failed", gateway.said()):
        assert not [request for request, count in open_requests.items() if count], "a request never ended"


def assert_secret(gateway: Gateway, secrets: list[bytes]) -> None:
    """What was written holds neither prompts nor keys."""
    for path in gateway.directory.rglob("*"):
        if path.is_file() and path.name != "pilothouse.yaml":
            data = path.read_bytes()
            assert not [secret for secret in secrets if secret in data], f"a secret is in {path.name}"


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    """The factory; a gateway that a test did not finish itself is finished here."""
    made = Gateways(tmp_path)
    try:
        yield made
        for gateway in list(made.running):
            made.finish(gateway)
    finally:
        for gateway in made.running:
            gateway.kill()
