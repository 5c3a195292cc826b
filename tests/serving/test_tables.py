"""The tables of the front door: paths, fields, statuses, usage, timers."""

import itertools
import json
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.commands import Reject, RejectReason
from pilothouse.core.errors import ClientError
from pilothouse.core.events import FailureKind
from pilothouse.core.units import Micros, RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.timers import NEVER, Timers
from pilothouse.serving.chunked import ChunkedBody
from pilothouse.serving.head import Head, parse_head
from pilothouse.serving.plane import RequestIds, StoredResponses
from pilothouse.serving.routes import Api, Kind, path_of
from pilothouse.serving.settings import FrontSettings
from pilothouse.serving.status import BROKE_OFF, REJECTED, body_of, last_events, rejected
from pilothouse.wire.openai import FORBIDDEN_FIELDS, inspect_form, inspect_json
from pilothouse.wire.usage import StreamUsage, Usage, response_id


@pytest.mark.parametrize(
    ("path", "kind", "api"),
    [
        ("/v1/chat/completions", Kind.STEERED, Api.CHAT),
        ("/v1/completions", Kind.STEERED, Api.COMPLETIONS),
        ("/v1/responses", Kind.STEERED, Api.RESPONSES),
        ("/v1/embeddings", Kind.STEERED, Api.EMBEDDINGS),
        ("/v1/messages", Kind.STEERED, Api.MESSAGES),
        ("/tokenize", Kind.STEERED, Api.TOKENIZE),
        ("/detokenize", Kind.STEERED, Api.DETOKENIZE),
        ("/v1/score", Kind.STEERED, Api.OTHER),
        ("/v1/messages/count_tokens", Kind.STEERED, Api.OTHER),
        ("/v1/audio/transcriptions", Kind.STEERED, Api.OTHER),
        ("/v1/models", Kind.MODELS, Api.OTHER),
        ("/v1/models/a/b", Kind.MODELS, Api.OTHER),
        ("/v1/responses/resp_1", Kind.STORED, Api.OTHER),
        ("/v1/responses/resp_1/cancel", Kind.STORED, Api.OTHER),
        ("/v1/responses/resp_1/input_items", Kind.STORED, Api.OTHER),
        ("/v1/responses/render", Kind.REFUSED, Api.OTHER),
        ("/v1/responses/resp_1/other", Kind.UNKNOWN, Api.OTHER),
        ("/health", Kind.HEALTH, Api.OTHER),
        ("/v1/load_lora_adapter", Kind.REFUSED, Api.OTHER),
        ("/v1/unload_lora_adapter/", Kind.REFUSED, Api.OTHER),
        ("/v1/chat/completions/render", Kind.REFUSED, Api.OTHER),
        ("/v1/completions/derender", Kind.REFUSED, Api.OTHER),
        ("/v1/realtime", Kind.REFUSED, Api.OTHER),
        ("/inference/v1/generate", Kind.REFUSED, Api.OTHER),
        *(
            (path, Kind.REFUSED, Api.OTHER)
            for path in ("/reset_prefix_cache", "/sleep", "/wake_up", "/metrics", "/pause")
        ),
        *((path, Kind.REFUSED, Api.OTHER) for path in ("/collective_rpc", "/scale_elastic_ep", "/abort_requests")),
        *((path, Kind.UNKNOWN, Api.OTHER) for path in ("/", "/docs", "/v1", "/v1/", "/v1/completions/", "/v2/embed")),
    ],
)
def test_paths(path: str, kind: Kind, api: Api) -> None:
    found = path_of(path)
    assert (found.kind, found.api) == (kind, api)


def test_a_grant_opens_a_path() -> None:
    assert path_of("/sleep", frozenset(["/sleep"])).kind is Kind.STEERED


@pytest.mark.parametrize("name", FORBIDDEN_FIELDS)
def test_forbidden_fields(name: str) -> None:
    escaped = "".join(f"\\u{ord(c):04X}" for c in name)
    for body in (f'{{"model":"m","{name}":null}}', f'{{"{escaped}":1}}', f'{{"{name}":1,"{name}":2}}'):
        with pytest.raises(ClientError) as caught:
            inspect_json(body.encode())
        assert (caught.value.param, caught.value.status) == (name, 400)
        assert inspect_json(body.encode(), frozenset([name])).fields


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[1]", b'"x"', b"{", b'{"a":1} x', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a":"\xff"}',
        b'{"\xff":1}', b'{"a":"\\ud800"}', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"), b"{" + b'"a":{' * 100_000,
        b'{"a":01}', b"{'a':1}", b'{"model":5}', b'{"model":""}', b'{"stream":1}', b'{"previous_response_id":1}',
        b'{"a":1,}', b'{"a":"\x00"}',
    ],
)  # fmt: skip
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(ClientError):
        inspect_json(body)


@pytest.mark.parametrize(
    ("body", "same"),
    [
        (b'{"model": "m", "seed": 123456789012345678901234567890}', True),
        (b'{"model":"m","prompt":"caf\\u00e9 \\n"}', True),
        (b'{"model":"a","model":"m"}', False),
        (b'{"\\u006dodel":"m"}', False),
        (b'{"model":"a","model":"m","seed":123456789012345678901234567890}', False),
        (b'{"model":"a","\\u006dodel":"m"}', False),
        (b'{"model":"m","previous_response_id":"a","previous_response_id":"b"}', False),
    ],
)
def test_a_body_is_written_anew_only_where_it_could_be_misread(body: bytes, same: bool) -> None:
    found = inspect_json(body)
    assert found.model == "m"
    assert (found.raw == body) is same
    assert json.loads(found.raw) == found.fields == json.loads(body)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), max_size=5
    )
)
def test_what_is_sent_means_what_was_checked(fields: dict[str, object]) -> None:
    body = json.dumps(fields | {"model": "m"}).encode()
    try:
        found = inspect_json(body, frozenset(fields))
    except ClientError:
        return
    assert json.loads(found.raw) == found.fields == fields | {"model": "m"}


def test_sessions_and_limits() -> None:
    body = {"model": "m", "max_tokens": 5, "user": "u", "metadata": {"session_id": "s"}, "stream": True}
    found = inspect_json(msgspec.json.encode(body))
    assert (found.session, found.output_tokens_max, found.stream) == ("s", 5, True)
    found = inspect_json(msgspec.json.encode(body | {"prompt_cache_key": "k", "max_completion_tokens": 9}))
    assert (found.session, found.output_tokens_max) == ("k", 9)


def form(*names: str) -> bytes:
    """A multipart body with these fields."""
    parts = [f"--b\r\nContent-Disposition: form-data; {name}\r\n\r\nvalue\r\n" for name in names]
    return "".join([*parts, "--b--\r\n"]).encode()


@pytest.mark.parametrize(
    "name", ['name="vllm_xargs"', "name=model", "name*=utf-8''a", 'name="mod\\"el"', 'name="a"; x="y"']
)
def test_forms_that_are_refused(name: str) -> None:
    with pytest.raises(ClientError):
        inspect_form(form(name))


def test_form_names_its_model() -> None:
    assert inspect_form(form('name="file"; filename="a.wav"', 'name="model"')).model == "value"


@pytest.mark.parametrize("reason", RejectReason)
def test_every_refusal_has_a_status(reason: RejectReason) -> None:
    refusal = rejected(Reject(RequestId("r"), reason, Micros(1_200_000)))
    assert 400 <= REJECTED[reason].status < 600 and refusal.retry_after_s == 2
    assert json.loads(body_of(refusal))["error"]["code"]
    assert json.loads(body_of(refusal, Api.MESSAGES))["error"]["message"]


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_has_a_last_event(kind: FailureKind) -> None:
    assert BROKE_OFF[kind].status >= 500
    assert last_events(kind, Api.CHAT, True).endswith(b"data: [DONE]\n\n")
    assert last_events(kind, Api.CHAT, False).startswith(b"\n\ndata: ")
    assert last_events(kind, Api.MESSAGES, True).startswith(b"event: error\n")


STREAM_BYTES = (
    b'data: {"choices":[{"text":"\\"usage\\": {\\"prompt_tokens\\":9}"}],"usage":null}\n\n' * 3
    + b'data: {"usage":{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}\r\n\r\n'
    + b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(1, len(STREAM_BYTES) - 1), max_size=8))
def test_usage_is_found_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    stream, edges = StreamUsage(), [0, *sorted(cuts), len(STREAM_BYTES)]
    for start, end in itertools.pairwise(edges):
        stream.feed(STREAM_BYTES[start:end])
    assert stream.usage == Usage(5, 4, 3)
    assert stream.ends_whole()


def test_usage_of_the_other_shapes() -> None:
    usage = Usage()
    usage.read(b'{"usage": {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}}')
    usage.read(b'{"type":"message_delta","usage":{"output_tokens":12}}')
    usage.read(b'{"usage":null}')
    assert usage == Usage(7, 3, 12)
    assert response_id(b'{"response":{"id":"resp_a1","object"') == "resp_a1"


CHUNKED = b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nx: y\r\n\r\nrest"


@given(st.lists(st.integers(1, len(CHUNKED) - 1), max_size=8))
def test_chunks_are_the_same_wherever_they_are_cut(cuts: list[int]) -> None:
    body, edges, after = ChunkedBody(100), [0, *sorted(cuts), len(CHUNKED)], b""
    done = False
    for start, end in itertools.pairwise(edges):
        if done:
            after += CHUNKED[start:end]
        else:
            rest = body.feed(CHUNKED[start:end])
            done, after = rest is not None, rest or b""
    assert (body.body(), after) == (b"hello world", b"rest")


@given(st.binary(max_size=200))
def test_any_head_is_taken_or_refused(raw: bytes) -> None:
    try:
        head = parse_head(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n" + raw, FrontSettings())
    except ClientError:
        return
    assert isinstance(head, Head)
    assert all(name == name.lower() and b"\n" not in value for name, value in head.fields.items())


def test_request_ids() -> None:
    ids = RequestIds()
    made = [ids.of(None) for _ in range(1_000)]
    assert len({unique for _, unique in made}) == 1_000
    assert all(len(shown) == 32 and shown == unique and shown[12] == "4" for shown, unique in made)
    assert ids.of(b"bad id")[0] != "bad id"
    assert {ids.of(b"mine")[0] for _ in range(3)} == {"mine"}
    assert len({ids.of(b"mine")[1] for _ in range(1_000)}) == 1_000


def test_oldest_stored_responses_are_forgotten() -> None:
    stored = StoredResponses(2)
    for name in "abc":
        stored.learn(name, "e")
    assert [stored.find(name) for name in "abc"] == [None, "e", "e"]


@dataclass
class Member:
    """Due at `at_us`; keeps when it was told so."""

    at_us: int
    slot: int = NEVER
    told: list[int] = field(default_factory=list)

    def due(self, now_us: int) -> int:
        if now_us < self.at_us:
            return self.at_us
        self.told.append(now_us)
        return 0


class Hand(Clock):
    """A clock moved by hand."""

    now = Micros(0)

    def now_us(self) -> Micros:
        return self.now


@given(st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 5_000)), max_size=20), st.lists(st.integers(1, 900)))
def test_timers_fire_once_never_early_and_at_most_two_ticks_late(
    moves: list[tuple[int, int]], steps: list[int]
) -> None:
    clock = Hand()
    timers, members = Timers(clock, tick_us=100), []
    for watched, real in moves:  # watched for `watched`, moved to `real` afterwards
        member = Member(real)
        timers.watch(member, watched)
        timers.watch(member, real)
        members.append(member)
    for step in [*steps, *[100] * 60]:
        before, clock.now = clock.now, Micros(clock.now + step)
        timers.turn(clock.now)
        for member in members:
            if member.told == [clock.now]:
                assert member.at_us <= clock.now
                assert before <= member.at_us + 200
    assert all(len(member.told) == 1 for member in members)
