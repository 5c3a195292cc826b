"""Laws of encoding: text cut at special tokens and cached gives the ids of the whole text, for every tokenizer."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_variants import SPECIAL, VARIANTS, WHOLE_ONLY, write_model
from tokenizers import Tokenizer

from pilothouse.live.tokens.dialect import unpack
from pilothouse.live.tokens.encode import Encoder
from pilothouse.live.tokens.tokenizer import load_tokenizer

SEAMS = [
    *SPECIAL, "<tool_call>", "<pad>", "<mask>", "<s>", "</s>", "<unk>", "[CLS]", "<|", "|>", "im_end|>x", "<|im_start|>system",
    " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u0301", "e\u0301", "é", "café", "\u200d", "👩‍🚀", "你好", "ﬁ", "▁",
    "hello", "Hello",
    "don't", "12345", ".", "x", "", "\u0130", "\ufdd0", "\x00",
]  # fmt: skip
PROMPTS = st.lists(st.one_of(st.sampled_from(SEAMS), st.text(max_size=8)), max_size=12).map("".join)


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer, Encoder]:
    reference = VARIANTS[request.param]()
    folder = write_model(tmp_path_factory.mktemp(request.param), reference)
    return request.param, reference, Encoder(load_tokenizer(folder / "tokenizer.json", {}), 1 << 20)


def ids_of(encoder: Encoder, text: str, add_special_tokens: bool) -> list[int]:
    found = encoder.cut(text, add_special_tokens)
    keys = encoder.unknown(found)
    encoder.fill(found, keys, encoder.encode(keys))
    return [token for chunk in found.flat for token in unpack(chunk)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PROMPTS, st.booleans())
def test_cut_text_has_the_ids_of_the_whole(
    variant: tuple[str, Tokenizer, Encoder], text: str, add_special_tokens: bool
) -> None:
    _, reference, encoder = variant
    expected = reference.encode(text, add_special_tokens=add_special_tokens).ids
    assert ids_of(encoder, text, add_special_tokens) == expected
    assert ids_of(encoder, text, add_special_tokens) == expected  # and again, from memory


def test_text_is_cut_wherever_it_may_be(variant: tuple[str, Tokenizer, Encoder]) -> None:
    name, _, encoder = variant
    assert (encoder.loaded.cut is None) == (name in WHOLE_ONLY), encoder.loaded.why_whole


def test_memory_is_bounded(tmp_path: Path) -> None:
    folder = write_model(tmp_path, VARIANTS["qwen"]())
    encoder = Encoder(load_tokenizer(folder / "tokenizer.json", {}), 20_000)
    for number in range(400):
        ids_of(encoder, f"<|im_start|>text number {number}<|im_end|>", False)
        assert encoder.bytes_used <= 20_000
    assert encoder.bytes_used > 10_000


def test_known_stretches_need_no_encoding(tmp_path: Path) -> None:
    folder = write_model(tmp_path, VARIANTS["qwen"]())
    encoder = Encoder(load_tokenizer(folder / "tokenizer.json", {}), 1 << 20)
    ids_of(encoder, "<|im_start|>system be brief<|im_end|>first", False)
    found = encoder.cut("<|im_start|>system be brief<|im_end|>second", False)
    assert encoder.unknown(found) == ["second"] and found.unknown_chars == len("second")


@pytest.mark.parametrize("flags", [{"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": False}])
def test_configuration_sets_the_ends(tmp_path: Path, flags: dict[str, bool]) -> None:
    folder = write_model(tmp_path, VARIANTS["llama3"]())
    config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, **flags}
    loaded = load_tokenizer(folder / "tokenizer.json", config)
    start, end = (loaded.tokenizer.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert loaded.prefix == ((start,) if flags.get("add_bos_token") else ())
    assert loaded.suffix == ((end,) if flags.get("add_eos_token") else ())
