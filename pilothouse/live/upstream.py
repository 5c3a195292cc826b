"""Connections to engines, kept alive and reused: one bounded pool per engine address.

A reused connection may have been closed by the engine at the moment we wrote to it. If it closes before a byte of the answer
arrived, the request goes out once more on a fresh connection, and nobody counts that as a failure.
"""

import asyncio
import ssl
from urllib.parse import urlsplit

import msgspec

from pilothouse.core.events import FailureKind
from pilothouse.live.answer_head import AnswerHead, Fields, RepeatedHead
from pilothouse.live.clock import Clock
from pilothouse.live.engine_connection import Carrier, EngineConnection, Receiver
from pilothouse.live.timers import Timers

__all__ = ["AnswerHead", "Carrier", "EngineConnection", "Fields", "Pool", "Receiver", "Upstream", "UpstreamLimits"]


class UpstreamLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What we allow engines, and how long we wait for them."""

    connections_max: int = 4096  # per engine, open or opening; one more request is refused as busy
    connect_timeout_us: int = 5_000_000
    first_byte_timeout_us: int = 600_000_000  # a long queue and a long prompt are not a fault
    idle_timeout_us: int = 120_000_000  # between two reads of one answer
    total_timeout_us: int = 3_600_000_000  # one attempt
    keep_alive_us: int = 4_000_000  # idle connections; below uvicorn's own 5 s, so that we close first
    head_bytes_max: int = 65_536  # of an answer
    drain_bytes_max: int = 65_536  # of an unwanted answer, read so that its connection can be used again
    drain_timeout_us: int = 1_000_000


class Upstream:
    """All pools, by URL. An engine that left discovery leaves an empty pool, which costs nothing."""

    def __init__(self, limits: UpstreamLimits, clock: Clock, timers: Timers) -> None:
        self.limits, self.clock, self.timers = limits, clock, timers
        self._pools: dict[str, Pool] = {}

    def pool(self, url: str) -> "Pool":
        """The pool for an engine's base URL."""
        pool = self._pools.get(url)
        if pool is None:
            pool = self._pools[url] = Pool(url, self)
        return pool

    def close(self) -> None:
        """Closes idle connections and gives up those that are being opened."""
        for pool in self._pools.values():
            pool.close()


class Pool:
    """Connections to one engine. The most recently used one goes first, so that the others can expire."""

    def __init__(self, url: str, upstream: Upstream) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"{url!r} is not the base URL of an engine")
        self.limits, self.clock, self.timers = upstream.limits, upstream.clock, upstream.timers
        self.authority = parts.netloc.rpartition("@")[2].encode()  # for the Host field
        self.open = 0  # connections open or opening
        self.repeated: RepeatedHead | None = None  # what answers of this engine begin with
        self.remember_us = 0  # not before this is another one remembered
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._idle: list[EngineConnection] = []
        self._opening: set[Opening] = set()

    def send(self, receiver: Receiver, head: bytes, body: bytes, *, once: bool = False) -> None:
        """Sends one request. The receiver hears of it later, never during this call, but for `carried_by`.

        once   never a second time: it goes out on a fresh connection
        """
        while self._idle and not once:
            connection = self._idle.pop()
            if connection.is_usable():
                receiver.carried_by(connection)
                connection.send(receiver, head, body)
                return
        self._open(receiver, head, body)

    def close(self) -> None:
        """Closes what is idle, gives up what is opening."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        for opening in list(self._opening):
            opening.cancel()

    # -- for connections

    def give_back(self, connection: EngineConnection) -> None:
        """The connection has done its request and can take another."""
        self._idle.append(connection)

    def lost(self, connection: EngineConnection) -> None:
        """The connection is closed."""
        self.open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    def died_silent(self, receiver: Receiver, head: bytes, body: bytes, *, reused: bool) -> None:
        """The connection closed before a byte of the answer."""
        if reused:
            self._open(receiver, head, body)
        else:
            receiver.failed(FailureKind.CLOSED, "the engine closed the connection without an answer")

    # -- parts

    def _open(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        opening = Opening(self, receiver, head, body)
        receiver.carried_by(opening)
        self.open += 1
        self._opening.add(opening)
        opening.task = asyncio.get_running_loop().create_task(opening.run(), name=f"connect {self._host}:{self._port}")

    async def connect(self) -> EngineConnection:
        """A fresh connection."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.limits.connect_timeout_us / 1e6):
            _, connection = await loop.create_connection(
                lambda: EngineConnection(self), self._host, self._port, ssl=self._ssl
            )
        return connection

    def opened(self, opening: "Opening", connected: bool) -> None:
        """The attempt to connect is over; a connection made counts on."""
        self._opening.discard(opening)
        if not connected:
            self.open -= 1


class Opening:
    """A request whose connection is being opened."""

    def __init__(self, pool: Pool, receiver: Receiver, head: bytes, body: bytes) -> None:
        self._pool, self._receiver, self._head, self._body = pool, receiver, head, body
        self.task: asyncio.Task[None] | None = None

    def abort(self, receiver: Receiver) -> None:
        """Gives up; the receiver hears nothing more."""
        self.cancel()

    def pause(self, receiver: Receiver) -> None:
        """Nothing is being read yet."""

    def resume(self, receiver: Receiver) -> None:
        """Nothing is being read yet."""

    def cancel(self) -> None:
        """Ends the task."""
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Connects, then sends."""
        try:
            connection, why = None, ""
            try:
                if self._pool.open <= self._pool.limits.connections_max:
                    connection = await self._pool.connect()
            except OSError as error:  # TimeoutError is one
                why = str(error) or "no connection in time"
            finally:
                self._pool.opened(self, connection is not None)
            if connection is not None:
                self._receiver.carried_by(connection)
                connection.send(self._receiver, self._head, self._body)
            elif why:
                self._receiver.failed(FailureKind.CONNECT, why)
            else:
                self._receiver.failed(FailureKind.BUSY, "all connections to the engine are in use")
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            self._receiver.crashed(error)
