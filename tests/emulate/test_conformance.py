"""The same calls to an emulated and to a real engine with the same tokenizer: answers alike in everything but content."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from emulating import CHAT, COMPLETIONS, Api, chat, emulated
from prometheus_client.parser import text_string_to_metric_families

from pilothouse.wire.kv_events import parse_message
from rig.engines import Engine, Rig
from rig.model import tiny_lora

pytestmark = pytest.mark.engine
FLAGS = ("--max-loras", "1", "--enable-scale-out")
SETTINGS = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_SERVER_DEV_MODE": "1"}
Pair = tuple[Api, Api]
# Whole words alone: half a character is sent as no text at all, and random weights write many of those.
WORDS = {"ignore_eos": True, "allowed_token_ids": [273, 1512]}


@pytest.fixture(scope="module")
def engine(rig: Rig, tiny: Path) -> Iterator[Engine]:
    lora = tiny_lora(tiny)
    flags = ("--enable-lora", "--lora-modules", f"ad1={lora}", *FLAGS)
    started = rig.start(tiny, args=flags, env=SETTINGS)
    yield started.wait_ready()
    started.kill()


@pytest.fixture(scope="module")
def pair(engine: Engine, tiny: Path, cache: Path) -> Iterator[Pair]:
    """(emulated, real)."""
    lora = str(tiny_lora(tiny))
    with emulated(cache, tokenizer=tiny, block_size=32, max_model_len=8192, loras=(f"ad1={lora}",), kv_blocks=2048) as (
        api,
    ):
        yield api, Api(engine.url)


def shape(value: Any) -> Any:
    """What is left when content is taken away: keys in order, types, nulls."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None if value is None else type(value).__name__


MESSAGES = [{"role": "user", "content": "Hello there, how is the sea today?"}]
LONG = "word " * 400
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat("Hello")),
    "chat with ids": (CHAT, chat("Hello", return_token_ids=True)),
    "chat, newer limit": (CHAT, {"messages": MESSAGES, "max_completion_tokens": 3}),
    "chat beyond the context": (CHAT, chat("Hello", max_tokens=8, unknown_field=1)),
    "chat of an adapter": (CHAT, chat("Hello", model="ad1")),
    "text": (COMPLETIONS, {"model": "tiny", "prompt": "Hello", "max_tokens": 3}),
    "ids": (COMPLETIONS, {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 3}),
    "ids with ids": (
        COMPLETIONS,
        {"prompt": [[1, 2, 3]], "max_tokens": 2, "return_token_ids": True},
    ),
    "default length": (COMPLETIONS, {"model": "tiny", "prompt": "Hello"}),
    "a long chat": (CHAT, chat(LONG)),
    "a long chat, again": (CHAT, chat(LONG)),
    "a longer chat": (CHAT, chat(LONG + LONG)),
    "unknown transfer": (COMPLETIONS, {"prompt": "x", "max_tokens": 1, "kv_transfer_params": {}}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "continuous usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "continuous alone": {"stream_options": {"continuous_usage_stats": True}},
}


@pytest.mark.parametrize("name", GOOD)
def test_answers_in_one_piece(pair: Pair, name: str) -> None:
    path, body = GOOD[name]
    ours, theirs = (api.answered(path, WORDS | body) for api in pair)
    assert shape(ours) == shape(theirs)
    assert ours["usage"] == theirs["usage"]
    assert ours["choices"][0]["finish_reason"] == theirs["choices"][0]["finish_reason"]
    assert ours.get("prompt_token_ids") == theirs.get("prompt_token_ids")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["chat", "chat with ids", "text", "ids with ids"])
def test_streams(pair: Pair, name: str, options: str) -> None:
    path, body = GOOD[name]
    ours, theirs = (_stream(api, path, WORDS | body | {"max_tokens": 16} | OPTIONS[options]) for api in pair)
    assert ours == theirs


def _stream(api: Api, path: str, body: dict[str, Any]) -> list[Any]:
    events = api.events(path, body)
    assert events[-1] == "[DONE]"
    shapes = [shape(json.loads(event)) for event in events[:-1]]
    # An engine short of time puts some tokens into one event, so how many there are is not compared; sixteen in one
    # do not happen, so that a first, a middle and a last one remain.
    return [each for i, each in enumerate(shapes) if i == 0 or each != shapes[i - 1]]


def test_cached_tokens_are_counted_alike(pair: Pair) -> None:
    for tokens, expected in ((200, 0), (200, 192), (230, 192), (192, 160), (160, 128)):
        for api in pair:
            usage = api.complete([i % 300 + 50 for i in range(tokens)])["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == expected


BAD: dict[str, tuple[str, Any]] = {
    "unknown model": (CHAT, chat("x", model="nope")),
    "unknown model, text": (COMPLETIONS, {"model": "nope", "prompt": "x"}),
    "no JSON": (CHAT, b'{"model": "tiny", '),
    "a list": (CHAT, []),
    "no messages": (CHAT, {"model": "tiny"}),
    "messages of text": (CHAT, {"messages": "x"}),
    "empty messages": (CHAT, {"messages": []}),
    "too many tokens": (CHAT, chat("x", max_tokens=9000)),
    "no tokens": (CHAT, chat("x", max_tokens=0)),
    "tokens in words": (CHAT, chat("x", max_tokens="many")),
    "more at least than at most": (CHAT, chat("x", max_tokens=5, min_tokens=9)),
    "options without a stream": (CHAT, chat("x", stream_options={"include_usage": True})),
    "negative temperature": (CHAT, chat("x", temperature=-1)),
    "no prompt": (COMPLETIONS, {"model": "tiny"}),
    "empty prompt": (COMPLETIONS, {"prompt": ""}),
    "empty ids": (COMPLETIONS, {"prompt": []}),
    "unknown id": (COMPLETIONS, {"prompt": [99_999]}),
    "too long": (COMPLETIONS, {"prompt": [5] * 9000}),
    "too long a chat": (CHAT, chat("word " * 9000)),
    "tokenize, unknown model": ("/tokenize", {"model": "nope", "prompt": "x"}),
    "detokenize nothing": ("/detokenize", {"model": "tiny"}),
    "adapter twice": ("/v1/load_lora_adapter", {"lora_name": "ad1", "lora_path": "x"}),
    "adapter without a path": ("/v1/load_lora_adapter", {"lora_name": "ad9"}),
    "no such adapter": ("/v1/unload_lora_adapter", {"lora_name": "ad9"}),
    "nowhere": ("/v1/nowhere", {}),
    "wrong method": ("/v1/models", {}),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals(pair: Pair, name: str) -> None:
    (ours_status, ours), (theirs_status, theirs) = (api.post(*BAD[name]) for api in pair)
    assert ours_status == theirs_status and list(ours) == list(theirs)
    if "error" in ours:
        assert list(ours["error"]) == list(theirs["error"])
        params = [error["error"]["param"] for error in (ours, theirs)]
        if name != "no JSON":  # the place within the text is not worth a second parser
            assert params[0] == params[1]
        assert [ours["error"][key] for key in ("type", "code")] == [theirs["error"][key] for key in ("type", "code")]
    else:
        assert ours == theirs


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/v1/models", "/kv_event_sources", "/load", "/nope"])
def test_what_is_read(pair: Pair, path: str) -> None:
    (ours_status, ours, ours_headers), (theirs_status, theirs, theirs_headers) = (api.ask("GET", path) for api in pair)
    assert ours_status == theirs_status
    assert ours_headers.get("content-type") == theirs_headers.get("content-type")
    assert bool(ours) == bool(theirs)
    if ours:
        assert shape(json.loads(ours)) == shape(json.loads(theirs))


def test_models_are_listed_alike(pair: Pair) -> None:
    keys = ("id", "root", "parent", "max_model_len")
    ours, theirs = ([[m[key] for key in keys] for m in api.get("/v1/models")["data"]] for api in pair)
    assert ours == theirs


TOKENIZED: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"model": "tiny", "prompt": "Hello there"}),
    ("/tokenize", {"prompt": "Hello there", "return_token_strs": True}),
    ("/tokenize", {"messages": MESSAGES}),
    ("/detokenize", {"tokens": [273, 75, 335, 1512]}),
]


@pytest.mark.parametrize(("path", "body"), TOKENIZED)
def test_tokens_are_the_same(pair: Pair, path: str, body: dict[str, Any]) -> None:
    ours, theirs = (api.answered(path, body) for api in pair)
    assert ours == theirs


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": "Hello"})])
def test_prompts_are_rendered_alike(pair: Pair, path: str, body: dict[str, Any]) -> None:
    rendered = [api.post(f"{path}/render", {"model": "tiny"} | body) for api in pair]
    ids = [(answer if isinstance(answer, dict) else answer[0])["token_ids"] for _, answer in rendered]
    assert ids[0] == ids[1] and [status for status, _ in rendered] == [200, 200]


def test_adapters_are_loaded_and_unloaded_alike(pair: Pair, tiny: Path) -> None:
    body = {"lora_name": "ad2", "lora_path": str(tiny_lora(tiny))}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        ours, theirs = (api.post(path, body) for api in pair)
        assert ours == theirs


def test_metrics_are_a_part_of_the_real_ones(pair: Pair) -> None:
    for api in pair:
        api.chat("Hello", model="ad1")
    ours, theirs = (_families(api.metrics()) for api in pair)
    missing = sorted(set(ours) - set(theirs))
    assert not missing
    for name, (kind, samples) in ours.items():
        assert kind == theirs[name][0], name
        assert samples.items() <= theirs[name][1].items(), name
    unsaid = {name for name in set(theirs) - set(ours) if name.startswith("vllm:") and not name.endswith("_created")}
    assert unsaid == {f"vllm:estimated_{what}_per_gpu" for what in ("flops", "read_bytes", "write_bytes")}


def _families(text: str) -> dict[str, tuple[str, dict[str, set[str]]]]:
    """Family -> (type, sample name -> labels; of buckets also their bounds)."""
    found: dict[str, tuple[str, dict[str, set[str]]]] = {}
    for family in text_string_to_metric_families(text):
        samples: dict[str, set[str]] = {}
        for sample in family.samples:
            labels = {f"{k}={v}" if k in ("le", "source", "reason", "finished_reason", "sleep_state") else k
                      for k, v in sample.labels.items()}  # fmt: skip
            samples.setdefault(sample.name, set()).update(labels)
        found[family.name] = (family.type, samples)
    return found


def test_kv_events_are_the_same_and_replayed_alike(pair: Pair, engine: Engine) -> None:
    """Everything but time and the names of the adapters' numbers: hashes, parents, tokens, fields, order."""
    requests: list[dict[str, Any]] = [
        {"prompt": [i % 250 + 1000 for i in range(100)]},
        {"prompt": [i % 250 + 1000 for i in range(200)]},
        {"prompt": [i % 250 + 1000 for i in range(100)], "cache_salt": "tenant"},
        {"prompt": [i % 250 + 1000 for i in range(100)], "model": "ad1"},
    ]
    source = pair[0].get("/kv_event_sources")["0"]
    places = (source["replay_endpoint"], str(engine.kv_replay_endpoint))
    before = [len(_replayed(place, 0)) for place in places]
    for api in pair:
        for body in requests:
            api.complete(**({"max_tokens": 1} | body))
    ours, theirs = (
        [event for _, batch in _replayed(place, start) for event in batch[1]]
        for place, start in zip(places, before, strict=True)
    )
    assert [list(event) for event in ours] == [list(event) for event in theirs]
    assert ours == theirs
    batches = [_replayed(place, start)[0][1] for place, start in zip(places, before, strict=True)]
    assert shape(batches[0]) == shape(batches[1]) and batches[0][2] == batches[1][2] == 0


def _replayed(place: str, start: int) -> list[tuple[int, list[Any]]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger, dealer.rcvtimeo = 0, 10_000
        dealer.connect(place)
        dealer.send_multipart([b"", start.to_bytes(8, "big")])
        found = []
        while (message := parse_message(dealer.recv_multipart())) is not None:
            found.append((message.sequence, msgspec.msgpack.decode(message.payload)))
    return found
