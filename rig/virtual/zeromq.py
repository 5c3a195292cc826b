"""As much of ZeroMQ as KV events need, in memory: PUB and SUB, DEALER and ROUTER, and the monitor of a connection."""

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

import zmq

from rig.virtual.loop import VirtualLoop

Frames = list[bytes]


class Hub:
    """Stands for every context."""

    def __init__(self, loop: VirtualLoop, events_delay_us: int, replays_delay_us: int) -> None:
        self.loop = loop
        self.bound: dict[str, Socket] = {}
        self.subscribers: list[Socket] = []
        self.delay_us = {zmq.PUB: events_delay_us, zmq.ROUTER: replays_delay_us, zmq.DEALER: replays_delay_us}
        self.lost = 0  # messages to lose, the next ones
        self._names = count(1)

    def socket(self, kind: int) -> "Socket":
        return Socket(self, kind, b"%d" % next(self._names))


class Socket:
    """Awaitable where ours are awaited; a plain publisher's messages are sent at once either way."""

    def __init__(self, hub: Hub, kind: int, name: bytes) -> None:
        self._hub, self._kind, self._name = hub, kind, name
        self._inbox: deque[Frames] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._monitor: Socket | None = None
        self._address, self._is_closed, self._retry_us = "", False, 100_000
        self.peer: Socket | None = None  # a subscriber's publisher

    def setsockopt(self, option: int, value: Any) -> None:
        if option == zmq.RECONNECT_IVL:
            self._retry_us = value * 1000

    def set_hwm(self, value: int) -> None:
        """Nobody lags behind in no time."""

    def subscribe(self, topic: Any) -> None:
        """To everything: our engines have one topic."""

    def bind(self, address: str) -> None:
        if address.endswith(":*"):
            address = f"{address[:-1]}{self._hub.loop.network.free_port()}"
        if address in self._hub.bound:
            raise zmq.ZMQError(zmq.EADDRINUSE)
        self._address = address
        self._hub.bound[address] = self

    def getsockopt_string(self, option: int) -> str:
        return self._address

    def connect(self, address: str) -> None:
        self._address = address
        if self._kind == zmq.SUB:
            self._hub.subscribers.append(self)
            self._hub.loop.call_soon(self._look)

    def get_monitor_socket(self, events: int) -> "Socket":
        self._monitor = self._hub.socket(zmq.PAIR)
        return self._monitor

    def disable_monitor(self) -> None:
        self._monitor = None

    def close(self, linger: int = 0) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        hub = self._hub
        if self in hub.subscribers:
            hub.subscribers.remove(self)
        if hub.bound.get(self._address) is self:
            del hub.bound[self._address]
            for one in hub.subscribers:
                if one.peer is self:
                    one.peer = None
                    one._say(zmq.EVENT_DISCONNECTED)
                    hub.loop.call_later(one._retry_us / 1e6, one._look)

    def send_multipart(self, frames: Sequence[bytes], flags: int = 0) -> asyncio.Future[None]:
        hub, message = self._hub, list(frames)
        if self._kind == zmq.PUB:
            if hub.lost:
                hub.lost -= 1
            else:
                for one in hub.subscribers:
                    if one.peer is self:
                        self._post(one, message)
        elif self._kind == zmq.DEALER:
            other = hub.bound.get(self._address)
            if other is not None:
                hub.dealers = getattr(hub, "dealers", {})
                hub.dealers[self._name] = self
                self._post(other, [self._name, *message])
        else:
            self._post(hub.dealers.pop(message[0]) if message[-1] == b"" else hub.dealers[message[0]], message[1:])
        done = hub.loop.create_future()
        done.set_result(None)
        return done

    async def recv_multipart(self) -> Frames:
        while not self._inbox:
            self._reader = self._hub.loop.create_future()
            await self._reader
        return self._inbox.popleft()

    def _post(self, to: "Socket", message: Frames) -> None:
        self._hub.loop.call_later(self._hub.delay_us[self._kind] / 1e6, to._arrived, message)

    def _arrived(self, message: Frames) -> None:
        if self._is_closed:
            return
        self._inbox.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _look(self) -> None:
        """A subscriber tries to reach its publisher."""
        if self._is_closed or self.peer is not None:
            return
        self.peer = self._hub.bound.get(self._address)
        if self.peer is None:
            self._say(zmq.EVENT_CONNECT_RETRIED)
            self._hub.loop.call_later(self._retry_us / 1e6, self._look)
        else:
            self._say(zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def _say(self, event: int) -> None:
        if self._monitor is not None:
            self._monitor._arrived([struct.pack("=HI", event, 0), self._address.encode()])
