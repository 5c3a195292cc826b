"""What we compute is what a real engine computes: token ids of every route, and the hashes in its KV events."""

import asyncio
import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import zmq
from chat_samples import Samples
from token_variants import VARIANTS, write_model

from pilothouse.core.errors import UpstreamError
from pilothouse.live.tokens.describe import ModelTokens, Prompt
from pilothouse.live.tokens.dialect import Dialect, Own
from pilothouse.live.tokens.requests import EngineSettings
from rig.engines import Engine, Rig
from rig.model import tiny_lora

pytestmark = pytest.mark.engine
CONTEXT = 32_768
TOOLS_ALLOWED = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--max-model-len", str(CONTEXT))
# Shows everything a template can see, in the form it has there: parts, names, reasoning, ids, order of fields, kwargs.
BUSY = """{{ bos_token }}{% if tools %}{{ tools | tojson }}
{%- for t in tools %}{{ t.function.items() | list }}{% endfor %}{% endif %}
{%- if documents %}{{ documents | tojson(indent=1) }}{% endif -%}
{{ enable_thinking | default('unset') }}|{{ reasoning_effort | default('unset') }}|{{ style | default('unset') }}|{{ extra }}
{%- for message in messages %}
<|im_start|>{{ message.role }}{{ '/' + message.name if message.name else '' }}
{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message['content'] %}{{ part | tojson }}{{ part.text }}{% endfor %}{% endif -%}
{%- generation %}{{ message | tojson }}{% endgeneration %}
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif -%}
{%- for call in message.tool_calls or [] %}{% if loop.index > 2 %}{% break %}{% endif %}{{ call | tojson }}{% endfor -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""


class Client:
    """Posts JSON to one engine over one connection."""

    def __init__(self, engine: Engine) -> None:
        parts = urlsplit(engine.url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        self._connection.request("POST", path, body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    async def ask(self, path: str, body: bytes) -> bytes:
        status, answer = self.post(path, body)
        if status != 200:
            raise UpstreamError(path, f"{status}: {answer[:300]!r}")
        return answer

    def rendered(self, route: str, body: dict[str, Any]) -> list[int]:
        status, answer = self.post(f"{route}/render", json.dumps({"model": "tiny", **body}).encode())
        assert status == 200, (status, answer[:500], body)
        decoded = json.loads(answer)
        ids: list[int] = (decoded[0] if isinstance(decoded, list) else decoded)["token_ids"]
        return ids

    def complete(self, body: dict[str, Any]) -> None:
        status, answer = self.post("/v1/chat/completions", json.dumps({"max_tokens": 1, **body}).encode())
        assert status == 200, answer[:500]

    def close(self) -> None:
        self._connection.close()


@contextmanager
def serving(rig: Rig, model: Path, *flags: str) -> Iterator[Client]:
    """An engine for a while."""
    engine = rig.start(model, args=flags, kv_events=False).wait_ready()
    client = Client(engine)
    try:
        yield client
    finally:
        client.close()
        engine.kill()


@pytest.fixture(scope="module")
def busy_model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's weights under a tokenizer with bos and a template that shows everything."""
    folder = tmp_path_factory.mktemp("busy") / "model"
    shutil.copytree(tiny, folder)
    for stale in folder.glob("*chat_template*"):
        stale.unlink()
    return write_model(folder, VARIANTS["llama3"](), BUSY, bos_token="<|begin_of_text|>", eos_token="<|im_end|>")


@pytest.fixture(scope="module", params=["tiny", "busy"])
def pair(
    request: pytest.FixtureRequest, rig: Rig, tiny: Path, busy_model: Path
) -> Iterator[tuple[Client, ModelTokens]]:
    """An engine that renders, and our own reading of the same model; a block is one token, so keys stand for ids."""
    model = tiny if request.param == "tiny" else busy_model
    with serving(rig, model, "--enable-scale-out", *TOOLS_ALLOWED) as client:
        yield client, ModelTokens(model, Own(block_size=1), settings=EngineSettings(max_model_len=CONTEXT))


SAMPLED: dict[str, tuple[int, Callable[[Samples], dict[str, Any]]]] = {
    "/v1/chat/completions": (400, Samples.chat),
    "/v1/completions": (60, Samples.completion),
    "/v1/messages": (150, Samples.anthropic),
    "/v1/responses": (150, Samples.response),
}


@pytest.mark.parametrize("route", SAMPLED)
def test_ids_are_the_engines(pair: tuple[Client, ModelTokens], route: str) -> None:
    client, tokens = pair
    count, draw = SAMPLED[route]
    samples, exact = Samples(seed=11), 0
    for _ in range(count):
        body = draw(samples)
        expected = client.rendered(route, body)
        prompt = asyncio.run(tokens.describe_slowly(route, body))
        if prompt.mode == "exact":
            exact += 1
            assert (prompt.tokens, prompt.blocks) == (len(expected), Own(block_size=1).chain(expected)), body
            assert tokens.describe(route, body) == prompt
        else:
            assert "truncat" in prompt.note, (prompt.note, body)
    assert exact >= 0.95 * count


@pytest.mark.parametrize("route", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
def test_prompt_lengths_are_those_of_the_bill(pair: tuple[Client, ModelTokens], route: str) -> None:
    """The serving path itself, not only its render endpoint, computes as many tokens as we say."""
    client, tokens = pair
    samples = Samples(seed=5)
    for _ in range(8):
        body = {"model": "tiny", **SAMPLED[route][1](samples)}
        if route == "/v1/chat/completions":
            body["max_tokens"] = 1
        status, answer = client.post(route, json.dumps(body).encode())
        assert status == 200, answer[:500]
        usage = json.loads(answer)["usage"]
        billed = usage.get("prompt_tokens") or sum(
            usage.get(name) or 0 for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        )
        assert asyncio.run(tokens.describe_slowly(route, body)).tokens == billed


def test_disabled_thinking_is_priced_as_the_engine_runs_it(pair: tuple[Client, ModelTokens]) -> None:
    """Only the serving path tries the template for this; its render endpoint does not."""
    client, tokens = pair
    body = {
        "model": "tiny",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "Hi"}],
        "thinking": {"type": "disabled"},
    }
    usage = json.loads(client.post("/v1/messages", json.dumps(body).encode())[1])["usage"]
    billed = sum(
        usage.get(name) or 0 for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    assert asyncio.run(tokens.describe_slowly("/v1/messages", body)).tokens == billed


ODD: list[dict[str, Any]] = [
    {"content": ["plain", "strings"]},
    {"content": [{"text": "no type"}]},
    {"content": [{"type": "text"}]},
    {"content": [{"type": "text", "text": None}]},
    {"content": [{"type": "nonsense", "x": 1}]},
    {"content": [{"type": "input_text", "text": "a"}]},
    {"content": [{"type": "output_text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"content": [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}]},
    {"content": [{"type": "text", "text": "a", "uuid": "u"}]},
    {"content": []},
    {"content": None},
    {},
    {"content": 5},
    {"content": "x", "name": 5},
    {"content": "x", "reasoning": "ignored for users", "tool_calls": []},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "assistant", "content": "a", "tool_calls": None},
    {"role": "assistant", "content": "a", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "x"}}]},
    {"role": "assistant", "content": "a", "reasoning": 5},
    {"role": "tool", "content": "no id"},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "tool_reference", "name": "look"}]},
    {"role": "function", "name": "f", "content": "x"},
    {"role": "critic", "content": "own role", "task": "t"},
    {"role": "developer", "content": "d", "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"role": 5, "content": "x"},
    {"role": "system", "content": "x-anthropic-billing-header: 1"},
]


@pytest.mark.parametrize("message", ODD, ids=str)
def test_odd_messages_are_exact_or_said_to_be_inexact(
    pair: tuple[Client, ModelTokens], message: dict[str, Any]
) -> None:
    client, tokens = pair
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}, {"role": "user", **message}]}
    status, answer = client.post("/v1/chat/completions/render", json.dumps(body).encode())
    prompt = asyncio.run(tokens.describe_slowly("/v1/chat/completions", body))
    if status == 200 and prompt.mode == "exact":
        assert prompt.blocks == Own(block_size=1).chain(json.loads(answer)["token_ids"])
    assert prompt.mode == "exact" or prompt.note  # what the engine refuses has no ids to differ from


def test_engine_answers_what_we_cannot(rig: Rig, tiny: Path) -> None:
    """Without a tokenizer the engine is asked: its render endpoint, and /tokenize where that is not served."""
    samples = [(route, draw(Samples(seed=number))) for route, (_, draw) in SAMPLED.items() for number in range(10)]
    exact = ModelTokens(tiny, Own(block_size=1), settings=EngineSettings(max_model_len=CONTEXT))
    for flags in (("--enable-scale-out",), ()):
        with serving(rig, tiny, *flags, *TOOLS_ALLOWED) as client:
            asking = ModelTokens(None, Own(block_size=1), client.ask)
            for route, body in samples:
                body = {"model": "tiny", **body}
                ours = asyncio.run(exact.describe_slowly(route, body))
                theirs = asyncio.run(asking.describe_slowly(route, body))
                if flags or (route == "/v1/chat/completions" and "truncate_prompt_tokens" not in body):
                    assert theirs.mode == "engine" or isinstance(body.get("prompt"), list)
                    assert ours.mode != "exact" or theirs.blocks == ours.blocks, body
            assert asyncio.run(exact_against(client, tiny).check("tiny")) == ""


def exact_against(client: Client, model: Path) -> ModelTokens:
    return ModelTokens(model, Own(block_size=1), client.ask)


def test_a_tokenizer_the_engine_rebuilds_is_found_out(rig: Rig, tiny: Path, tmp_path: Path) -> None:
    """Some tokenizer classes build their own word splitting: equality is checked, and then the engine is asked."""
    folder = tmp_path / "rebuilt"
    shutil.copytree(tiny, folder)
    write_model(folder, VARIANTS["llama3"](), tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>")
    route, body = "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "12345"}]}
    with serving(rig, folder, "--enable-scale-out") as client:
        tokens = exact_against(client, folder)
        modes = [tokens.mode]
        assert asyncio.run(tokens.check("tiny"))
        assert [*modes, tokens.mode] == ["exact", "engine"]
        assert tokens.describe(route, body) is None
        prompt = asyncio.run(tokens.describe_slowly(route, body))
        assert (prompt.mode, prompt.blocks) == ("engine", Own(block_size=1).chain(client.rendered(route, body)))


class Listener:
    """Reads an engine's KV events."""

    def __init__(self, engine: Engine) -> None:
        assert engine.kv_endpoint is not None
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        self._socket.connect(engine.kv_endpoint)
        self._socket.subscribe(b"")

    def stored(self, count: int) -> list[int]:
        """The hashes of the next `count` blocks stored."""
        hashes: list[int] = []
        while len(hashes) < count:
            assert self._socket.poll(20_000), f"{len(hashes)} of {count} blocks came"
            _, events, *_ = msgspec.msgpack.decode(self._socket.recv_multipart()[2])
            for event in events:
                if event["type"] == "BlockStored":
                    hashes += event["block_hashes"]
        return hashes

    def until_connected(self, ask: Callable[[int], None]) -> None:
        """Sends new prompts until an event comes: a subscription takes effect some time after it is asked for."""
        for number in range(200):
            ask(number)
            if self._socket.poll(100):
                break
        while self._socket.poll(200):
            self._socket.recv_multipart()

    def close(self) -> None:
        self._socket.close(linger=0)


HASHED: dict[str, tuple[Dialect, dict[str, str]]] = {
    "sha256": (Dialect("sha256", 32), {}),
    "sha256-seed": (Dialect("sha256", 32, "42"), {"PYTHONHASHSEED": "42"}),
    "sha256_cbor": (Dialect("sha256_cbor", 32), {}),
    "sha256_cbor-seed": (Dialect("sha256_cbor", 32, "fleet"), {"PYTHONHASHSEED": "fleet"}),
    "xxhash-seed": (Dialect("xxhash", 32, "7"), {"PYTHONHASHSEED": "7"}),
    "xxhash_cbor-seed": (Dialect("xxhash_cbor", 32, "7"), {"PYTHONHASHSEED": "7"}),
}


@pytest.mark.parametrize("name", HASHED)
def test_keys_are_those_of_the_engines_events(rig: Rig, tiny: Path, name: str) -> None:
    dialect, environment = HASHED[name]
    adapter = str(tiny_lora(tiny))
    flags = ("--prefix-caching-hash-algo", dialect.algorithm, "--enable-lora", "--max-lora-rank", "8")
    engine = rig.start(tiny, args=(*flags, "--lora-modules", f"ad={adapter}"), env=environment).wait_ready()
    tokens = ModelTokens(tiny, dialect)
    cases: list[tuple[dict[str, Any], tuple[str, str] | None]] = [
        (question("plain prompt "), None),
        ({**question("plain prompt "), "cache_salt": "tenant é"}, None),
        ({**question("plain prompt "), "model": "ad"}, ("ad", adapter)),
        ({**question("plain prompt "), "model": "ad", "cache_salt": "tenant"}, ("ad", adapter)),
    ]
    with closing(Client(engine)) as client, closing(Listener(engine)) as listener:
        listener.until_connected(lambda number: client.complete(question(f"warm {number} up ")))
        for body, lora in cases:
            prompt: Prompt = asyncio.run(tokens.describe_slowly("/v1/chat/completions", body, lora))
            assert prompt.mode == "exact" and len(prompt.blocks) > 3
            client.complete(body)
            assert listener.stored(len(prompt.blocks)) == prompt.blocks, (body, lora)
    engine.kill()


def question(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text * 40}]}
