"""KV events of one emulated engine: ZMQ PUB for what happens, ZMQ ROUTER for what was missed, as vLLM has them.

One message a step: topic | sequence, 8 bytes big endian, from 0 | msgpack of [time, [events], rank]. A replay answers
with what the ring holds from a sequence on, and an end marker.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from pilothouse.core.errors import ConfigError, Problem

RING = 10_000  # messages kept for replay: vLLM's default
HIGH_WATER = 100_000  # messages queued for a subscriber that does not read: vLLM's default
END = (b"", b"\xff" * 8, b"")
Event = dict[str, Any]


class KvPublisher:
    """Binds at once; `serve` answers replays until it is cancelled.

    ports   of events and of replays; 0 takes any that is free
    """

    def __init__(self, host: str, ports: tuple[int, int], wall_s: Callable[[], float]) -> None:
        self._context, self._wall_s = zmq.asyncio.Context.instance(), wall_s
        self._ring: deque[tuple[bytes, bytes]] = deque(maxlen=RING)
        self._sequence = 0
        self._events: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._events.set_hwm(HIGH_WATER)
        self._replays = self._context.socket(zmq.ROUTER)
        self.endpoint = self._bind(self._events, host, ports[0])
        self.replay_endpoint = self._bind(self._replays, host, ports[1])

    def publish(self, events: list[Event]) -> None:
        """One step's events. Never waits."""
        if not events:
            return
        number = self._sequence.to_bytes(8, "big")
        payload = msgspec.msgpack.encode([self._wall_s(), events, 0])
        self._sequence += 1
        self._ring.append((number, payload))
        self._events.send_multipart((b"", number, payload), zmq.NOBLOCK)

    async def serve(self) -> None:
        while True:
            frames = await self._replays.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            start = frames[2]
            for number, payload in [held for held in self._ring if held[0] >= start]:
                await self._replays.send_multipart((frames[0], b"", b"", number, payload))
            await self._replays.send_multipart((frames[0], b"", *END))

    def described(self) -> Event:
        """As `/kv_event_sources` tells it."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self.endpoint,
            "replay_endpoint": self.replay_endpoint,
            "buffer_steps": RING,
            "hwm": HIGH_WATER,
            "max_queue_size": HIGH_WATER,
            "topic": "",
        }

    @property
    def ports(self) -> tuple[int, int]:
        """Those it has got."""
        return int(self.endpoint.rpartition(":")[2]), int(self.replay_endpoint.rpartition(":")[2])

    def close(self) -> None:
        self._events.close(linger=0)
        self._replays.close(linger=0)

    def _bind(self, socket: "zmq.Socket[bytes] | zmq.asyncio.Socket", host: str, port: int) -> str:
        address = f"tcp://{host}:{port or '*'}"
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            self._events.close(linger=0)
            self._replays.close(linger=0)
            raise ConfigError(
                [Problem("--kv-events-port", f"cannot bind {address}: {zmq.strerror(error.errno or 0)}")]
            ) from None
        return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
