"""The face: the fast path answers from memory, the slow path falls back in order, and both agree."""

import asyncio
import copy
import json
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from chat_samples import Samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_variants import VARIANTS, write_model

from pilothouse.core.errors import ClientError, UpstreamError
from pilothouse.live.tokens.describe import Limits, ModelTokens, Prompt
from pilothouse.live.tokens.dialect import Dialect, Own
from pilothouse.live.tokens.inexact import Inexact

CHAT = "/v1/chat/completions"
ROUTES = {"chat": CHAT, "completion": "/v1/completions", "anthropic": "/v1/messages", "response": "/v1/responses"}
SMALL = Dialect("sha256_cbor", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), VARIANTS["qwen"]())


def chat(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **fields}


class Engine:
    """Stands in for an engine: answers what it was given, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, list[str]()

    async def ask(self, path: str, body: bytes) -> bytes:
        self.asked.append(path)
        name = path.rsplit("/", 1)[-1]
        if name not in self.answers:
            raise UpstreamError("engine", "404")
        return json.dumps(self.answers[name]).encode()


def slowly(tokens: ModelTokens, route: str, body: dict[str, Any], lora: tuple[str, str] | None = None) -> Prompt:
    return asyncio.run(tokens.describe_slowly(route, body, lora))


texts = st.lists(st.text(max_size=30), min_size=1, max_size=4)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, min_size=1, max_size=4), st.sampled_from([None, "salt"]), st.sampled_from([None, ("a", "p")]))
def test_paths_agree_whatever_is_remembered(
    model: Path, chats: list[list[str]], salt: str | None, lora: tuple[str, str] | None
) -> None:
    used, tight = ModelTokens(model, SMALL), ModelTokens(model, SMALL, limits=Limits(2_000, 2_000, 10, 10))
    for words in chats + chats:
        body = chat(*words) if salt is None else chat(*words, cache_salt=salt)
        fresh = slowly(ModelTokens(model, SMALL), CHAT, body, lora)
        assert fresh.mode == "exact" and len(fresh.blocks) == fresh.tokens // 4
        assert slowly(used, CHAT, body, lora) == used.describe(CHAT, body, lora) == fresh
        assert slowly(tight, CHAT, body, lora) == fresh


def test_long_new_text_takes_the_slow_path_once(model: Path) -> None:
    tokens, body = ModelTokens(model, SMALL), chat("long " * 2_000)
    assert tokens.describe(CHAT, body) is None
    prompt = slowly(tokens, CHAT, body)
    assert tokens.describe(CHAT, body) == prompt
    assert tokens.describe(CHAT, chat("long " * 2_000, "and short")) is not None
    assert (tokens.counters.exact, tokens.mode) == (3, "exact")


def test_a_known_text_under_a_new_salt_is_hashed_in_the_pool(model: Path) -> None:
    tokens = ModelTokens(model, SMALL)
    slowly(tokens, CHAT, chat("word " * 20_000))
    assert tokens.describe(CHAT, chat("word " * 20_000, cache_salt="other")) is None


def test_what_is_inexact_is_asked_of_the_engine(model: Path) -> None:
    engine = Engine(render={"token_ids": list(range(10)), "features": {"mm_placeholders": {"image": [{"offset": 6}]}}})
    tokens = ModelTokens(model, SMALL, engine.ask)
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
    assert tokens.describe(CHAT, body) is None
    prompt = slowly(tokens, CHAT, body)
    assert (prompt.tokens, prompt.mode, prompt.note) == (10, "engine", "content part is not text")
    assert prompt.blocks == SMALL.chain(range(10))[:1]  # the second block holds the image
    assert engine.asked == [f"{CHAT}/render"]
    assert tokens.counters.reasons == {"content part is not text": 1}


def test_engines_that_do_not_render_tokenise(model: Path) -> None:
    engine = Engine(tokenize={"tokens": [1, 2, 3, 4, 5]})
    tokens = ModelTokens(None, SMALL, engine.ask)
    for _ in range(2):
        assert slowly(tokens, CHAT, chat("x")) == Prompt(5, SMALL.chain([1, 2, 3, 4]), "engine", "no tokenizer")
    assert engine.asked == [f"{CHAT}/render", "/tokenize", "/tokenize"]
    assert slowly(tokens, "/v1/responses", {"input": "x"}).mode == "text"


@pytest.mark.parametrize("ask", [None, Engine().ask])
def test_text_blocks_where_nothing_else_works(ask: Any) -> None:
    tokens = ModelTokens(None, Dialect("sha256", 16), ask)
    first, second = (slowly(tokens, CHAT, chat("same " * 100, end)) for end in ("a", "b"))
    assert first.mode == second.mode == "text" and first.note
    shared = [one == other for one, other in zip(first.blocks, second.blocks, strict=True)]
    assert shared[:7] == [True] * 7
    assert tokens.counters.text == 2
    assert (tokens.describe(CHAT, chat("x")) is None) == (ask is not None)


def test_ids_need_no_tokenizer() -> None:
    prompt = ModelTokens(None, SMALL).describe("/v1/completions", {"prompt": list(range(9))})
    assert prompt == Prompt(9, SMALL.chain(range(9)), "exact")


def test_several_prompts_are_marked(model: Path) -> None:
    prompt = ModelTokens(model, SMALL).describe("/v1/completions", {"prompt": [[1, 2, 3, 4], [5]]})
    assert prompt == Prompt(4, SMALL.chain([1, 2, 3, 4]), "exact", "first of 2 prompts")


def test_hashes_nobody_can_know_get_our_own_names(model: Path) -> None:
    tokens = ModelTokens(model, Dialect("xxhash", 4))
    prompt = tokens.describe("/v1/completions", {"prompt": [1, 2, 3, 4]})
    assert prompt is not None and prompt.blocks == Own(block_size=4).chain([1, 2, 3, 4])
    assert prompt.mode == "exact" and "own keys" in prompt.note


@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_clients_template_is_refused_in_every_mode(model: Path, tokenizer: bool) -> None:
    tokens = ModelTokens(model if tokenizer else None, SMALL)
    with pytest.raises(ClientError):
        tokens.describe(CHAT, chat("x", chat_template="{{ 1 }}"))
    with pytest.raises(ClientError):
        slowly(tokens, CHAT, chat("x", chat_template="{{ 1 }}"))


def test_half_a_character_is_not_encoded(model: Path) -> None:
    prompt = ModelTokens(model, SMALL).describe(CHAT, chat("\ud83d"))
    assert prompt is not None and (prompt.mode, prompt.note) == ("text", "text is not valid Unicode")


def test_a_different_engine_is_not_trusted(model: Path) -> None:
    tokens = ModelTokens(model, SMALL, Engine(tokenize={"tokens": [1]}).ask)
    assert asyncio.run(tokens.check()) == "tokenizer differs from the engine's" == tokens.distrusted
    assert tokens.mode == "engine"
    with pytest.raises(Inexact):
        asyncio.run(ModelTokens(model, SMALL).check())


FIELDS = [
    *("thinking", "output_config", "reasoning", "tools", "system", "instructions", "documents", "truncation", "input"),
    *(
        "chat_template_kwargs",
        "kv_transfer_params",
        "truncation_side",
        "truncate_prompt_tokens",
        "max_tokens",
        "prompt",
    ),
    *("cache_salt", "add_special_tokens", "continue_final_message", "reasoning_effort", "max_completion_tokens"),
]


def spoiled(value: Any, random: Random) -> Any:
    """The same JSON with one place, at any depth, replaced by something else."""
    if isinstance(value, dict | list) and value and random.random() < 0.8:
        copied = copy.copy(value)
        place = random.choice(list(copied)) if isinstance(copied, dict) else random.randrange(len(copied))
        copied[place] = spoiled(copied[place], random)
        return copied
    return random.choice(
        [None, 5, -1, 1e300, True, "x", [], {}, [None], [[5]], {"type": 5}, [{"type": "text"}], "\ud83d"]
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.sampled_from(["chat", "completion", "anthropic", "response"]), st.booleans())
def test_no_body_is_too_strange(model: Path, seed: int, kind: str, engine: bool) -> None:
    """Whatever a client sends gets a description or a refusal; the engine judges the rest."""
    samples = Samples(seed)
    body = getattr(samples, kind)()
    for _ in range(samples.random.randrange(1, 4)):
        body = spoiled(body, samples.random)
    if not isinstance(body, dict):
        return
    if samples.random.random() < 0.5:
        body[samples.random.choice(FIELDS)] = spoiled(None, samples.random)
    tokens = ModelTokens(model, SMALL, Engine().ask if engine else None)
    with suppress(ClientError):
        assert slowly(tokens, ROUTES[kind], body).mode in ("exact", "text")


@pytest.mark.parametrize("mark", [("config.json", '{"model_type": "gpt_oss"}'), ("tekken.json", "{}")])
def test_families_the_engine_renders_in_code_are_not_guessed(tmp_path: Path, mark: tuple[str, str]) -> None:
    folder = write_model(tmp_path, VARIANTS["qwen"]())
    (folder / mark[0]).write_text(mark[1])
    prompt = ModelTokens(folder, SMALL).describe(CHAT, chat("x"))
    assert prompt is not None and prompt.mode == "text" and prompt.note.startswith("engine ")
