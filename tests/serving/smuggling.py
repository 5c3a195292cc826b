"""Raw requests that a front door must not pass on, each with the status it must answer. Sources: RFC 9112 section 11, the
request-smuggling literature (CL.TE, TE.CL, TE.TE, CL.0, bare line ends, chunk extensions), and path normalisation tricks.

`{body}` stands for a good completion request, `{size}` for its length in bytes.
"""

BODY = b'{"model":"tiny","prompt":"smuggled","max_tokens":1}'
_POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
_CL = b"Content-Length: %d\r\n" % len(BODY)
_SECOND = _POST + _CL + b"\r\n" + BODY
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)


def _with(field: bytes) -> bytes:
    return _POST + _CL + field + b"\r\n\r\n" + BODY


def _to(target: bytes) -> bytes:
    return b"POST " + target + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + _CL + b"\r\n" + BODY


def _chunks(raw: bytes) -> bytes:
    return _POST + _CHUNKED + b"\r\n" + raw


CORPUS: dict[str, tuple[bytes, int]] = {
    "cl.te": (_POST + _CL + _CHUNKED + b"\r\n0\r\n\r\n" + _SECOND, 400),
    "te.cl": (_POST + _CHUNKED + b"Content-Length: 4\r\n\r\n" + _CHUNK + b"0\r\n\r\n", 400),
    "te.te identity": (_POST + _CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + _SECOND, 400),
    "te twice": (_POST + _CHUNKED + _CHUNKED + b"\r\n0\r\n\r\n" + _SECOND, 400),
    "te list": (_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "te chunked chunked": (_POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "te identity": (_POST + b"Transfer-Encoding: identity\r\n\r\n" + BODY, 400),
    "te xchunked": (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "te quoted": (_POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "te empty": (_POST + b"Transfer-Encoding: \r\n\r\n" + BODY, 400),
    "te vertical tab": (_POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "te parameter": (_POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
    "te space before colon": (_POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "te tab before colon": (_POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    "te folded": (_POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "te folded with cl": (_POST + _CL + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te in http/1.0": (_chunks(_CHUNK + b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0", 1), 400),
    "te nul": (_POST + b"Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n", 400),
    "te hidden by bare lf": (_POST + _CL + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te hidden by bare cr": (_POST + _CL + b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "cl twice": (_POST + b"Content-Length: 0\r\n" + _CL + b"\r\n" + BODY, 400),
    "cl twice the same": (_POST + _CL + _CL + b"\r\n" + BODY, 400),
    "cl list": (_POST + b"Content-Length: 5, 5\r\n\r\n" + BODY, 400),
    "cl plus": (_POST + b"Content-Length: +51\r\n\r\n" + BODY, 400),
    "cl minus": (_POST + b"Content-Length: -1\r\n\r\n" + BODY, 400),
    "cl hex": (_POST + b"Content-Length: 0x33\r\n\r\n" + BODY, 400),
    "cl underscore": (_POST + b"Content-Length: 5_1\r\n\r\n" + BODY, 400),
    "cl space inside": (_POST + b"Content-Length: 5 1\r\n\r\n" + BODY, 400),
    "cl empty": (_POST + b"Content-Length: \r\n\r\n" + BODY, 400),
    "cl huge": (_POST + b"Content-Length: 99999999999999999999\r\n\r\n" + BODY, 400),
    "cl too large": (_POST + b"Content-Length: 999999999999\r\n\r\n" + BODY, 413),
    "cl other digits": (_POST + "Content-Length: ٥١\r\n\r\n".encode() + BODY, 400),
    "cl space before colon": (_POST + b"Content-Length : 51\r\n\r\n" + BODY, 400),
    "get with body": (b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + _CL + b"\r\n" + BODY, 400),
    "get with chunks": (b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + _CHUNKED + b"\r\n" + _CHUNK + b"0\r\n\r\n", 400),
    "head with body": (b"HEAD /health HTTP/1.1\r\nHost: a\r\n" + _CL + b"\r\n" + _SECOND, 400),
    "bare lf lines": (_SECOND.replace(b"\r\n", b"\n"), 400),
    "bare lf end": (_POST + _CL + b"\n" + BODY, 400),
    "bare cr end": (_POST + _CL + b"\r" + BODY, 400),
    "line of its own": (b"\r\n" + _SECOND, 400),
    "space first": (b" " + _SECOND, 400),
    "folded value": (_with(b"X-A: b\r\n c"), 400),
    "folded first line": (_POST.replace(b"Host: a", b" Host: a") + _CL + b"\r\n" + BODY, 400),
    "nul in value": (_with(b"X-A: b\x00c"), 400),
    "control in value": (_with(b"X-A: b\x08c"), 400),
    "delete in value": (_with(b"X-A: b\x7fc"), 400),
    "nul in name": (_with(b"X\x00A: b"), 400),
    "non-ascii name": (_with(b"X\xe9A: b"), 400),
    "parenthesis in name": (_with(b"X(A): b"), 400),
    "empty name": (_with(b": b"), 400),
    "no colon": (_with(b"X-A"), 400),
    "no host": (b"POST /v1/completions HTTP/1.1\r\n" + _CL + b"\r\n" + BODY, 400),
    "two hosts": (_with(b"Host: b"), 400),
    "bad host": (_SECOND.replace(b"Host: a", b"Host: a/b"), 400),
    "host with user": (_SECOND.replace(b"Host: a", b"Host: a@b"), 400),
    "absolute form": (_to(b"http://a/v1/completions"), 400),
    "authority form": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "asterisk form": (_to(b"*"), 400),
    "dot dot": (_to(b"/v1/../sleep"), 400),
    "encoded dot dot": (_to(b"/v1/%2e%2e/sleep"), 400),
    "encoded letter": (_to(b"/v1/%6coad_lora_adapter"), 400),
    "double encoded": (_to(b"/v1/%252e%252e/sleep"), 400),
    "encoded nul": (_to(b"/v1/completions%00"), 400),
    "encoded slash": (_to(b"/v1%2fcompletions"), 400),
    "double slash": (_to(b"//v1/completions"), 400),
    "inner double slash": (_to(b"/v1//completions"), 400),
    "backslash": (_to(b"/v1\\completions"), 400),
    "semicolon": (_to(b"/v1/completions;x"), 400),
    "fragment": (_to(b"/v1/completions#x"), 400),
    "non-ascii target": (_to("/v1/é".encode()), 400),
    "space in target": (_to(b"/v1/completions x"), 400),
    "two spaces": (_SECOND.replace(b"POST /", b"POST  /"), 400),
    "tab in request line": (_SECOND.replace(b"POST /", b"POST\t/"), 400),
    "http/0.9": (b"GET /v1/models\r\n\r\n", 400),
    "http/2.0": (_SECOND.replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
    "http/1.2": (_SECOND.replace(b"HTTP/1.1", b"HTTP/1.2"), 505),
    "http/1.10": (_SECOND.replace(b"HTTP/1.1", b"HTTP/1.10"), 400),
    "lower case version": (_SECOND.replace(b"HTTP/1.1", b"http/1.1"), 400),
    "lower case method": (_SECOND.replace(b"POST", b"post"), 501),
    "unknown method": (_SECOND.replace(b"POST", b"BREW"), 501),
    "put": (_SECOND.replace(b"POST", b"PUT"), 405),
    "trace": (b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "h2c preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "h2c upgrade": (_with(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"), 501),
    "websocket": (_with(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x"), 501),
    "tls hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "other expectation": (_with(b"Expect: 200-ok"), 417),
    "too many headers": (_with(b"\r\n".join(b"X-%d: 1" % i for i in range(200))), 431),
    "head too large": (_with(b"X-A: " + b"a" * 40_000), 431),
    "target too long": (_to(b"/v1/" + b"a" * 9_000), 414),
    "endless target": (b"GET /" + b"a" * 20_000, 414),
    "chunk size not hex": (_chunks(b"xyz\r\n" + BODY), 400),
    "chunk size 0x": (_chunks(b"0x33\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk size negative": (_chunks(b"-1\r\n" + BODY), 400),
    "chunk size plus": (_chunks(b"+33\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk size huge": (_chunks(b"ffffffffffffffff1\r\n" + BODY), 400),
    "chunk size too large": (_chunks(b"ffffffff\r\n" + BODY), 413),
    "chunk size empty": (_chunks(b"\r\n" + BODY), 400),
    "chunk size leading space": (_chunks(b" 33\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk size bare lf": (_chunks(b"33\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk extension bare lf": (_chunks(b"33;a\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk extension bare cr": (_chunks(b"33;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk extension long": (_chunks(b"33;" + b"a" * 5_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk longer than size": (_chunks(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    "chunk end bare lf": (_chunks(b"33\r\n" + BODY + b"\n0\r\n\r\n"), 400),
    "trailer bare lf": (_chunks(_CHUNK + b"0\r\nX: y\n\r\n"), 400),
    "trailer folded": (_chunks(_CHUNK + b"0\r\nX: y\r\n z\r\n\r\n"), 400),
    "trailers endless": (_chunks(_CHUNK + b"0\r\n" + b"X: y\r\n" * 3_000 + b"\r\n"), 400),
    "control path": (_to(b"/sleep"), 403),
    "control path under v1": (_to(b"/v1/load_lora_adapter"), 403),
    "control path with slash": (_to(b"/v1/load_lora_adapter/"), 403),
    "token endpoint": (_to(b"/inference/v1/generate"), 403),
    "metrics": (b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 403),
    "unknown path": (_to(b"/docs"), 404),
}
