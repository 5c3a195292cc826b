"""HTTP/1.1 for an emulated engine: one request at a time on a kept connection, everything bounded.

Requests sent ahead wait in a short line; beyond it the connection is not read. A client that closes its side has gone.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import httptools
import msgspec

from pilothouse.emulate.answer import Answer
from pilothouse.emulate.errors import Refused

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 64 << 20
AHEAD_MAX = 4  # requests read ahead of the answer to an earlier one
WRITE_BYTES_MAX = 64 << 10  # waiting for a client to read, before its answer stops being written
STALL_S = 60.0  # a client that reads nothing for so long is cut off
IDLE_S = 75.0  # between requests

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_COMMON = b"server: pilothouse-emulator\r\nx-emulated: pilothouse\r\n"
_STREAM = (
    b"HTTP/1.1 200 OK\r\n" + _COMMON + b"content-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Request(msgspec.Struct):
    """One request, whole."""

    method: str
    path: str  # without the query
    headers: dict[str, str]
    body: bytes


class Service(Protocol):
    """Who answers."""

    connections: "dict[Connection, None]"
    hung: bool

    def handle(self, connection: "Connection", request: Request) -> None: ...


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, service: Service) -> None:
        self.is_write_paused = False
        self.write: Callable[[bytes], None]
        self.answer: Answer | None = None  # under way, to be told when the client reads again
        self.gone: Callable[[], None] | None = None  # called if the client leaves before its answer is out
        self._service, self._loop = service, asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._ahead: deque[Request] = deque()
        self._busy = self._closed = self._reading_paused = False
        self._keep_alive = True
        self._timer: asyncio.TimerHandle | None = None
        self._clear()

    # From the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.write = self._transport.write
        self._transport.set_write_buffer_limits(WRITE_BYTES_MAX)
        self._service.connections[self] = None
        self._wait(IDLE_S)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Refused("upgrades are not served"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refused) else Refused("the request cannot be read"))
        except httptools.HttpParserError:
            self._refuse(Refused("the request is not HTTP/1.1"))

    def eof_received(self) -> bool:
        return False  # a client that says nothing more has gone

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self._service.connections.pop(self, None)
        self._wait(None)
        gone, self.gone, self.answer = self.gone, None, None
        if gone is not None:
            gone()

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._wait(STALL_S)

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._wait(None)
        if self.answer is not None:
            self.answer.resume()

    # From the parser

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if int(self._headers.get("content-length", "0") or "0") > BODY_BYTES_MAX:
            raise Refused("the body is too large", 413)
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_BYTES_MAX:
            raise Refused("the body is too large", 413)

    def on_message_complete(self) -> None:
        path = bytes(self._url).partition(b"?")[0].decode("latin-1")
        request = Request(self._parser.get_method().decode(), path, self._headers, bytes(self._body))
        self._keep_alive = bool(self._parser.should_keep_alive())
        self._clear()
        if self._busy:
            self._ahead.append(request)
            if len(self._ahead) >= AHEAD_MAX and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
        else:
            self._take(request)

    # For whoever answers

    def reply(self, status: int, body: bytes, kind: bytes = b"application/json", more: bytes = b"") -> None:
        """A whole answer."""
        if self._closed:
            return
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n%b" % (
            status, _REASONS.get(status, b"Error"), _COMMON, len(body), more,
        )  # fmt: skip
        if body:
            head += b"content-type: %b\r\n" % kind
        if not self._keep_alive:
            head += b"connection: close\r\n"
        self.write(head + b"\r\n" + body)
        self._done()

    def refuse(self, refused: Refused) -> None:
        self.reply(refused.status, refused.body())

    def begin_stream(self) -> None:
        if not self._closed:
            self.write(_STREAM)

    def end_stream(self) -> None:
        if not self._closed:
            self._done()

    def abort(self) -> None:
        """Cuts it off in the middle."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        if not self._busy:
            self._transport.close()

    # Inside

    def _take(self, request: Request) -> None:
        self._busy = True
        if not self.is_write_paused:
            self._wait(None)
        self._service.handle(self, request)

    def _done(self) -> None:
        self._busy, self.gone, self.answer = False, None, None
        if not self._keep_alive:
            self._transport.close()
            return
        if self._ahead:
            self._busy = True  # nobody comes in between
            self._loop.call_soon(self._take_next)
        elif not self.is_write_paused:
            self._wait(IDLE_S)

    def _take_next(self) -> None:
        if self._closed:
            return
        request = self._ahead.popleft()
        if self._reading_paused and len(self._ahead) < AHEAD_MAX:
            self._reading_paused = False
            self._transport.resume_reading()
        self._take(request)

    def _refuse(self, refused: Refused) -> None:
        """Says no to what is not a request, and hangs up."""
        if self._busy or self._closed:
            self._transport.abort()
            return
        self._keep_alive = False
        self.refuse(refused)

    def _clear(self) -> None:
        self._url, self._body = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._head_bytes = 0

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise Refused("the head of the request is too large", 431)

    def _wait(self, seconds: float | None) -> None:
        """Cuts the connection off after so long, unless told otherwise before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._transport.abort)
