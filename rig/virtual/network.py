"""TCP in memory: connections between protocols of one loop, with a delay of its own for each host.

What is written arrives in order, so much later as the way to the host takes. A handshake takes no time, since simulated
fleets have none either; a refusal comes back after the way there and the way back. A host can be cut off: what is sent
to it or by it is lost, and connecting to it never ends.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import Any

Address = tuple[str, int]
EOF, RESET = "eof", "reset"
HIGH = 1 << 16  # unread bytes at which a writer is asked to pause, unless it says otherwise: asyncio's default
FIRST_PORT = 20_000  # of those that nobody chose


class Network:
    """All hosts. `delay_us`: one way, by host; those not named are next door."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.delay_us: dict[str, int] = {}
        self.cut: set[Address] = set()  # asked, never iterated
        self._loop, self._listeners, self._ports = loop, dict[Address, Listener](), FIRST_PORT

    def free_port(self) -> int:
        self._ports += 1
        return self._ports

    def listen(self, factory: Callable[[], asyncio.Protocol], address: Address) -> "Listener":
        host, port = address[0], address[1] or (0 if "/" in address[0] else self.free_port())
        if (host, port) in self._listeners:
            raise OSError(errno.EADDRINUSE, f"{host}:{port} is taken")
        listener = self._listeners[host, port] = Listener(self._listeners, factory, (host, port))
        return listener

    async def connect(self, factory: Callable[[], asyncio.Protocol], address: Address) -> Any:
        delay_us = self.delay_us.get(address[0], 0)
        if address in self.cut:
            await asyncio.Event().wait()
        listener = self._listeners.get(address)
        if listener is None:
            await asyncio.sleep(2 * delay_us / 1e6)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {address[0]}:{address[1]}")
        here = End(self, factory(), address, delay_us)
        there = End(self, listener.factory(), address, delay_us)
        here.peer, there.peer = there, here
        there.protocol.connection_made(there)
        here.protocol.connection_made(here)
        return here, here.protocol


class Listener:
    """As far as our servers ask of an `asyncio.Server`."""

    def __init__(
        self, listeners: dict[Address, "Listener"], factory: Callable[[], asyncio.Protocol], address: Address
    ) -> None:
        self.factory, self.address, self._listeners = factory, address, listeners
        self.sockets = [self]

    def getsockname(self) -> Address:
        return self.address

    def close(self) -> None:
        self._listeners.pop(self.address, None)

    async def wait_closed(self) -> None:
        """It is."""


class End(asyncio.Transport):
    """One end of a connection."""

    peer: "End"

    def __init__(self, network: Network, protocol: asyncio.Protocol, address: Address, delay_us: int) -> None:
        super().__init__({"peername": address, "sockname": address})
        self.protocol = protocol
        self._network, self._address, self._delay_us = network, address, delay_us
        self._inbox: deque[bytes | str] = deque()
        self._is_reading = True
        self._is_closing = self._is_lost = self._is_write_paused = False
        self._high, self._low = HIGH, HIGH // 4

    # Writing

    def write(self, data: Any) -> None:
        if data and not self._is_closing:
            self._send(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._send(EOF)

    def close(self) -> None:
        self._end(EOF)

    def abort(self) -> None:
        self._end(RESET)

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self.peer.unread

    # Reading

    @property
    def unread(self) -> int:
        return sum(map(len, self._inbox))

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._loop.call_soon(self._read)

    def is_reading(self) -> bool:
        return self._is_reading

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    # Inside

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._network._loop

    def _send(self, what: bytes | str) -> None:
        if self._address not in self._network.cut:
            self._loop.call_later(self._delay_us / 1e6, self.peer._arrived, what)

    def _end(self, how: str) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._send(how)
            self._loop.call_soon(self._lose, None)

    def _arrived(self, what: bytes | str) -> None:
        if self._is_lost:
            return
        if what is RESET:
            self._is_closing = True
            self._lose(ConnectionResetError(errno.ECONNRESET, "reset by the other side"))
            return
        self._inbox.append(what)
        self._read()

    def _read(self) -> None:
        while self._inbox and self._is_reading and not self._is_closing:
            what = self._inbox.popleft()
            if isinstance(what, bytes):
                self.protocol.data_received(what)
            elif not self.protocol.eof_received():
                self.close()
        self.peer._mind(self.unread)

    def _mind(self, unread: int) -> None:
        """The other side has so much left to read."""
        if self._is_closing:
            return
        if unread > self._high and not self._is_write_paused:
            self._is_write_paused = True
            self.protocol.pause_writing()
        elif unread <= self._low and self._is_write_paused:
            self._is_write_paused = False
            self.protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._inbox.clear()
            self.protocol.connection_lost(error)
