"""Writes an engine's answer for one client: head rebuilt, body framed anew, body bytes untouched."""

from pilothouse.live.upstream import Fields
from pilothouse.serving.headers import answer_head


class AnswerWriter:
    """Chunked stays chunked and a length stays a length; an answer that ends with its connection becomes chunked.

    An HTTP/1.0 client knows no chunks: what has no length ends with the connection.
    """

    __slots__ = ("_chunked", "_fields", "_length", "_minor", "_status", "is_delimited", "is_event_stream")

    def __init__(self, status: int, fields: Fields, length: int | None, minor: int) -> None:
        self._status, self._fields, self._length, self._minor = status, fields, length, minor
        self._chunked = length is None and minor == 1
        self.is_delimited = length is not None or minor == 1  # the client sees the end without the connection's end
        self.is_event_stream = False
        for name, value in fields:
            if len(name) == 12 and name.lower() == b"content-type":
                self.is_event_stream = status < 300 and value[:17].lower() == b"text/event-stream"

    def head(self, shown: str, endpoint: str, cached_tokens: int, attempts: int, keep: bool) -> bytes:
        """Everything before the body."""
        parts = answer_head(self._status, self._fields)
        if self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        elif self._length is not None and self._status not in (204, 304):
            parts.append(b"content-length: %d\r\n" % self._length)
        if attempts > 1:
            parts.append(b"x-pilothouse-attempts: %d\r\n" % attempts)
        if not keep or not self.is_delimited:
            parts.append(b"connection: close\r\n")
        parts.append(
            f"x-request-id: {shown}\r\nx-pilothouse-endpoint: {endpoint}\r\n"
            f"x-pilothouse-cached-tokens: {cached_tokens}\r\n\r\n".encode("latin-1", "replace")
        )
        return b"".join(parts)

    def frame(self, data: bytes, last: bool) -> bytes:
        """Body bytes as they go out, with the end mark if they are the last."""
        if not self._chunked:
            return data
        if not data:
            return b"0\r\n\r\n" if last else b""
        if last:
            return b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
        return b"%x\r\n%b\r\n" % (len(data), data)
