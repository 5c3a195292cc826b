"""What is recognised by its bytes is what the parsers would have said: laws of the short cuts on the hot path."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.errors import ClientError
from pilothouse.core.events import FailureKind
from pilothouse.live.clock import Clock
from pilothouse.live.engine_connection import EngineConnection
from pilothouse.live.timers import Timers
from pilothouse.live.upstream import AnswerHead, Carrier, UpstreamLimits
from pilothouse.serving.head import HeadReader, parse_head
from pilothouse.serving.settings import FrontSettings

# Heads of clients

LINES = st.sampled_from(
    [b"host: a", b"Host: b", b"content-length: 5", b"Content-Length: 17", b"content-length:\t8 ", b"content-length: 5x",
     b"CONTENT-LENGTH: 0017", b"content-length: 5, 5", b"content-length: -1", b"x-a: content-length: 5", b"x-a: 5",
     b"transfer-encoding: chunked", b"content-length: " + b"1" * 16, b" folded", b"accept: */*"]
)  # fmt: skip
REQUESTS = st.sampled_from(
    [b"POST /v1/completions HTTP/1.1", b"GET /v1/models HTTP/1.1", b"POST /v1/completions HTTP/1.0"]
)


def said(read: Any, raw: bytes) -> tuple[object, ...]:
    """What a reader makes of a head, the bytes of its content-length aside."""
    try:
        head = read(raw, FrontSettings())
    except ClientError as error:
        return (error.code, str(error))
    fields = {name: value for name, value in head.fields.items() if name != b"content-length"}
    framing = (head.minor, head.length, head.chunked, head.keep_alive, head.expects_continue)
    return (head.method, head.path, head.query, *framing, fields)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(REQUESTS, st.lists(LINES, max_size=4)), min_size=1, max_size=6), st.data())
def test_a_reader_with_memory_says_what_the_parser_says(
    heads: list[tuple[bytes, list[bytes]]], data: st.DataObject
) -> None:
    reader = HeadReader()
    for request, lines in heads:
        raw = b"\r\n".join([request, *lines])
        for _ in range(2):
            assert said(reader.read, raw) == said(parse_head, raw)
            at = data.draw(st.integers(0, len(raw) - 1))
            raw = raw[:at] + data.draw(st.sampled_from([b"", b"0", b"7", b"\r", b" "])) + raw[at + 1 :]


def test_a_repeated_head_is_not_read_again() -> None:
    reader, raw = HeadReader(), b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\naccept: */*"
    first = reader.read(raw % 9, FrontSettings())
    assert reader.read(raw % 1234, FrontSettings()) is first
    assert first.length == 1234


# Answers of engines


class Transport:
    """As much of one as an engine connection needs."""

    closed = False

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    abort = close


class Receiver:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, list[tuple[bytes, bytes]], int | None]] = []
        self.said, self.ended, self.shortcuts = b"", "", 0

    def carried_by(self, carrier: Carrier) -> None: ...

    def head(self, head: AnswerHead, length: int | None, now_us: int) -> bool:
        self.heads.append((head.status, [f for f in head.fields if f[0].lower() != b"content-length"], length))
        return True

    def body(self, data: bytes, last: bool, now_us: int) -> None:
        assert not self.ended
        self.said += data
        self.ended = "whole" if last else ""

    def chunk(self, framed: bytes, start: int, now_us: int) -> None:
        assert not self.ended
        assert self.heads
        self.said += framed[start:-2]
        self.shortcuts += 1

    def failed(self, kind: FailureKind, what: str) -> None:
        assert not self.ended
        self.ended = "failed"

    def crashed(self, error: Exception) -> None:
        raise error


class Engine:
    """One pool, as connections see it."""

    def __init__(self) -> None:
        self.limits, self.clock = UpstreamLimits(), Clock()
        self.timers = Timers(self.clock)
        self.repeated, self.remember_us, self.idle = None, 0, 0

    def give_back(self, connection: EngineConnection) -> None:
        self.idle += 1

    def answer(self, reads: list[bytes]) -> Receiver:
        """One request on a fresh connection, answered in these reads."""
        connection, receiver = EngineConnection(self), Receiver()  # type: ignore[arg-type]
        connection.connection_made(Transport())  # type: ignore[arg-type]
        connection.send(receiver, b"", b"")
        for read in reads:
            if connection._receiver is not None:
                connection.data_received(read)
        return receiver


def outcome(receiver: Receiver) -> object:
    """What must not depend on how the answer was cut: of one that fails, how much was passed on does."""
    return (receiver.ended, receiver.heads, receiver.said) if receiver.ended == "whole" else receiver.ended


def chunked(parts: list[bytes]) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


BYTES = st.sampled_from([b"", b"\r", b"\n", b"0", b"1", b"-", b"x", b"\r\n"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=12), st.data())
def test_a_stream_is_heard_alike_however_it_is_cut(parts: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    raw = chunked(parts)
    if data.draw(st.booleans()):  # spoiled somewhere
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + data.draw(BYTES) + raw[at + 1 :]
    edges = [0, *sorted({cut for cut in cuts if cut < len(raw)} - {0}), len(raw)]
    reads = [raw[start:end] for start, end in pairwise(edges)]
    one_by_one = [raw[i : i + 1] for i in range(len(raw))]
    assert outcome(Engine().answer(reads)) == outcome(Engine().answer(one_by_one))


@pytest.mark.parametrize(
    "chunk",
    [b"-2\r\n", b"0\r\n\r\n", b"+5\r\nhello\r\n", b"5;x\r\nhello\r\n", b"05\r\nhello\r\n", b"A\r\n0123456789\r\n"],
)
def test_only_the_plainest_chunks_are_passed_on_unread(chunk: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"
    assert Engine().answer([head, chunk]).shortcuts == 0
    assert Engine().answer([head, b"5\r\nhello\r\n", b"a\r\n0123456789\r\n"]).shortcuts == 2


HEADS = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\ncontent-type: a\r\n\r\n%b", b"HTTP/1.1 200 OK\r\ncontent-length:%d\r\n\r\n%b",
     b"HTTP/1.1 404 No\r\ncontent-length: %d\r\n\r\n%b", b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b",
     b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%b",
     b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(HEADS, st.binary(max_size=20)), min_size=1, max_size=5), st.data())
def test_an_engine_with_memory_is_heard_as_one_without(answers: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    engine = Engine()
    for head, body in answers:
        for _ in range(2):
            raw = head % (len(body), body)
            if data.draw(st.booleans()):
                at = data.draw(st.integers(0, len(raw) - 1))
                raw = raw[:at] + data.draw(BYTES) + raw[at + 1 :]
            fresh, engine.remember_us, before = Engine(), 0, engine.idle
            assert outcome(engine.answer([raw])) == outcome(fresh.answer([raw]))
            assert engine.idle - before == fresh.idle  # used again, or not


def test_the_second_answer_is_not_parsed() -> None:
    engine = Engine()
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: a\r\n\r\n%b"
    engine.answer([raw % (2, b"hi")])
    assert engine.repeated is not None
    assert engine.repeated.body_of(raw % (11, b"hello world")) == b"hello world"
