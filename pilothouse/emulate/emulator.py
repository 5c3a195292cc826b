"""One emulated engine behind one address: its faults, its life and death, and who answers which path."""

import asyncio
import logging
import os
from typing import Any

import msgspec

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.emulate import asked as asking
from pilothouse.emulate.api import Api, Handler
from pilothouse.emulate.bodies import FINGERPRINT
from pilothouse.emulate.connection import Connection, Request
from pilothouse.emulate.errors import Refused
from pilothouse.emulate.faults import NONE, Faults
from pilothouse.emulate.filler import Words
from pilothouse.emulate.life import begin
from pilothouse.emulate.prompts import Prompts
from pilothouse.emulate.settings import Settings
from pilothouse.emulate.transfer import Let
from pilothouse.live.supervise import supervised
from pilothouse.sim.engine import Engine

log = logging.getLogger(__name__)

REBIRTHS_MAX = 250  # attempts to bind again, 20 ms apart
NOT_FOUND, NOT_ALLOWED = b'{"detail":"Not Found"}', b'{"detail":"Method Not Allowed"}'


class Emulator:
    """`run` until cancelled. `number` tells the replicas of one process apart."""

    def __init__(
        self, settings: Settings, prompts: Prompts, words: Words, number: int, host: str, port: int, kv_port: int,
        others: dict[str, Let] | None = None,
    ) -> None:  # fmt: skip
        self.number, self.host, self.port = number, host, port
        self.connections: dict[Connection, None] = {}
        self.hung = False
        self.faults = NONE
        self.listening = asyncio.Event()
        self.peers: list[Emulator] = [self]  # all of this process, for faults
        self._settings, self._prompts, self._words = settings, prompts, words
        self._others = {} if others is None else others  # engines of this process, which hand KV to each other
        self._kv_ports = (kv_port, kv_port + 1) if kv_port else (0, 0)
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._lives = 0
        self._own: dict[str, dict[str, Handler]] = {
            "/emulator": {"GET": self._status},
            "/emulator/faults": {"GET": self._show_faults, "POST": self._set_faults, "DELETE": self._clear_faults},
        }
        self._born()

    @property
    def engine(self) -> Engine:
        """The simulated engine of this life."""
        return self._life.replica.engine

    # Life

    async def run(self) -> None:
        """Listens, and does what the faults say."""
        try:
            while True:
                self._changed.clear()
                if self.faults.crash:
                    self.dispose()
                elif self._dead:
                    await self._reborn()
                await self._set_listening(not (self.faults.refuse or self.faults.crash))
                self.listening.set()
                async with asyncio.TaskGroup() as tasks:
                    replays = tasks.create_task(supervised(f"kv_replay/{self.number}", self._serve_replays))
                    await self._wait()
                    replays.cancel()
        finally:
            await self._set_listening(False)
            self.dispose()

    def inject(self, faults: Faults) -> None:
        """From now on; what was asked for before is over."""
        self.faults = self._life.generation.faults = faults
        self.hung = faults.hang
        self._changed.set()
        if not self._dead:
            self._life.replica.change_pace(self._factor())

    def drain(self) -> None:
        """Closes connections that have nothing to do."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def dispose(self) -> None:
        """Lets go of everything, if that has not happened yet."""
        if not self._dead:
            self._die()

    def _born(self) -> None:
        """A new process, as far as anybody can tell."""
        name = f"{self.number}/{self._lives + 1}"

        def address() -> tuple[str, int]:
            return self.host, self.port

        parts = self._settings, self._prompts, self._words
        self._life = begin(*parts, name, address, self._kv_ports, self._factor(), self._others)
        self._lives, self._dead = self._lives + 1, False
        self._life.generation.faults = self.faults
        if self._life.publisher is not None:
            self._kv_ports = self._life.publisher.ports  # those who follow it expect it there after a restart
        self._routes = Api(self._life).routes | self._own

    async def _reborn(self) -> None:
        """Its old sockets are given back in the background: until then their addresses are taken."""
        for attempt in range(REBIRTHS_MAX):
            try:
                self._born()
                return
            except ConfigError:
                if attempt + 1 == REBIRTHS_MAX:
                    raise
                await asyncio.sleep(0.02)

    def _die(self) -> None:
        self._dead = True
        self._life.end()
        for connection in list(self.connections):
            connection.abort()

    def _factor(self) -> float:
        return 0.0 if self.faults.hang else self._settings.wanted.time_scale / self.faults.slow

    async def _wait(self) -> None:
        """Until the faults change, by order or because their time is over."""
        timeout = self.faults.seconds if self.faults is not NONE and self.faults.seconds else None
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            self.inject(NONE)

    async def _serve_replays(self) -> None:
        if self._life.publisher is not None:
            await self._life.publisher.serve()

    async def _set_listening(self, wanted: bool) -> None:
        if wanted and self._server is None:
            loop = asyncio.get_running_loop()
            try:
                self._server = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=1024)
            except OSError as error:
                why = os.strerror(error.errno) if error.errno else str(error)
                raise ConfigError([Problem("--port", f"cannot listen on {self.host}:{self.port}: {why}")]) from None
            self.port = self._server.sockets[0].getsockname()[1]
        elif not wanted and self._server is not None:
            self._server.close()
            self._server = None

    # Requests

    def handle(self, connection: Connection, request: Request) -> None:
        """Finds who answers."""
        if self.hung and not request.path.startswith("/emulator"):
            return  # the connection stays open and hears nothing
        handlers = self._routes.get(request.path)
        if handlers is None:
            connection.reply(404, NOT_FOUND)
            return
        handler = handlers.get(request.method)
        if handler is None:
            connection.reply(405, NOT_ALLOWED, more=b"allow: %b\r\n" % ", ".join(handlers).encode())
            return
        try:
            handler(connection, request)
        except Refused as refused:
            connection.refuse(refused)
        except Exception:
            log.exception("a request crashed")
            connection.refuse(Refused("Internal server error", 500))

    # The emulator's own

    def status(self) -> dict[str, Any]:
        replica = self._life.replica
        return {
            "emulated": self._settings.title,
            "label": FINGERPRINT,
            "replica": self.number,
            "url": f"http://{self.host}:{self.port}",
            "steps": replica.steps,
            "steps_late": replica.late_steps,
            "lateness_ms_mean": replica.late_us / 1000 / max(1, replica.steps),
            "lateness_ms_max": replica.latest_us / 1000,
            "preemptions": replica.engine.preemptions,
            "connections": len(self.connections),
            "step_time": replica.engine.spec.step_time,
            "faults": self.faults,
        }

    def _status(self, connection: Connection, request: Request) -> None:
        connection.reply(200, msgspec.json.encode([peer.status() for peer in self.peers]))

    def _show_faults(self, connection: Connection, request: Request) -> None:
        connection.reply(200, msgspec.json.encode(self.faults))

    def _set_faults(self, connection: Connection, request: Request) -> None:
        """`replica` in the body chooses another one of the process: one that does not listen cannot be asked itself."""
        body = asking.decode(request.body)
        peer = self._peer(body.pop("replica", self.number))
        try:
            faults = msgspec.convert(body, Faults)
        except ValueError as error:
            raise Refused(str(error)) from None
        connection.reply(200, msgspec.json.encode(faults))
        peer.inject(faults)

    def _clear_faults(self, connection: Connection, request: Request) -> None:
        body = asking.decode(request.body) if request.body else {}
        self._peer(body.get("replica", self.number)).inject(NONE)
        connection.reply(200, msgspec.json.encode(NONE))

    def _peer(self, number: object) -> "Emulator":
        for peer in self.peers:
            if peer.number == number:
                return peer
        raise Refused(f"there is no replica {number}: there are {len(self.peers)}, from 0", 404)
