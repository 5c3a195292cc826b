"""A chunked request body, read strictly: sizes, line ends and trailers exactly as the standard has them."""

import re

from pilothouse.core.errors import ClientError

SIZE_LINE_BYTES_MAX = 256  # the size and its extensions, which are dropped
TRAILER_BYTES_MAX = 8_192  # trailers are read over and dropped
CHUNKS_MAX = 65_536  # of one body: more is a client that burns our time
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class ChunkedBody:
    """Collects one body. `feed` until it returns the bytes that follow it."""

    def __init__(self, bytes_max: int) -> None:
        self.size = 0
        self._bytes_max = bytes_max
        self._body = bytearray()  # not a list of parts: a body of one-byte chunks must not cost forty times its size
        self._chunks = 0
        self._held = b""  # an unfinished line
        self._left = 0  # bytes of the chunk still to come, its line end not counted
        self._read = self._read_size
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Takes more bytes; returns None while the body is unfinished, else what is not part of it."""
        data, self._held = self._held + data, b""
        while data:
            rest = self._read(data)
            if rest is None:  # an unfinished line
                self._held = data
                return None
            if self._left < 0:
                return rest
            data = rest
        return None

    def body(self) -> bytes:
        """All of it, once `feed` has returned bytes."""
        return bytes(self._body)

    def _read_size(self, data: bytes) -> bytes | None:
        line, rest = _line(data, SIZE_LINE_BYTES_MAX)
        if line is None:
            return None
        match = _SIZE_LINE.fullmatch(line)
        if not match:
            raise _bad("malformed chunk size")
        size = int(match[1], 16)
        if size == 0:
            self._read = self._read_trailer
            return rest
        self.size += size
        self._chunks += 1
        if self._chunks > CHUNKS_MAX:
            raise _bad("too many chunks")
        if self.size > self._bytes_max:
            raise ClientError("the request body is too large", status=413, code="body_too_large")
        self._left, self._read = size, self._read_data
        return rest

    def _read_data(self, data: bytes) -> bytes | None:
        part = data[: self._left]
        self._body += part
        self._left -= len(part)
        if self._left == 0:
            self._read = self._read_data_end
        return data[len(part) :]

    def _read_data_end(self, data: bytes) -> bytes | None:
        if not b"\r\n".startswith(data[:2]):
            raise _bad("a chunk is longer than its size")
        if len(data) < 2:
            return None
        self._read = self._read_size
        return data[2:]

    def _read_trailer(self, data: bytes) -> bytes | None:
        line, rest = _line(data, TRAILER_BYTES_MAX)
        if line is None:
            return None
        if not line:
            self._left = -1
            return rest
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX or not _TRAILER.fullmatch(line):
            raise _bad("malformed trailer")
        return rest


def _line(data: bytes, bytes_max: int) -> tuple[bytes | None, bytes]:
    end = data.find(b"\n", 0, bytes_max + 2)
    if end < 0:
        if len(data) > bytes_max + 1:
            raise _bad("a line of the chunked body is too long")
        if b"\r" in data[:-1]:
            raise _bad("bare CR in the chunked body")
        return None, b""
    if end == 0 or data[end - 1] != 13:
        raise _bad("bare LF in the chunked body")
    return data[: end - 1], data[end + 1 :]


def _bad(what: str) -> ClientError:
    return ClientError(what, status=400, code="bad_request")
