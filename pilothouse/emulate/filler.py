"""Answers without a model: real tokens of the tokenizer that mean nothing, the same for the same prompt.

Each token is a whole word, so that its text is known without decoding and the answer, sent back as part of the next
prompt, is encoded to the tokens it was made of.
"""

from math import gcd

import msgspec
from tokenizers import Tokenizer

from pilothouse.core.errors import ConfigError, Problem

WORDS = 251  # enough to look like text; prime, so that every stride passes through all of them
SCAN_MAX = 60_000  # ids looked at; common words come early in a vocabulary


class Words(msgspec.Struct, frozen=True):
    """`first` begin an answer; `rest` follow, each with its leading space. Text is escaped for JSON."""

    first: list[int]
    first_text: list[bytes]
    rest: list[int]
    rest_text: list[bytes]

    def plan(self, seed: bytes, tokens: int) -> "Plan":
        """The answer to a prompt that ends in this digest."""
        number = int.from_bytes(seed[-8:], "big")
        size = len(self.rest)
        stride = 1 + (number >> 20) % max(1, size - 1)
        while gcd(stride, size) != 1:
            stride += 1
        return Plan(self, number % len(self.first), (number >> 8) % size, stride, tokens)


class Plan(msgspec.Struct, frozen=True):
    """One answer: a word to begin with, then a walk through the others."""

    words: Words
    begin: int
    start: int
    stride: int
    tokens: int

    def ids(self, start: int, end: int) -> list[int]:
        """Token ids `start` to `end` of the answer."""
        rest, size = self.words.rest, len(self.words.rest)
        ids = [rest[(self.start + i * self.stride) % size] for i in range(start, end)]
        if start == 0 and ids:
            ids[0] = self.words.first[self.begin]
        return ids

    def text(self, index: int) -> bytes:
        """Text of one token, escaped for JSON."""
        if index == 0:
            return self.words.first_text[self.begin]
        rest = self.words.rest_text
        return rest[(self.start + index * self.stride) % len(rest)]

    def whole(self) -> str:
        """Text of all of it."""
        text: str = msgspec.json.decode(b'"%b"' % b"".join(map(self.text, range(self.tokens))))
        return text


def find_words(tokenizer: Tokenizer) -> Words:
    """Picks words of the vocabulary that survive decoding and encoding. Raises ConfigError if there are none."""
    anchor = _anchor(tokenizer)
    ids = list(range(min(tokenizer.get_vocab_size(), SCAN_MAX)))
    before = tokenizer.decode([anchor])
    together = tokenizer.decode_batch([[anchor, token_id] for token_id in ids])
    first: dict[str, int] = {}
    rest: dict[str, int] = {}
    for token_id, text in zip(ids, together, strict=True):
        added = text[len(before) :] if text.startswith(before) else ""
        if added[:1] == " " and added[1:].isalpha() and added.isascii() and added.islower() and len(added) > 3:
            rest.setdefault(added, token_id)
        elif added.isalpha() and added.isascii() and len(added) > 2 and added[1:].islower() and added[0].isupper():
            first.setdefault(added, token_id)
    rest = {text: i for text, i in rest.items() if _encode(tokenizer, before + text)[-1:] == [i]}
    first = {text: i for text, i in first.items() if _encode(tokenizer, text) == [i]}
    chosen, begins = list(rest.items())[:WORDS], list(first.items())[:WORDS]
    if not chosen:
        raise ConfigError([Problem("--tokenizer", "has no plain words to answer with: use another tokenizer")])
    begins = begins or [(text.strip(), token_id) for text, token_id in chosen]
    return Words(
        [i for _, i in begins], [t.encode() for t, _ in begins], [i for _, i in chosen], [t.encode() for t, _ in chosen]
    )


def _anchor(tokenizer: Tokenizer) -> int:
    """A token to decode others behind: some decoders drop the space that begins a text."""
    found = _encode(tokenizer, "a")
    return found[-1] if found else 0


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids
