"""One client connection: requests in, one at a time, and answers out.

Bodies are read whole before the engine is chosen, because the choice depends on them. Requests sent ahead of an answer
(pipelining) wait in a bounded buffer and are served in order; beyond the bound the connection is not read until the answer is
out, so the departure of such a client is noticed only then. A client that closes its sending side is taken to have gone,
since a close and a half-close look alike from here; `serve_half_closed` chooses the other reading.
"""

import asyncio
from collections.abc import Callable

from pilothouse.core.errors import ClientError
from pilothouse.live.timers import NEVER
from pilothouse.serving import status as tables
from pilothouse.serving.chunked import ChunkedBody
from pilothouse.serving.exchange import Exchange
from pilothouse.serving.head import Head, HeadReader, check_incomplete
from pilothouse.serving.headers import own_answer
from pilothouse.serving.local import LocalAnswer, answer_locally
from pilothouse.serving.plane import Plane
from pilothouse.serving.record import Record
from pilothouse.serving.routes import Api, Kind, Path, path_of
from pilothouse.serving.status import Refusal

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STEERED = Kind.STEERED


# What a connection is waiting for. Plain integers: looking up a member of an enumeration costs as much as a header.
HEAD = 0  # a request head, perhaps none
BODY = 1  # the rest of a body of known length
CHUNKS = 2  # the rest of a chunked body
BUSY = 3  # the answer to a request
LINGER = 4  # the client to read our last words
CLOSED = 5


class ClientConnection(asyncio.Protocol):
    """Reads requests, starts exchanges, writes what they say."""

    def __init__(self, plane: Plane) -> None:
        self.slot = NEVER
        self.peer = b"unknown"  # the client's address
        self.is_write_paused = False
        self._plane, self._settings = plane, plane.settings
        self._now_us = plane.clock.now_us
        self._transport: asyncio.Transport
        self.write: Callable[[bytes], None]  # sends bytes of the answer
        self._phase = HEAD
        self._held = b""  # an unfinished head, or bytes read ahead of the answer
        self._heads = HeadReader()
        self._head: Head | None = None
        self._path: Path | None = None
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None
        self._exchange: Exchange | None = None
        self._advancing = self._read_paused = self._half_closed = False
        self._begun = False  # part of a head is there
        self._since_us = self._heard_us = self._stalled_us = 0  # the phase began; last body bytes; writing paused
        self._counted = 0  # our share of plane.arriving_bytes
        self._lingered = 0  # bytes discarded

    # -- for the exchange

    @property
    def may_keep_alive(self) -> bool:
        """Whether the answer may leave the connection open."""
        return self._head is not None and self._head.keep_alive and not self._plane.draining and not self._half_closed

    def reply_refusal(self, refusal: Refusal, api: Api, shown: str, more: bytes = b"", *, keep: bool = True) -> None:
        """Sends a whole answer saying no."""
        if refusal.retry_after_s is not None:
            more += b"retry-after: %d\r\n" % refusal.retry_after_s
        if refusal.status == 401:
            more += b"www-authenticate: Bearer\r\n"
        self._reply(refusal.status, tables.body_of(refusal, api), shown, more, keep)

    def done(self, keep: bool) -> None:
        """The exchange is over: next request, or the end."""
        self._exchange = None
        if self._phase != BUSY:
            return
        if not (keep and self.may_keep_alive):
            self._end(unread=False)
            return
        self._phase, self._since_us = HEAD, self._now_us()
        self._plane.timers.watch(self, self._since_us + self._settings.idle_timeout_us)
        self._resume_reading()
        if self._held and not self._advancing:
            data, self._held = self._held, b""
            self._advance(data)

    def cut(self) -> None:
        """Ends the connection in the middle of an answer, so that the client cannot take it for whole."""
        if self._head is not None and self._head.minor == 0:
            self._transport.abort()  # without a length, only a reset tells
        self._close()

    def drain(self) -> None:
        """Closes if idle; otherwise after the answer."""
        if self._phase == HEAD and not self._begun:
            self._close()

    def abort(self) -> None:
        """Ends it now, whatever it is doing."""
        self._transport.abort()

    # -- from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection, unless there are too many."""
        self._transport = transport  # type: ignore[assignment]
        self.write = self._transport.write
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer = str(peer[0]).encode()
        self._transport.set_write_buffer_limits(self._settings.write_buffer_bytes)
        full = len(self._plane.connections) >= self._settings.connections_max
        self._plane.connections[self] = None
        self._since_us = self._now_us()
        if full:
            self._refuse(tables.TOO_MANY_CONNECTIONS)
        else:
            self._plane.timers.watch(self, self._since_us + self._settings.head_timeout_us)

    def data_received(self, data: bytes) -> None:
        """Takes the next bytes, wherever they are cut."""
        phase = self._phase
        if phase == HEAD:
            if self._held:
                data, self._held = self._held + data, b""
            self._advance(data)
        elif phase == BUSY:
            self._hold(data)
        elif phase == LINGER:
            self._lingered += len(data)
            if self._lingered > self._settings.linger_bytes_max:
                self._close()
        elif phase != CLOSED:
            self._advance(data)

    def eof_received(self) -> bool:
        """The client sends no more: it has gone, or says so at least."""
        if self._phase == BUSY and self._settings.serve_half_closed:
            self._half_closed = True
            return True
        if self._exchange is not None:
            self._exchange.client_gone()
            self._transport.abort()
        self._close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tells whoever is concerned."""
        self._phase = CLOSED
        self._plane.connections.pop(self, None)
        self._uncount()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        """The client is slow: stop its engine's bytes."""
        self.is_write_paused = True
        self._stalled_us = self._now_us()
        self._plane.timers.watch(self, self._stalled_us + self._settings.stall_timeout_us)
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.is_write_paused = False
        if self._exchange is not None:
            self._exchange.resume()
        elif self._phase == HEAD and self._held and not self._advancing:
            self._resume_reading()
            data, self._held = self._held, b""
            self._advance(data)

    def due(self, now_us: int) -> int:
        """Ends a connection that has been too slow or idle for too long."""
        at_us = self._due_us() if self in self._plane.connections else 0
        if now_us < at_us or at_us == 0:
            return at_us
        if self.is_write_paused or self._phase in (LINGER, BUSY, CLOSED):
            self._transport.abort()
        elif self._phase == HEAD and not self._begun:
            self._close()
            return self._due_us()
        else:
            self._refuse(tables.TOO_SLOW)
            return self._due_us()
        return 0

    # -- reading

    def _advance(self, data: bytes) -> None:
        self._advancing = True
        try:
            while data or self._held:
                if self._phase == HEAD:
                    if self._held:
                        data, self._held = self._held + data, b""
                    if self.is_write_paused:  # answers to what was pipelined are piling up
                        self._hold(data)
                        self._pause_reading()
                        break
                    rest = self._take_head(data)
                elif self._phase == BODY:
                    rest = self._take_body(data)
                elif self._phase == CHUNKS:
                    rest = self._take_chunks(data)
                else:
                    if data and self._phase == BUSY:
                        self._hold(data)
                    break
                if rest is None:
                    break
                data = rest
        except ClientError as error:
            self._refuse(tables.blamed(error))
        except Exception as error:  # noqa: BLE001 - the boundary of one request
            asyncio.get_running_loop().call_exception_handler({"message": "a request crashed", "exception": error})
            self._refuse(tables.INTERNAL)
        finally:
            self._advancing = False

    def _take_head(self, data: bytes) -> bytes | None:
        plane, settings = self._plane, self._settings
        end = data.find(b"\r\n\r\n", 0, settings.head_bytes_max + 4)
        if end < 0:
            check_incomplete(data, settings)
            if not self._begun:
                self._begun, self._since_us = True, self._now_us()
                self._plane.timers.watch(self, self._since_us + settings.head_timeout_us)
            self._held = data
            return None
        self._begun = False
        self._head = self._path = None  # until the new one is known to be good
        self._head = head = self._heads.read(data[:end], settings)
        self._path = path = path_of(head.path, settings.grants)
        rest = data[end + 4 :]
        plain = path.kind is STEERED and head.method in path.methods and plane.keys.admit(head.fields)
        local = None if plain else answer_locally(plane, head, path)
        if local is not None:
            return self._answer(head, path, local, rest)
        if head.length > settings.body_bytes_max:
            raise ClientError("the request body is too large", status=413, code="body_too_large")
        if len(rest) >= head.length and not head.chunked:
            self._start(rest[: head.length])  # all of it, mostly, and then no copy
            return rest[head.length :]
        if head.expects_continue and not rest:
            self._transport.write(CONTINUE)
        self._since_us = self._heard_us = self._now_us()
        self._count(head.length if not head.chunked else settings.body_bytes_max // 64)
        if head.chunked:
            self._chunks, self._phase = ChunkedBody(settings.body_bytes_max), CHUNKS
        else:
            self._body, self._phase = bytearray(), BODY
        self._plane.timers.watch(self, self._due_us())
        return rest

    def _take_body(self, data: bytes) -> bytes | None:
        assert self._head is not None
        left = self._head.length - len(self._body)
        self._body += data[:left]
        self._heard_us = self._now_us()
        if len(data) < left:
            return None
        body, self._body = bytes(self._body), bytearray()
        self._start(body)
        return data[left:]

    def _take_chunks(self, data: bytes) -> bytes | None:
        assert self._chunks is not None
        self._heard_us = self._now_us()
        rest = self._chunks.feed(data)
        if self._chunks.size > self._counted:
            self._count(min(self._settings.body_bytes_max, 2 * self._chunks.size))
        if rest is None:
            return None
        body, self._chunks = self._chunks.body(), None
        self._start(body)
        return rest

    def _start(self, body: bytes) -> None:
        assert self._head is not None and self._path is not None
        self._uncount()
        self._phase = BUSY
        self._exchange = Exchange(self._plane, self, self._head, self._path, body)
        self._exchange.begin()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > self._settings.pipelined_bytes_max:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    def _count(self, size: int) -> None:
        self._plane.arriving_bytes += size - self._counted
        self._counted = size
        if self._plane.arriving_bytes > self._settings.bodies_bytes_max:
            raise ClientError("too many large requests are arriving", status=503, code="out_of_memory")

    def _uncount(self) -> None:
        self._plane.arriving_bytes -= self._counted
        self._counted = 0

    # -- writing

    def _answer(self, head: Head, path: Path, local: LocalAnswer | Refusal, rest: bytes) -> bytes | None:
        shown, request = self._plane.ids.of(head.fields.get(b"x-request-id"))
        keep = self.may_keep_alive and not head.length and not head.chunked
        if isinstance(local, Refusal):
            self.reply_refusal(local, _api_of(head, path), shown, keep=keep)
        else:
            self._reply(local.status, local.body, shown, local.fields, keep)
        outcome, code = ("refused", local.code) if isinstance(local, Refusal) else ("local", "")
        self._observe(request, head, path, local.status, outcome, code)
        if not keep:
            self._held = rest
            self._end(unread=bool(head.length or head.chunked))
            return None
        self._since_us = self._now_us()
        self._plane.timers.watch(self, self._since_us + self._settings.idle_timeout_us)
        return rest

    def _reply(self, status: int, body: bytes, shown: str, more: bytes, keep: bool) -> None:
        bodiless = self._head is not None and self._head.method == "HEAD"
        self._transport.write(own_answer(status, body, shown, more, keep and self.may_keep_alive, bodiless))

    def _refuse(self, refusal: Refusal) -> None:
        """Says no to what is not a request yet, and hangs up."""
        head, path = self._head, self._path
        shown, request = self._plane.ids.of(None if head is None else head.fields.get(b"x-request-id"))
        api = Api.OTHER if head is None or path is None else _api_of(head, path)
        self.reply_refusal(refusal, api, shown, keep=False)
        self._observe(request, head, path, refusal.status, "refused", refusal.code)
        self._uncount()
        self._body, self._chunks = bytearray(), None
        self._linger()

    def _end(self, unread: bool) -> None:
        # Closing with unread bytes makes the kernel send a reset, which may overtake the answer.
        if unread or self._held or self._read_paused:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        if self._transport.is_closing():
            return
        self._phase, self._held, self._since_us = LINGER, b"", self._now_us()
        self._resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._plane.timers.watch(self, self._since_us + self._settings.linger_us)

    def _close(self) -> None:
        self._phase, self._since_us = CLOSED, self._now_us()
        self._transport.close()
        if self._transport.get_write_buffer_size():  # closed when the client has read it, if ever
            self._plane.timers.watch(self, self._since_us + self._settings.stall_timeout_us)

    def _due_us(self) -> int:
        settings = self._settings
        if self._phase == CLOSED:
            return self._since_us + settings.stall_timeout_us
        if self.is_write_paused:
            return self._stalled_us + settings.stall_timeout_us
        if self._phase == HEAD:
            fresh = self._begun or self._head is None
            return self._since_us + (settings.head_timeout_us if fresh else settings.idle_timeout_us)
        if self._phase in (BODY, CHUNKS):
            return min(self._heard_us + settings.body_timeout_us, self._since_us + settings.body_total_timeout_us)
        return self._since_us + settings.linger_us if self._phase == LINGER else 0

    def _observe(
        self, request: str, head: Head | None, path: Path | None, status: int, outcome: str, code: str
    ) -> None:
        asked = ("", "") if head is None else (head.method, head.path)
        kind = ("other", "malformed") if path is None else (path.api.value, path.kind.value)
        self._plane.observe(Record(request, *asked, *kind, status, outcome, code, at_us=self._now_us()))


def _api_of(head: Head, path: Path) -> Api:
    return Api.MESSAGES if head.path.startswith("/v1/messages") else path.api
