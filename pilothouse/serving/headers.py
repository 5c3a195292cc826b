"""The heads we write: to engines from a client's fields, to clients from an engine's. Nothing is copied that is not chosen."""

from pilothouse.serving.head import Head
from pilothouse.serving.status import REASONS

# Never passed to an engine: the connection's own business, fields that we set, and secrets that are not the engine's.
_OURS = frozenset(
    b"host content-length transfer-encoding connection proxy-connection keep-alive te trailer upgrade http2-settings expect "
    b"accept-encoding content-type content-encoding authorization proxy-authorization proxy-authenticate x-api-key cookie "
    b"forwarded x-real-ip x-request-id x-data-parallel-rank x-prefiller-host-port endpoint-load-metrics-format".split()
)
# Families that engines, pickers and proxies take orders from.
_OUR_FAMILIES = (
    b"x-kv-",
    b"x-pilothouse-",
    b"x-gateway-",
    b"x-llm-d-",
    b"x-forwarded-",
    b"x-data-parallel-",
    b"x-prefiller-",
    b"x-vllm-",
    b"x-sglang-",
    b"x-smg-",
    b"x-envoy-",
    b"x-dp-",
    b"proxy-",
)
_ANSWER_DROPPED = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate te trailer upgrade transfer-encoding content-length server "
    b"x-request-id endpoint-load-metrics alt-svc strict-transport-security set-cookie".split()
)
_ANSWER_FAMILIES_DROPPED = (b"x-pilothouse-", b"x-kv-", b"x-gateway-", b"x-llm-d-", b"x-vllm-", b"x-envoy-")
_NAMES_MAX = 4096
_passed: dict[bytes, bool] = {}  # memo of _may_pass
_answered: dict[bytes, bytes | None] = {}  # header name as an engine spells it -> as we write it, None = dropped
_STATUS_LINES = {status: b"HTTP/1.1 %d %s\r\n" % (status, reason) for status, reason in REASONS.items()}


def head_start(head: Head, authority: bytes, key: str | None, *, queried: bool, keyed: bool) -> bytes:
    """Request line, host and authorization of a request to an engine.

    key       the engine's own
    queried   the client's query goes with it
    keyed     the client's key was for us, not for the engine
    """
    target = f"{head.path}?{head.query}" if head.query and queried else head.path
    start = b"%s %s HTTP/1.1\r\nhost: %s\r\n" % (head.method.encode(), target.encode(), authority)
    if key is not None:
        return start + b"authorization: Bearer " + key.encode() + b"\r\n"
    if not keyed and b"authorization" in head.fields:
        return start + b"authorization: " + head.fields[b"authorization"] + b"\r\n"
    return start


def engine_head(
    head: Head, start: bytes, request: str, content_type: bytes | None, length: int, peer: bytes, trace: str = ""
) -> bytes:
    """The head of a request to an engine; `start` is its request line and the fields that all such requests share."""
    copied = head.copied
    if copied is None:
        copied = head.copied = _copied(head.fields, peer, traced=bool(trace))
    if trace:
        start += b"traceparent: %b\r\n" % trace.encode()
    if content_type is not None:
        start += b"content-type: %b\r\n" % content_type
    if length or head.method == "POST":
        return b"%bcontent-length: %d\r\n%bx-request-id: %b\r\n\r\n" % (start, length, copied, request.encode())
    return b"%b%bx-request-id: %b\r\n\r\n" % (start, copied, request.encode())


def _copied(fields: dict[bytes, bytes], peer: bytes, *, traced: bool) -> bytes:
    """A client's fields as its engines get them, and where it came from."""
    named = _named_by_connection(fields)
    parts = []
    for name, value in fields.items():
        passes = _passed.get(name)
        if passes is None:
            passes = _may_pass(name)
        if passes and name not in named and not (traced and name == b"traceparent"):
            parts.append(name + b": " + value + b"\r\n")
    parts.append(
        b"x-forwarded-for: %b\r\nx-forwarded-proto: http\r\nx-forwarded-host: %b\r\n" % (peer, fields.get(b"host", b""))
    )
    return b"".join(parts)


def answer_head(status: int, fields: list[tuple[bytes, bytes]]) -> bytes:
    """Status line and an engine's fields without those that are its own business; framing and our fields come after."""
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status]
    for raw_name, value in fields:
        try:
            name = _answered[raw_name]
        except KeyError:
            name = _answer_name(raw_name)
        if name is not None:
            parts.append(name + value + b"\r\n")
    return b"".join(parts)


def own_answer(status: int, body: bytes, shown: str, more: bytes, keep: bool, bodiless: bool) -> bytes:
    """An answer that the gateway gives itself; `more` holds header lines."""
    parts = [_STATUS_LINES[status]]
    if status != 204:
        parts.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body))
    parts += [more, b"x-request-id: " + shown.encode() + b"\r\n", b"\r\n" if keep else b"connection: close\r\n\r\n"]
    return b"".join(parts if bodiless else [*parts, body])


def _named_by_connection(fields: dict[bytes, bytes]) -> frozenset[bytes]:
    connection = fields.get(b"connection")
    if connection is None or connection in (b"keep-alive", b"close"):
        return frozenset()
    return frozenset(word.strip(b" \t").lower() for word in connection.split(b","))


def _may_pass(name: bytes) -> bool:
    # An underscore may become a dash on the way into some servers, and then a field that we refuse.
    passes = name not in _OURS and not name.startswith(_OUR_FAMILIES) and b"_" not in name
    if len(_passed) < _NAMES_MAX:
        _passed[name] = passes
    return passes


def _answer_name(raw_name: bytes) -> bytes | None:
    name = raw_name.lower()
    dropped = name in _ANSWER_DROPPED or name.startswith(_ANSWER_FAMILIES_DROPPED)
    written = None if dropped else name + b": "
    if len(_answered) < _NAMES_MAX:
        _answered[raw_name] = written
    return written
