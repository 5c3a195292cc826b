"""One request head from raw bytes to fields, refusing whatever two parsers could read in two ways.

The head that engines receive is rebuilt from what this file returns, so a disagreement with their parser cannot smuggle a
request past it: there is one reading, and it is this one. Whitespace, folding, bare line ends, duplicate framing fields and
every spelling of a path that a server might normalise are refused rather than repaired.
"""

import re
from dataclasses import dataclass

from pilothouse.core.errors import ClientError
from pilothouse.serving.routes import EXACT
from pilothouse.serving.settings import FrontSettings

CONTENT_LENGTH_DIGITS_MAX = 15
REPEATED_BYTES_MAX = 4096  # a longer head is parsed each time, so that idle connections stay small
_HEAD_BYTES = bytes([9, 10, 13, *range(0x20, 0x7F), *range(0x80, 0x100)])
_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_METHODS = {b"GET": "GET", b"POST": "POST", b"HEAD": "HEAD", b"DELETE": "DELETE", b"OPTIONS": "OPTIONS"}
_OTHER_METHODS = frozenset([b"PUT", b"PATCH", b"TRACE", b"CONNECT"])
_VERSIONS = {b"HTTP/1.1": 1, b"HTTP/1.0": 0}
_PATH = re.compile(rb"/[A-Za-z0-9._~:@,+=/-]*")
_MODEL_PATH = re.compile(
    rb"/v1/models/(?:[A-Za-z0-9._~:@,+=/-]|%2[Ff]|%3[Aa]|%40)*"
)  # only the gateway itself reads these
_QUERY = re.compile(rb"[A-Za-z0-9._~:@,+=/?&%!$'()*;\[\]-]*")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ONCE = frozenset(
    b"host content-length transfer-encoding content-type content-encoding authorization expect x-api-key x-request-id "
    b"x-session-id traceparent upgrade anthropic-version".split()
)
_NAMES_MAX = 4096
_names: dict[bytes, bytes] = {n: n for n in _ONCE}  # spelling seen -> lower case; a memo, its content changes no result
_hosts: set[bytes] = set()  # good ones seen; a memo as well
_targets = {path.encode(): path for path in EXACT}  # known to be plain


@dataclass(slots=True)
class Head:
    """One request head. Field names are lower case; repeated fields are joined by a comma, as the standard allows."""

    method: str
    path: str
    query: str
    minor: int  # HTTP/1.<minor>
    fields: dict[bytes, bytes]
    length: int  # of the body; 0 when there is none or it is chunked
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    copied: bytes | None = None  # the fields that engines get, written once for all requests with this head


class HeadReader:
    """Reads the heads of one connection. A client mostly repeats itself, but for the body's length: known by its bytes."""

    __slots__ = ("_after", "_before", "_head")

    def __init__(self) -> None:
        self._head: Head | None = None
        self._before = self._after = b""  # around the digits of the length

    def read(self, raw: bytes, settings: FrontSettings) -> Head:
        """As `parse_head`; the same object again for the same head, so nobody may keep it beyond its request."""
        head = self._head
        if head is not None and raw.startswith(self._before) and raw.endswith(self._after):
            digits = raw[len(self._before) : len(raw) - len(self._after)]
            if digits.isdigit() and len(digits) <= CONTENT_LENGTH_DIGITS_MAX:
                head.length = int(digits)
                return head
        head = parse_head(raw, settings)
        length = head.fields.get(b"content-length")
        if length is None or len(raw) > REPEATED_BYTES_MAX:
            self._head = None
        else:
            start = raw.index(length, raw.lower().index(b"\r\ncontent-length:") + 17)
            self._head, self._before, self._after = head, raw[:start], raw[start + len(length) :]
        return head


def parse_head(raw: bytes, settings: FrontSettings) -> Head:
    """The head in `raw`, which ends before its blank line; raises ClientError for anything doubtful."""
    if raw.translate(None, _HEAD_BYTES):
        raise _bad("control byte in the request head")
    lines = raw.split(b"\r\n")
    if not len(lines) - 1 == raw.count(b"\n") == raw.count(b"\r"):
        raise _bad("bare CR or LF in the request head")
    if len(lines) - 1 > settings.headers_max:
        raise ClientError("too many headers", status=431, code="headers_too_large")
    method, path, query, minor = _request_line(lines[0], settings)
    fields: dict[bytes, bytes] = {}
    for line in lines[1:]:
        raw_name, colon, value = line.partition(b":")
        name = _names.get(raw_name) or _new_name(raw_name)
        if not colon:
            raise _bad("header line without a colon")
        value = value.strip(b" \t")
        if name in fields:
            if name in _ONCE:
                raise _bad(f"duplicate header {name.decode()}")
            value = fields[name] + b", " + value
        fields[name] = value
    length, chunked = _framing(fields, minor)
    if (length or chunked) and method != "POST":
        raise _bad(f"{method} with a body")
    _check_host(fields, minor)
    if b"upgrade" in fields or b"http2-settings" in fields:
        raise ClientError("protocol upgrades are not supported", status=501, code="not_implemented")
    return Head(
        method, path, query, minor, fields, length, chunked, _keep_alive(fields, minor), _expects(fields, minor)
    )


def check_incomplete(raw: bytes, settings: FrontSettings) -> None:
    """Refuses at once what cannot become a good head, rather than waiting for its end."""
    if raw[:1].translate(None, _TOKEN_BYTES):
        raise _bad("this is not HTTP/1.1")
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") != lines or raw.count(b"\r") - raw.endswith(b"\r") != lines:
        raise _bad("bare CR or LF in the request head")
    if len(raw) > settings.head_bytes_max:
        raise ClientError("the request head is too large", status=431, code="headers_too_large")
    if b"\r\n" not in raw and len(raw) > settings.target_bytes_max + 32:
        raise ClientError("the request target is too long", status=414, code="uri_too_long")


def _request_line(line: bytes, settings: FrontSettings) -> tuple[str, str, str, int]:
    words = line.split(b" ")
    if len(words) != 3:
        raise _bad("malformed request line")
    method, target, version = words
    if version not in _VERSIONS:
        if not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
            raise _bad("malformed HTTP version")
        raise ClientError("only HTTP/1.1 and HTTP/1.0 are served here", status=505, code="version_not_supported")
    if len(target) > settings.target_bytes_max:
        raise ClientError("the request target is too long", status=414, code="uri_too_long")
    if method not in _METHODS:
        if method in _OTHER_METHODS:
            raise ClientError(f"method {method.decode()} is not allowed", status=405, code="method_not_allowed")
        if not method or method.translate(None, _TOKEN_BYTES):
            raise _bad("malformed method")
        raise ClientError("unknown method", status=501, code="not_implemented")
    known = _targets.get(target)
    if known is not None:
        return _METHODS[method], known, "", _VERSIONS[version]
    path, _, query = target.partition(b"?")
    if not _PATH.fullmatch(path) and not (_MODEL_PATH.fullmatch(path) and method != b"POST"):
        raise _bad("the request target is not a plain path")
    if b"//" in path or b"/." in path or not _QUERY.fullmatch(query):
        raise _bad("the request target is not a plain path")
    return _METHODS[method], path.decode(), query.decode(), _VERSIONS[version]


def _new_name(raw_name: bytes) -> bytes:
    if not raw_name or raw_name.translate(None, _TOKEN_BYTES):
        raise _bad("malformed header name")
    name = raw_name.lower()
    if len(_names) < _NAMES_MAX:
        _names[raw_name] = name
    return name


def _framing(fields: dict[bytes, bytes], minor: int) -> tuple[int, bool]:
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise _bad("both content-length and transfer-encoding")
        if minor == 0:
            raise _bad("transfer-encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise _bad("the only transfer-encoding served is chunked")
        return 0, True
    if length is None:
        return 0, False
    if not length.isdigit() or len(length) > CONTENT_LENGTH_DIGITS_MAX:
        raise _bad("malformed content-length")
    return int(length), False


def _check_host(fields: dict[bytes, bytes], minor: int) -> None:
    host = fields.get(b"host")
    if host is None:
        if minor == 1:
            raise _bad("missing host header")
    elif host not in _hosts:
        if not _HOST.fullmatch(host):
            raise _bad("malformed host header")
        if len(_hosts) < _NAMES_MAX:
            _hosts.add(host)


def _keep_alive(fields: dict[bytes, bytes], minor: int) -> bool:
    # HTTP/1.0 clients are served one request per connection: keep-alive was never standard there.
    connection = fields.get(b"connection")
    return minor == 1 and (connection is None or b"close" not in connection.lower())


def _expects(fields: dict[bytes, bytes], minor: int) -> bool:
    expect = fields.get(b"expect")
    if expect is None or minor == 0:
        return False
    if expect.lower() != b"100-continue":
        raise ClientError("the only expectation served is 100-continue", status=417, code="expectation_failed")
    return True


def _bad(what: str) -> ClientError:
    return ClientError(what, status=400, code="bad_request")
