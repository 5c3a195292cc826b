"""Laws of the parts: cancelling gives everything back, filler survives the tokenizer, slow readers get every byte."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.errors import ConfigError
from pilothouse.core.units import BlockKey, Micros, RequestId
from pilothouse.emulate.answer import StreamedAnswer
from pilothouse.emulate.asked import Asked
from pilothouse.emulate.bodies import Named
from pilothouse.emulate.faults import Faults, parse_fault
from pilothouse.emulate.filler import Words, find_words
from pilothouse.emulate.kv_blocks import Chain, KvBlocks
from pilothouse.emulate.model_folder import build_tokenizer, built_in_folder
from pilothouse.emulate.pace import Pace
from pilothouse.emulate.prompts import Prompt
from pilothouse.emulate.settings import Wanted, settle
from pilothouse.live.clock import Clock
from pilothouse.live.tokens.dialect import NO_SCOPE, Dialect, pack
from pilothouse.perf.catalog import model_named
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.engine import Engine, EngineSpec
from pilothouse.sim.jobs import Job

TOKENIZER = build_tokenizer()
WORDS: Words = find_words(TOKENIZER)
SPEC = EngineSpec(StepTime(1000, 10, 5, 2), kv_blocks=40, block_size=4, batched_tokens_max=64, sequences_max=8,
                  macro_steps=False)  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 30), st.integers(0, 20_000)), max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 60_000)), max_size=12),
)
def test_whoever_is_cancelled_leaves_nothing_behind_and_disturbs_nobody(
    jobs: list[tuple[int, int, int, int]], cancels: list[tuple[int, int]]
) -> None:
    engine = Engine(SPEC, reporting=True)
    events: list[tuple[int, int, int]] = [(at, 0, i) for i, (_, _, _, at) in enumerate(jobs)]
    events += [(at, 1, i) for i, at in cancels if i < len(jobs)]
    present, ended, gone = set[int](), list[int](), set[int]()
    for at, kind, i in sorted(events):
        run(engine, at, ended)
        if kind == 0:
            prefix, prompt, output, _ = jobs[i]
            keys = [BlockKey(prefix * 100 + b) for b in range(prompt // 4)]
            engine.submit(Job(RequestId(str(i)), keys, prompt, output), Micros(at))
            present.add(i)
        elif i in present:
            engine.abort(RequestId(str(i)), Micros(at))
            gone.add(i)
        engine.store.check()
    run(engine, 10**12, ended)
    assert len(set(ended)) == len(ended) and {*ended, *gone} == present and engine.next_step_us() is None
    engine.store.check()
    assert engine.store.available == engine.store.capacity


def run(engine: Engine, until: int, ended: list[int]) -> None:
    while (at := engine.next_step_us()) is not None and at <= until:
        ended += [int(job.request) for job, _ in engine.step(at).finished]
        assert all(count >= 1 for _, count in engine.generated())


@given(st.binary(min_size=8, max_size=32), st.integers(1, 300))
def test_filler_sent_back_is_encoded_to_the_tokens_it_was_made_of(seed: bytes, tokens: int) -> None:
    plan = WORDS.plan(seed, tokens)
    assert plan.ids(0, tokens) == TOKENIZER.encode(plan.whole()).ids
    assert plan.ids(tokens // 2, tokens) == plan.ids(0, tokens)[tokens // 2 :]
    assert plan == WORDS.plan(seed, tokens)


class Slow:
    """A line that is now and then full."""

    def __init__(self, full_after: list[int]) -> None:
        self.is_write_paused, self.sent, self.ended, self._full_after = False, b"", False, list(full_after)

    def write(self, data: bytes) -> None:
        assert not self.is_write_paused and not self.ended
        self.sent += data
        if self._full_after and len(self.sent) > self._full_after[0]:
            self._full_after.pop(0)
            self.is_write_paused = True

    def begin_stream(self) -> None: ...

    def reply(self, status: int, body: bytes) -> None:
        raise AssertionError

    def end_stream(self) -> None:
        assert not self.ended
        self.ended = True

    def abort(self) -> None:
        raise AssertionError


@given(
    st.integers(1, 200),
    st.lists(st.integers(0, 60_000), max_size=5).map(sorted),
    st.lists(st.integers(1, 200), max_size=5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_slow_reader_gets_the_same_bytes(
    tokens: int, full_after: list[int], resumes: list[int], is_chat: bool, usage: bool, with_ids: bool
) -> None:
    asked = Asked(is_chat, "m", tokens, False, True, usage, usage, with_ids, {})
    prompt = Prompt(pack([1, 2, 3]), [], b"", NO_SCOPE, 0)

    def played(line: Slow) -> bytes:
        answer = StreamedAnswer(
            line, Named("x", 1, "m", is_chat), asked, prompt, WORDS.plan(b"12345678", tokens), "stop"
        )
        answer.begin()
        for i in range(1, tokens):
            answer.advance(i)
            if i in resumes and line.is_write_paused:
                line.is_write_paused = False
                answer.resume()
        answer.end()
        while line.is_write_paused:
            line.is_write_paused = False
            answer.resume()
        assert line.ended
        return unframed(line.sent)

    fast, slow = played(Slow([])), played(Slow(full_after))
    assert fast == slow
    assert fast.count(b"finish_reason") == tokens + is_chat and fast.endswith(b"data: [DONE]\n\n")


def unframed(raw: bytes) -> bytes:
    """Takes HTTP's chunked coding off."""
    whole = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        assert raw[length : length + 2] == b"\r\n"
        whole, raw = whole + raw[:length], raw[length + 2 :]
        if not length:
            assert not raw
            return whole


def test_events_name_parents_tokens_adapter_and_salt() -> None:
    dialect, ids = Dialect("sha256_cbor", 4), list(range(12))
    keys = [BlockKey(key) for key in dialect.chain(ids)]
    blocks, chain = KvBlocks(4), Chain(keys, pack(ids), NO_SCOPE, None)
    other = Chain(keys, pack(ids), NO_SCOPE, None)
    blocks.begin(chain)
    blocks.begin(other)
    blocks.end(chain)
    first, second = blocks.stored(keys[:1]), blocks.stored(keys[1:])
    assert (first[0]["parent_block_hash"], second[0]["parent_block_hash"]) == (None, keys[0])
    assert (first[0]["token_ids"], second[0]["token_ids"]) == (ids[:4], ids[4:])
    assert [event["block_hashes"] for event in blocks.removed(keys)] == [[keys[2]], [keys[1]], [keys[0]]]
    blocks.end(other)
    with pytest.raises(KeyError):
        blocks.stored(keys)


class Hands(Clock):
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.at = 5_000_000

    def now_us(self) -> Micros:
        return Micros(self.at)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 20.0]), st.integers(0, 10**7)), min_size=1))
def test_pace_never_jumps(changes: list[tuple[float, int]]) -> None:
    clock = Hands()
    pace, last = Pace(clock), 0
    for factor, wait_us in changes:
        pace.change(factor)
        assert abs(pace.now_us() - last) <= 1
        clock.at += wait_us
        assert abs(pace.now_us() - last - wait_us * factor) <= 2
        last = pace.now_us()


def test_the_built_in_tokenizer_is_the_same_everywhere_and_written_once(tmp_path: Path) -> None:
    model = model_named("Qwen/Qwen3-32B")
    folder = built_in_folder(model, 4096, tmp_path)
    assert folder == built_in_folder(model, 4096, tmp_path) != built_in_folder(model, 8192, tmp_path)
    assert build_tokenizer().to_str() == (folder / "tokenizer.json").read_text() == TOKENIZER.to_str()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slow=3", (None, Faults(slow=3))),
        ("1:error_rate=0.5,error_status=503", (1, Faults(error_rate=0.5, error_status=503))),
        ("0:crash,seconds=2", (0, Faults(crash=True, seconds=2))),
    ],
)
def test_faults_on_the_command_line(text: str, expected: tuple[int | None, Faults]) -> None:
    assert parse_fault(text) == expected


@pytest.mark.parametrize("text", ["slow", "slow=", "slwo=3", "x:slow=2", "error_rate=2", "slow=0", ""])
def test_wrong_faults_are_said(text: str) -> None:
    with pytest.raises(ConfigError, match="--fault"):
        parse_fault(text)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"model": "qwen4"}, "--model"),
        ({"gpu": "h1"}, "--gpu"),
        ({"precision": "fp3"}, "--precision"),
        ({"hashing": "xxhash"}, "--hashing"),
        ({"tp": 1, "model": "llama-3.1-70b"}, "--tp"),
        ({"time_scale": 0.0}, "--time-scale"),
        ({"step_time": Path("nowhere.json")}, "--step-time"),
        ({"tokenizer": Path("nowhere")}, "--tokenizer"),
        ({"tp": 3}, "--tp"),  # 64 heads
    ],
)
def test_wrong_settings_are_said(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        settle(Wanted(**({"model": "qwen3-32b", "gpu": "h100", "tp": 2} | wrong)))


def test_coefficients_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    path.write_text('{"a_us": 5, "b_us": 1, "c_ns": 1, "p_us": 1, "label": "Measured", "source": "here"}')
    settings = settle(Wanted(model="qwen3-32b", gpu="h100", tp=2, step_time=path))
    assert settings.spec.step_time.a_us == 5 and "measured" in settings.title
