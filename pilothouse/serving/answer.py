"""Writes an engine's answer for one client: head rebuilt, body framed anew, body bytes untouched."""

from pilothouse.live.upstream import AnswerHead
from pilothouse.serving.headers import answer_head


class AnswerWriter:
    """Chunked stays chunked and a length stays a length; an answer that ends with its connection becomes chunked.

    An HTTP/1.0 client knows no chunks: what has no length ends with the connection.
    """

    __slots__ = ("_head", "_length", "is_chunked", "is_delimited", "is_event_stream")

    def __init__(self, head: AnswerHead, length: int | None, minor: int) -> None:
        self._head, self._length = head, length
        self.is_chunked = length is None and minor == 1  # the client gets chunks
        self.is_delimited = length is not None or minor == 1  # the client sees the end without the connection's end
        self.is_event_stream = head.status < 300 and head.media[:17].lower() == b"text/event-stream"

    def head(self, shown: str, endpoint: str, cached_tokens: int, attempts: int, keep: bool, prefill: str) -> bytes:
        """Everything before the body."""
        head = self._head
        if head.copied is None:
            head.copied = answer_head(head.status, head.fields)
        more = b""
        if self.is_chunked:
            more = b"transfer-encoding: chunked\r\n"
        elif self._length is not None and head.status not in (204, 304):
            more = b"content-length: %d\r\n" % self._length
        if attempts > 1:
            more += b"x-pilothouse-attempts: %d\r\n" % attempts
        if prefill:
            more += b"x-pilothouse-prefill: %b\r\n" % prefill.encode("latin-1", "replace")
        if not keep or not self.is_delimited:
            more += b"connection: close\r\n"
        return b"%b%bx-request-id: %b\r\nx-pilothouse-endpoint: %b\r\nx-pilothouse-cached-tokens: %d\r\n\r\n" % (
            head.copied,
            more,
            shown.encode(),
            endpoint.encode("latin-1", "replace"),
            cached_tokens,
        )

    def frame(self, data: bytes, last: bool) -> bytes:
        """Body bytes as they go out, with the end mark if they are the last."""
        if not self.is_chunked:
            return data
        if not data:
            return b"0\r\n\r\n" if last else b""
        if last:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        return b"%x\r\n%b\r\n" % (len(data), data)
