"""Laws of one answer: however a stream is cut, the same is counted; every end is told once."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.bench.answer import Answer
from pilothouse.bench.bodies import Request
from pilothouse.core.events import FailureKind
from pilothouse.core.units import Micros, RequestId
from pilothouse.live.answer_head import AnswerHead
from pilothouse.workload.outcomes import Histogram
from pilothouse.workload.requests import Planned

PLANNED = Planned(RequestId("r"), Micros(0), [], 1, 5, 5)
CHAT = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
DONE = b"data: [DONE]\n\n"


class Heard:
    def __init__(self, keeps: bool = False, bytes_max: int = 1 << 20) -> None:
        self.ends = 0
        self.gaps = Histogram()
        request = Request(PLANNED, b"", b"", b"", keeps)
        self.answer = Answer(request, 100, self.gaps, self.ended, lambda: Micros(99_999), bytes_max)

    def ended(self, answer: Answer) -> None:
        self.ends += 1

    def hears(
        self, parts: list[bytes], status: int = 200, media: bytes = b"text/event-stream; charset=utf-8"
    ) -> Answer:
        """The first part at 1,000 us, then one each 1,000 us; the end in a read of its own."""
        if self.answer.head(AnswerHead(status, [(b"X-Pilothouse-Endpoint", b"e1")], media), None, 500):
            for i, part in enumerate(parts, 1):
                self.answer.body(part, False, i * 1000)
            self.answer.body(b"", True, (len(parts) + 1) * 1000)
        return self.answer


def delta(text: str, **more: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": text, **more}}]}).encode()


def test_the_first_output_is_the_first_that_is_not_empty() -> None:
    answer = (heard := Heard()).hears([CHAT, delta(""), delta("a"), delta("b"), delta("c"), USAGE, DONE])
    assert (answer.first_us, answer.end_us, answer.chunks, answer.error) == (3000, 5000, 3, "")
    assert heard.gaps.count == 2 and heard.gaps.total_us == 2000 and heard.ends == 1
    usage = answer.usage
    assert (usage.prompt_tokens, usage.output_tokens, usage.cached_tokens, answer.endpoint) == (9, 3, 4, "e1")


@settings(max_examples=40)
@given(st.lists(st.text(max_size=5), max_size=8), st.lists(st.integers(1, 400), max_size=12), st.booleans())
def test_cuts_change_no_count(texts: list[str], cuts: list[int], wide: bool) -> None:
    stream = CHAT + b"".join(map(delta, texts)) + USAGE + DONE
    stream = stream.replace(b"\n", b"\r\n") if wide else stream
    edges = sorted({cut for cut in cuts if cut < len(stream)})
    parts = [stream[a:b] for a, b in zip([0, *edges], [*edges, len(stream)], strict=True)]
    whole, cut = Heard(keeps=True), Heard(keeps=True)
    one, other = whole.hears([stream]), cut.hears(parts)
    assert one.chunks == other.chunks == sum(text != "" for text in texts)
    assert one.usage == other.usage and one.stream == other.stream == stream and one.error == other.error
    assert whole.gaps.count == cut.gaps.count == max(0, one.chunks - 1) and (whole.ends, cut.ends) == (1, 1)


@pytest.mark.parametrize(
    "event",
    [
        delta("", reasoning_content="hm"),
        b'data: {"choices": [{"text": "x"}]}\n\n',
        b'data: {"choices":[{"text":"","token_ids":[17]}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}\n\n',
    ],
)
def test_what_counts_as_output(event: bytes) -> None:
    assert Heard().hears([event, DONE]).chunks == 1


@pytest.mark.parametrize(
    "event", [CHAT, USAGE, b'data: {"choices":[{"text":"","token_ids":[],"prompt_token_ids":[1]}]}\n\n', b": ping\n\n"]
)
def test_what_does_not(event: bytes) -> None:
    answer = Heard().hears([event, DONE])
    assert answer.chunks == 0 and answer.error == "the answer has no output"


def test_a_text_that_looks_like_an_event_is_a_text() -> None:
    answer = Heard().hears([delta('data: [DONE] "usage":{"prompt_tokens":77}, "error" data: [DONE]')])
    assert (answer.chunks, answer.usage.prompt_tokens, answer.done) == (1, None, False)


@pytest.mark.parametrize(
    ("parts", "status", "media", "error"),
    [
        ([delta("a")], 200, b"text/event-stream", "the stream ended without [DONE]"),
        ([delta("a"), b'data: {"error": {"message": "out of \\"memory\\"", "code": 500}}\n\n'], 200, b"text/event-stream",
         'error in the stream: out of "memory"'),
        ([b'data: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n'], 200, b"text/event-stream", "error in the stream: no"),
        ([b"{}"], 200, b"application/json", "the answer is not a stream of events"),
        ([b'{"error":{"message":"too ', b'long"}}'], 400, b"application/json", "HTTP 400: too long"),
        ([b"<html>"], 503, b"text/html", "HTTP 503"),
    ],
)  # fmt: skip
def test_bad_ends_have_a_reason(parts: list[bytes], status: int, media: bytes, error: str) -> None:
    heard = Heard()
    assert heard.hears(parts, status, media).error == error and heard.ends == 1


def test_an_end_is_told_once_whatever_comes_after() -> None:
    heard = Heard(bytes_max=300)
    answer = heard.hears([delta("a" * 200), delta("b" * 200), DONE])
    answer.failed(FailureKind.BROKEN, "late")
    answer.cancel("later")
    assert heard.ends == 1 and answer.error == "the answer is longer than allowed"
