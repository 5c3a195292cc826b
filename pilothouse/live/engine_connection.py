"""One HTTP/1.1 connection to an engine: sends a prepared request, hands on the answer as it arrives.

Answers are parsed by llhttp and reported once per read: the head, then body bytes with their framing taken off. What is not
strictly HTTP/1.1 ends the connection as garbage. A connection carries one request at a time and then goes back to its pool.

Two kinds of reads are so common, and so plain, that the parser is spared them. An answer that comes whole in one read, under
a head that the engine has sent before but for the body's length, is recognised by comparing bytes. And a stream is mostly
reads of exactly one chunk: where the parser stands between two chunks, such a read is recognised by its first and last
bytes; the parser never hears of it, and stands between two chunks all the same.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol

import httptools

from pilothouse.core.events import FailureKind
from pilothouse.live.answer_head import AnswerHead, Fields, RepeatedHead
from pilothouse.live.timers import NEVER

if TYPE_CHECKING:
    from pilothouse.live.upstream import Pool

NOTHING = (b"", b"")
REMEMBER_US = 50_000  # between two heads remembered, for engines whose heads are never the same twice


class Carrier(Protocol):
    """What carries a request right now. Each call names the receiver, and does nothing if it has lost it since."""

    def abort(self, receiver: "Receiver") -> None:
        """Drops the request: the engine sees the connection close and stops generating."""
        ...

    def pause(self, receiver: "Receiver") -> None:
        """Stops reading: the client cannot take more."""
        ...

    def resume(self, receiver: "Receiver") -> None:
        """Reads on."""
        ...


class Receiver(Protocol):
    """Whoever wants the answer. After `body(last=True)` or `failed` nothing more is called."""

    def carried_by(self, carrier: Carrier) -> None:
        """The request is now there; called before anything else, and again if it moves."""
        ...

    def head(self, head: AnswerHead, length: int | None, now_us: int) -> bool:
        """The final head; length None = until the end. False: not wanted, and nothing more is called."""
        ...

    def body(self, data: bytes, last: bool, now_us: int) -> None:
        """Body bytes, perhaps none if `last`."""
        ...

    def chunk(self, framed: bytes, start: int, now_us: int) -> None:
        """One whole chunk, framing included: its data are `framed[start:-2]`. Only after some of the body."""
        ...

    def failed(self, kind: FailureKind, what: str) -> None:
        """No answer, or no more of it."""
        ...

    def crashed(self, error: Exception) -> None:
        """One of the above raised: a bug of ours, contained to this request."""
        ...


class EngineConnection(asyncio.Protocol):
    """Owned by a pool. Lives through many requests."""

    def __init__(self, pool: "Pool") -> None:
        self.slot = NEVER
        self.used = 0  # requests it has carried
        self._pool = pool
        self._now_us = pool.clock.now_us
        self._transport: asyncio.Transport
        self._receiver: Receiver | None = None
        self._request = NOTHING  # kept until the answer begins, for a second try on a fresh connection
        self._draining = False  # reading over an answer that nobody wants
        self._paused = False
        self._sent_us = self._heard_us = 0  # request sent; last byte received, or when it became idle
        self._parser = httptools.HttpResponseParser(self)
        self._begun = self._headed = self._reported = self._complete = False  # how far the answer has come
        self._chunk_ended = self._between = (
            False  # the parser's last word was the end of a chunk; and nothing came after
        )
        self._keep = self._until_close = self._surplus = (
            False  # usable afterwards; ends with the connection; bytes too many
        )
        self._fields: Fields = []
        self._length: int | None = None
        self._body = self._media = b""  # body bytes of the current read; the content type
        self._status = self._head_bytes = 0
        self._garbage: str | None = None  # what is wrong with it

    # -- for the pool and the exchange

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        """Sends one request; its answer goes to `receiver`."""
        self._receiver = receiver
        self.used += 1
        self._request = (head, body)
        self._start_answer()
        self._sent_us = self._heard_us = self._now_us()
        self._pool.timers.watch(self, self._due_us())
        if len(body) < 4096:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def abort(self, receiver: Receiver) -> None:
        """Drops the request: the engine sees the connection close and stops generating."""
        if receiver is self._receiver:
            self._drop()

    def pause(self, receiver: Receiver) -> None:
        """Stops reading: the client cannot take more."""
        if receiver is self._receiver and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self, receiver: Receiver) -> None:
        """Reads on."""
        if receiver is self._receiver and self._paused:
            self._paused = False
            self._heard_us = self._now_us()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self) -> None:
        """Ends an idle connection."""
        self._transport.close()

    def is_usable(self) -> bool:
        """Whether the next request may go out on it."""
        return not self._transport.is_closing()

    # -- from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers the transport."""
        self._transport = transport  # type: ignore[assignment]
        self._heard_us = self._now_us()
        self._pool.timers.watch(self, self._due_us())

    def data_received(self, data: bytes) -> None:
        """Parses one read and reports it."""
        receiver = self._receiver
        if receiver is None and not self._draining:
            self._transport.abort()  # bytes that nobody asked for
            return
        self._heard_us = now_us = self._now_us()
        if not self._begun and receiver is not None and self._pool.repeated is not None:
            body = self._pool.repeated.body_of(data)
            if body is not None:
                self._report_whole(receiver, self._pool.repeated.head, body, now_us)
                return
        if self._between and receiver is not None:
            end = data.find(b"\r\n", 1, 8)  # of the size, if this is one whole chunk
            size = len(data) - end - 4
            if size > 0 and data[:end] == b"%x" % size and data[-2:] == b"\r\n":
                try:
                    receiver.chunk(data, end + 2, now_us)
                except Exception as error:  # noqa: BLE001 - the boundary of one request
                    self._drop()
                    receiver.crashed(error)
                return
        if not self._headed:
            self._begun, self._request = True, NOTHING
            self._head_bytes += len(data)
        garbage = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            garbage = "switched protocols"
        except httptools.HttpParserError as error:
            garbage = str(error)
        if self._complete and not self._reported and garbage is None and now_us >= self._pool.remember_us:
            self._remember(data, now_us)
        self._between = self._chunk_ended and data[-2:] == b"\r\n" and garbage is None
        if self._complete and garbage is not None:
            garbage, self._surplus = None, True  # the answer itself was whole
        garbage = self._garbage or garbage
        if not self._headed and self._head_bytes > self._pool.limits.head_bytes_max:
            garbage = "the head is too large"
        if receiver is None:
            self._drain(len(data), garbage)
            return
        try:
            self._report(receiver, garbage, now_us)
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            self._drop()
            receiver.crashed(error)

    def eof_received(self) -> bool:
        """The engine has sent all it will: close."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Ends the answer if its end was the connection's, fails it otherwise."""
        self._pool.lost(self)
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        try:
            if not self._begun:
                self._pool.died_silent(receiver, *self._request, reused=self.used > 1)
            elif self._headed and self._until_close and error is None:
                receiver.body(b"", True, self._now_us())
            else:
                receiver.failed(FailureKind.BROKEN, "the connection closed before the end of the answer")
        except Exception as crash:  # noqa: BLE001 - the boundary of one request
            receiver.crashed(crash)

    def due(self, now_us: int) -> int:
        """Ends a request that takes too long, and a connection that has been idle for long."""
        if self._transport.is_closing():
            return 0
        at_us = self._due_us()
        if now_us < at_us:
            return at_us
        receiver = self._receiver
        self._drop()
        if receiver is not None:
            try:
                receiver.failed(FailureKind.TIMEOUT, "the engine took too long")
            except Exception as error:  # noqa: BLE001 - the boundary of one request
                receiver.crashed(error)
        return 0

    # -- from the parser

    def on_message_begin(self) -> None:
        """What follows the final answer is not for anybody."""
        if self._complete:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps head fields; trailers come after the head and are dropped."""
        if not self._headed:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Checks version and framing; notes how the body ends."""
        self._status = status = self._parser.get_status_code()
        if self._complete:
            return
        if status < 200:
            self._fields = []
            if status == 101:
                self._garbage = "switched protocols"
            return
        self._headed = True
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            self._garbage = "not HTTP/1.1"
        chunked = False
        for name, value in self._fields:
            size = len(name)
            if size == 14 and name.lower() == b"content-length":
                self._length = int(value)
            elif size == 12 and name.lower() == b"content-type":
                self._media = value
            elif size == 17 and name.lower() == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
                if not chunked:
                    self._garbage = "a transfer-encoding other than chunked"
        if status in (204, 304):
            self._length = 0
        self._until_close = self._length is None and not chunked

    def on_chunk_header(self) -> None:
        """A chunk has begun, or the trailer."""
        self._chunk_ended = False

    def on_chunk_complete(self) -> None:
        """A chunk has ended; the next may begin, or the rest of the read end in the middle of its size."""
        self._chunk_ended = True

    def on_body(self, data: bytes) -> None:
        """Collects the body bytes of one read."""
        if not self._complete:
            self._body = self._body + data if self._body else data

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self._headed:
            if not self._complete:
                self._keep = self._parser.should_keep_alive()
            self._complete, self._chunk_ended = True, False

    # -- parts

    def _drop(self) -> None:
        self._receiver = None
        self._request = NOTHING
        self._transport.abort()

    def _start_answer(self) -> None:
        self._begun = self._headed = self._reported = self._complete = self._keep = self._until_close = (
            self._surplus
        ) = self._chunk_ended = self._between = False
        self._fields, self._length, self._body, self._garbage = [], None, b"", None
        self._media = b""
        self._status = self._head_bytes = 0

    def _report(self, receiver: Receiver, garbage: str | None, now_us: int) -> None:
        if garbage is not None:
            self._drop()
            receiver.failed(FailureKind.GARBAGE, garbage)
            return
        if not self._headed:
            return
        body, last = self._body, self._complete
        self._body = b""
        head, length, reported = AnswerHead(self._status, self._fields, self._media), self._length, self._reported
        self._reported = True
        if last:
            self._receiver = None
            self._finish()  # first, so that what the receiver starts next may use this connection
        if not reported:
            if not receiver.head(head, length, now_us):
                if not last:
                    self._receiver, self._draining, self._head_bytes = None, True, 0
                return
            if not last:
                self._pool.timers.watch(self, self._due_us())
        if body or last:
            receiver.body(body, last, now_us)

    def _report_whole(self, receiver: Receiver, head: AnswerHead, body: bytes, now_us: int) -> None:
        """An answer that the parser did not see: its head was good before, and so is its length."""
        self._receiver, self._request, self._keep = None, NOTHING, True
        try:
            self._finish()
            if receiver.head(head, len(body), now_us):
                receiver.body(body, True, now_us)
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            receiver.crashed(error)

    def _remember(self, data: bytes, now_us: int) -> None:
        """A whole answer in one read: the next one probably begins with the same head, until its date changes."""
        self._pool.remember_us = now_us + REMEMBER_US
        plain = self._keep and self._garbage is None and not self._surplus and self._status >= 200
        lengths = sum(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._fields)
        whole = data.startswith(b"HTTP/1.1 %d" % self._status) and data.endswith(self._body)
        if plain and whole and lengths == 1 and self._length is not None and self._length == len(self._body) > 0:
            self._pool.repeated = RepeatedHead(AnswerHead(self._status, self._fields, self._media), data, self._length)

    def _drain(self, size: int, garbage: str | None) -> None:
        self._body = b""
        self._head_bytes += size
        if garbage is not None or self._head_bytes > self._pool.limits.drain_bytes_max:
            self._transport.abort()
        elif self._complete:
            self._finish()

    def _finish(self) -> None:
        self._draining = False
        # An answer that came before the request was sent leaves bytes behind that the engine may read as the next request.
        if self._keep and not self._surplus and not self._paused and not self._transport.get_write_buffer_size():
            self._pool.give_back(self)
            self._pool.timers.watch(self, self._heard_us + self._pool.limits.keep_alive_us)
        else:
            self._transport.close()

    def _due_us(self) -> int:
        limits = self._pool.limits
        if self._receiver is None:
            return self._heard_us + (limits.drain_timeout_us if self._draining else limits.keep_alive_us)
        total_us = self._sent_us + limits.total_timeout_us
        if self._paused:  # the client's stall time-out rules
            return total_us
        if not self._begun:
            return min(total_us, self._sent_us + limits.first_byte_timeout_us)
        return min(total_us, self._heard_us + limits.idle_timeout_us)
