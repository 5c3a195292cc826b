"""Gateways for tests, and the laws that hold at the end of every one of them."""

import asyncio
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilothouse.core.commands import Reject
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished
from pilothouse.journal.log import read, segments
from rig.engines import wait_until
from rig.gateways import COMMAND, Gateway, fleet
from tests.gateway.language import MARK, until

_numbers = itertools.count()


@dataclass
class Gateways:
    """Starts gateways and holds each to the laws when it stops."""

    directory: Path
    running: list[Gateway] = field(default_factory=list)
    secrets: list[bytes] = field(default_factory=lambda: [MARK.encode()])

    async def start(
        self,
        *urls: str,
        env: dict[str, str] | None = None,
        command: tuple[str, ...] = COMMAND,
        wait: bool = True,
        **config: Any,
    ) -> Gateway:
        """A gateway in front of these engines, whether they answer or not."""
        directory = self.directory / f"gateway-{next(_numbers)}"
        gateway = await asyncio.to_thread(
            lambda: Gateway.start(directory, fleet(*urls, **config), env=env, command=command, wait=wait)
        )
        self.running.append(gateway)
        return gateway

    async def steer(self, *urls: str, **config: Any) -> Gateway:
        """`start`, and wait until all engines are up and inspected."""
        gateway = await self.start(*urls, **config)
        await until(lambda: all(e["state"] == "up" and e["models"] for e in gateway.status()["endpoints"]))
        return gateway

    async def finish(self, gateway: Gateway, *, status: int = 0, idle: bool = True) -> None:
        """Stops a gateway if it runs, and checks the laws that hold at the end of every one."""
        await asyncio.to_thread(lambda: self.finish_now(gateway, status=status, idle=idle))

    def finish_now(self, gateway: Gateway, *, status: int = 0, idle: bool = True) -> None:
        """The same, for who has no loop."""
        try:
            self._finish(gateway, status, idle)
        finally:
            gateway.kill()
            self.running.remove(gateway)

    def _finish(self, gateway: Gateway, status: int, idle: bool) -> None:
        if gateway.process.poll() is None:
            assert not idle or wait_until(gateway.is_idle, 10), gateway.status()
            family = [gateway.process.pid, *gateway.children()]
            assert gateway.stop() == status, gateway.said()
            assert not [pid for pid in family if Path(f"/proc/{pid}").exists()], "a process is left"
        assert not list(gateway.directory.glob("pilothouse-*")), "a directory is left"
        if segments(gateway.journal):  # there is none if it was stopped before anything happened
            assert gateway.verified().differences == 0, gateway.verified().first
        assert_one_end_each(gateway)
        assert_secret(gateway, self.secrets)
        said = gateway.said()
        assert "Traceback" not in said or status == 70, said
        assert "crashed" not in said, said


def assert_one_end_each(gateway: Gateway) -> None:
    """In the journal each request arrives once and ends once; what a killed picker had open, its successor is asked anew."""
    run, under_way = "", set[str]()
    for segment in filter(None, map(read, segments(gateway.journal))):
        if segment.header.run != run:
            run, under_way = segment.header.run, set()
        for entry in segment.entries:
            event = entry.event
            if isinstance(event, Arrived):
                assert event.request not in under_way, f"{event.request} arrived twice"
                under_way.add(event.request)
            ends = isinstance(event, Finished | Cancelled) or (isinstance(event, Failed) and event.sent)
            ended = [event.request] if ends else []  # type: ignore[union-attr]
            ended += [command.request for command in entry.commands if isinstance(command, Reject)]
            for request in ended:
                assert request in under_way, f"{request} ended twice"
                under_way.remove(request)
    if gateway.process.returncode == 0:
        assert not under_way, "a request never ended"


def assert_secret(gateway: Gateway, secrets: list[bytes]) -> None:
    """What was written holds neither prompts nor keys."""
    for path in gateway.directory.rglob("*"):
        if path.is_file() and path.name != "pilothouse.yaml":
            data = path.read_bytes()
            assert not [secret for secret in secrets if secret in data], f"a secret is in {path.name}"
