"""Loads a tokenizer as the engine's library does, and knows whether text may be cut at its special tokens.

The engine does not use tokenizer.json as it lies: named special tokens of tokenizer_config.json become added tokens,
`add_bos_token` and `add_eos_token` replace the post-processor, and truncation and padding are set per call.

Cutting. The library first cuts the raw text at every added token that is not `normalized`, longest match first. What
lies between is normalised, split into words and encoded without a look at its neighbours, so each stretch has ids of
its own. Three things break that: a token that swallows or inspects the characters around it (lstrip, rstrip,
single_word), a model that draws lots (dropout), and parts this file does not know. One thing bends it: a metaspace
that is prepended to the very first stretch only; the other stretches are then encoded behind a special token.
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, processors

_LOCAL_NORMALIZERS = {
    "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Nmt", "Precompiled", "Replace", "Prepend",
    "BertNormalizer", "ByteLevel", "Sequence",
}  # fmt: skip
_LOCAL_SPLITTERS = {
    "ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace",
    "CharDelimiterSplit", "UnicodeScripts", "Sequence",
}  # fmt: skip
_LOCAL_MODELS = {"BPE", "Unigram", "WordPiece", "WordLevel"}
_PROBE = "pilot house 3"


class Loaded(msgspec.Struct, frozen=True):
    """A tokenizer and what is known of it."""

    tokenizer: Tokenizer
    special_ids: dict[str, int]  # the tokens at which raw text is cut; empty when it must not be cut
    cut: re.Pattern[str] | None  # finds them, longest first
    marker: str  # put before any stretch but the first; "" where stretches do not care about being first
    prefix: tuple[int, ...]  # ids the post-processor puts before and after a prompt
    suffix: tuple[int, ...]
    why_whole: str  # why text must not be cut; "" when it may


def load_tokenizer(path: Path, config: dict[str, Any]) -> Loaded:
    """Reads tokenizer.json and applies tokenizer_config.json to it."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _add_named_tokens(tokenizer, config)
    _set_ends(tokenizer, config)
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens", False))
    described = json.loads(tokenizer.to_str())
    why = _why_whole(described, config)
    special = {} if why else _cutting_tokens(described)
    longest_first = sorted(special, key=len, reverse=True)
    cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if special else None
    marker = longest_first[0] if special and _first_matters(described["pre_tokenizer"]) else ""
    prefix, suffix = _ends(tokenizer)
    return Loaded(tokenizer, special, cut, marker, prefix, suffix, why)


def _add_named_tokens(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    declared = config.get("added_tokens_decoder") or {}
    added = {entry["content"]: _token(entry) for _, entry in sorted(declared.items(), key=lambda item: int(item[0]))}
    known = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in added.values() if repr(token) not in known])
    named = [value for name, value in config.items() if name.endswith("_token") and isinstance(value, str | dict)]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    named += list(extra.values()) if isinstance(extra, dict) else list(extra)
    present = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    for value in named:
        content = value if isinstance(value, str) else value["content"]
        if content in added:
            tokenizer.add_special_tokens([added[content]])
        elif isinstance(value, dict):
            tokenizer.add_special_tokens([_token({**value, "special": True})])
        else:
            tokenizer.add_special_tokens([present.get(content) or AddedToken(content, special=True, normalized=False)])


def _token(entry: dict[str, Any]) -> AddedToken:
    flags = {
        name: entry[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special") if name in entry
    }
    return AddedToken(entry["content"], **flags)


def _set_ends(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """The post-processor the library builds when the configuration speaks of bos or eos."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return
    ends: list[list[str]] = []
    for flag, name in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")):
        value = config.get(name)
        content = value["content"] if isinstance(value, dict) else value
        ends.append([content] if config.get(flag) and content is not None else [])
    pieces = [*ends[0], "$A", *ends[1]]
    ids = [(token, tokenizer.token_to_id(token)) for token in ends[0] + ends[1]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[f"{piece}:0" for piece in pieces], pair=[f"{p}:0" for p in pieces] + ["$B:1"], special_tokens=ids
    )


def _ends(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    encoded = tokenizer.encode(_PROBE)
    mask, ids = encoded.special_tokens_mask, encoded.ids
    inner = [index for index, added in enumerate(mask) if not added]
    return tuple(ids[: inner[0]]), tuple(ids[inner[-1] + 1 :])


def _why_whole(described: dict[str, Any], config: dict[str, Any]) -> str:
    if config.get("split_special_tokens"):
        return "special tokens are encoded as text"
    for token in described["added_tokens"]:
        if not token["normalized"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            return f"token {token['content']!r} depends on the characters around it"
    model = described["model"]
    if model.get("dropout"):
        return "the model drops merges at random"
    unknown = sorted(
        (_kinds(described["normalizer"], "normalizers") - _LOCAL_NORMALIZERS)
        | (_kinds(described["pre_tokenizer"], "pretokenizers") - _LOCAL_SPLITTERS)
        | ({model.get("type", "BPE")} - _LOCAL_MODELS)
    )
    return f"unknown parts: {', '.join(unknown)}" if unknown else ""


def _kinds(part: dict[str, Any] | None, inner: str) -> set[str]:
    if part is None:
        return set()
    return {part["type"]}.union(*(_kinds(child, inner) for child in part.get(inner, [])))


def _first_matters(part: dict[str, Any] | None) -> bool:
    if part is None:
        return False
    return part.get("prepend_scheme") == "first" or any(map(_first_matters, part.get("pretokenizers", [])))


def _cutting_tokens(described: dict[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in described["added_tokens"] if not token["normalized"]}
