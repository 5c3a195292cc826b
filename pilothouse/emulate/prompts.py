"""From a request's body to token ids and the names of its KV blocks, by the very code that the gateway uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from pilothouse.core.errors import ClientError
from pilothouse.core.units import BlockKey
from pilothouse.emulate.errors import Refused, out_of_range
from pilothouse.live.tokens.dialect import ID_BYTES, NO_SCOPE, Dialect, Scope, pack, unpack
from pilothouse.live.tokens.encode import Cut, Key
from pilothouse.live.tokens.exact import ExactTokens, truncated
from pilothouse.live.tokens.inexact import Inexact
from pilothouse.live.tokens.prefix_memo import Node, PrefixMemo, compute, keys_of
from pilothouse.live.tokens.requests import EngineSettings, Wanted

MEMORY_BYTES = 128 << 20  # for texts, and as much again for block names: a few hundred long prompts
INLINE_CHARS = 20_000  # of text not seen before; more is encoded beside the event loop: about 5 ms
INLINE_TOKENS = 4_096  # whose blocks have no name yet; more are named beside the event loop: about 3 ms


class Prompt(msgspec.Struct, frozen=True):
    """One prompt as the engine sees it."""

    ids: bytes  # packed
    keys: list[BlockKey]  # of its full blocks
    digest: bytes  # of the last full block
    scope: Scope
    named_tokens: int  # in full blocks

    @property
    def tokens(self) -> int:
        return len(self.ids) // ID_BYTES

    def list_ids(self) -> list[int]:
        return list(unpack(self.ids))


class Read(msgspec.Struct, frozen=True):
    """A prompt before its new text is encoded."""

    wanted: Wanted
    cut: Cut
    unknown: list[Key]


class Found(msgspec.Struct, frozen=True):
    """A prompt before its new blocks are named."""

    chunks: list[bytes]
    scope: Scope
    path: list[Node]
    missing: list[bytes]

    @property
    def is_short(self) -> bool:
        return sum(map(len, self.missing)) <= INLINE_TOKENS * ID_BYTES


class Prompts:
    """Belongs to one event loop, except `encode` and `compute`, which may run in a thread."""

    def __init__(self, folder: Path, dialect: Dialect, max_model_len: int) -> None:
        self.folder, self.dialect, self.max_model_len = folder, dialect, max_model_len
        self._exact = ExactTokens(folder, EngineSettings(max_model_len=max_model_len), MEMORY_BYTES)
        self._memo = PrefixMemo(dialect, MEMORY_BYTES)
        self._vocabulary = self.tokenizer.get_vocab_size()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._exact.encoder.loaded.tokenizer

    def read(self, route: str, body: dict[str, Any]) -> Read:
        """Renders and cuts. Raises Refused."""
        try:
            wanted, cut = self._exact.read(route, body)
        except ClientError as error:
            raise Refused(str(error), error.status, error.param) from None
        except Inexact as inexact:
            raise Refused(f"this emulated engine cannot read the prompt: {inexact.reason}") from None
        return Read(wanted, cut, self._exact.encoder.unknown(cut))

    def encode(self, keys: Sequence[Key]) -> list[bytes]:
        """The packed ids of texts."""
        return self._exact.encoder.encode(keys)

    def ids(self, read: Read, encoded: list[bytes]) -> list[bytes]:
        """Packed ids in chunks. Raises Refused for ids that the model does not have."""
        if read.unknown:
            self._exact.encoder.fill(read.cut, read.unknown, encoded)
        if isinstance(read.wanted.prompt, list) and read.wanted.prompt:
            highest = max(read.wanted.prompt)
            if highest >= self._vocabulary:
                raise Refused(f"Token id {highest} is out of vocabulary")
        return truncated(read.cut.flat, read.wanted.cut)

    def all_ids(self, route: str, body: dict[str, Any]) -> list[int]:
        """Unpacked, for those who ask for nothing else. Raises Refused."""
        read = self.read(route, body)
        return list(unpack(b"".join(self.ids(read, self.encode(read.unknown)))))

    def look_up(self, chunks: list[bytes], scope: Scope) -> Found:
        """What earlier prompts share with it is known and not hashed again. Raises Refused if it is too long."""
        self.check_length(sum(map(len, chunks)) // ID_BYTES)
        path = self._memo.walk(self._memo.root(scope), chunks)
        return Found(chunks, scope, path, chunks[len(path) - 1 :])

    def compute(self, found: Found) -> list[Node]:
        """Names the blocks that are not known. May run in a thread."""
        return compute(self.dialect, found.scope, found.path[-1], found.missing)

    def name(self, found: Found, computed: list[Node]) -> Prompt:
        self._memo.keep(found.path, found.chunks, computed)
        path, size = found.path, self.dialect.block_size
        keys: list[BlockKey] = keys_of(path)  # type: ignore[assignment]
        return Prompt(b"".join(found.chunks), keys, path[-1].digest, found.scope, len(keys) * size)

    def check_length(self, tokens: int) -> None:
        limit = self.max_model_len
        if tokens >= limit:
            what = (
                f"This model's maximum context length is {limit} tokens. However, your prompt contains {tokens} input "
                "tokens, which leaves no room for output tokens. Please reduce the length of the input prompt."
            )
            raise out_of_range("input_tokens", tokens, what)

    def continued(self, prompt: Prompt, ids: list[int]) -> list[BlockKey]:
        """Names of the full blocks that an answer adds."""
        size = self.dialect.block_size * ID_BYTES
        tail = prompt.ids[len(prompt.ids) - len(prompt.ids) % size :]
        _, keys = self.dialect.extend(prompt.digest, tail + pack(ids), prompt.scope, not prompt.keys)
        return keys  # type: ignore[return-value]


def scope_of(body: dict[str, Any], lora: tuple[str, str] | None) -> Scope:
    salt = body.get("cache_salt")
    if salt is None and lora is None:
        return NO_SCOPE
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise out_of_range("cache_salt", salt, "cache_salt must be a non-empty string if it is given.")
    return Scope(lora, salt)
