"""Workers and the picker: one local socket per worker, events one way, commands the other.

All workers share one dispatcher, in the picker's process: so in-flight load is known to every decision at once, there is
one journal, and a replay is exact. Frames are a 4-byte length and MessagePack, written together once per turn of the
event loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from pilothouse.core.commands import Abort, Reject, Route
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished, FirstToken, PrefillDone
from pilothouse.live.directory import TokenStatus
from pilothouse.live.models import ServedModel
from pilothouse.serving.record import Record

FRAME_MAX = 256 << 20
UNSENT_MAX = 256 << 20  # bytes towards a peer that does not read; then the connection is given up


class Observed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A worker's record of one request."""

    record: Record


class TokensTold(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How a worker describes prompts, told regularly for status and metrics."""

    tokens: list[TokenStatus]


class Stored(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An engine made a response that clients may refer to; the picker passes it on to the other workers."""

    response: str
    endpoint: str


class ModelsServed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What the fleet serves now; sent to each worker at first and at each change."""

    served: dict[str, ServedModel]


FromWorker = Arrived | PrefillDone | FirstToken | Finished | Failed | Cancelled | Observed | TokensTold | Stored
FromPicker = Route | Reject | Abort | ModelsServed | Stored


class Channel(asyncio.Protocol):
    """One end of a connection: `opened` is called at its beginning, `received` with each message, `lost` at its end."""

    def __init__(
        self, kind: Any, opened: Callable[[], None], received: Callable[[Any], None], lost: Callable[[], None]
    ) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._encoder = msgspec.msgpack.Encoder()
        self._opened, self._received, self._lost = opened, received, lost
        self._in, self._out = bytearray(), bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own kind is not a subclass
        self._opened()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._in
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if length > FRAME_MAX:
                self.close()
                return
            if end - start - 4 < length:
                break
            message = self._decoder.decode(memoryview(buffer)[start + 4 : start + 4 + length].tobytes())
            start += 4 + length
            self._received(message)
        del buffer[:start]

    def send(self, message: Any) -> None:
        """Queues a message; a closed channel swallows it, since `lost` has said so already."""
        if self._transport is None:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        data = self._encoder.encode(message)
        self._out += len(data).to_bytes(4, "big") + data

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size() > UNSENT_MAX:
            self.close()
            return
        self._transport.write(bytes(self._out))
        self._out.clear()
