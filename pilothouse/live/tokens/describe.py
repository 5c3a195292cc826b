"""The face of this package: what a request costs an engine in tokens, and which of its blocks it would reuse.

Three modes, best first. "exact": this machine renders, encodes and hashes as the engine does. "engine": the engine was
asked for the ids. "text": neither works; the keys are hashes of text and the token count is an estimate. A request
that cannot be had exactly goes to the next mode and its `note` says why; nothing is guessed silently.
"""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from pilothouse.live.tokens.asking import Answer, AskEngine, Asking
from pilothouse.live.tokens.dialect import ID_BYTES, NO_SCOPE, Dialect, Own, Scope, TextDialect, pack
from pilothouse.live.tokens.encode import Cut, Key, in_chunks
from pilothouse.live.tokens.exact import ExactTokens, truncated
from pilothouse.live.tokens.inexact import Inexact
from pilothouse.live.tokens.plain_text import text_of
from pilothouse.live.tokens.prefix_memo import Node, PrefixMemo, compute, keys_of
from pilothouse.live.tokens.requests import EngineSettings, Wanted
from pilothouse.live.tokens.template import refuse_client_template

Mode = Literal["exact", "engine", "text"]
_REASONS_MAX = 64


class Prompt(msgspec.Struct, frozen=True):
    """What is known of one prompt. `blocks` names all full blocks; an engine reuses at most (tokens-1)//block_size."""

    tokens: int
    blocks: list[int]
    mode: Mode
    note: str = ""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of memory, and of what the event loop does itself: both inline bounds are about 1 ms (benchmarks/tokens.py)."""

    stretch_bytes: int = 256 << 20  # encoded stretches of text
    block_bytes: int = 256 << 20  # keys of known prefixes
    inline_chars: int = 2_000  # new text encoded on the loop
    inline_tokens: int = 4_096  # new tokens hashed on the loop


@dataclass(slots=True)
class Counters:
    """How prompts were described, and why not exactly. `reasons` is bounded; the overflow counts as "other"."""

    exact: int = 0
    engine: int = 0
    text: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, mode: Mode, reason: str) -> None:
        if mode == "exact":
            self.exact += 1
        elif mode == "engine":
            self.engine += 1
        else:
            self.text += 1
        if reason:
            name = reason if reason in self.reasons or len(self.reasons) < _REASONS_MAX else "other"
            self.reasons[name] = self.reasons.get(name, 0) + 1


class ModelTokens:
    """Describes the prompts of one model. For one event loop; only pure work runs in the pool.

    tokenizer    the model's folder or tokenizer.json; None when it is not at hand
    dialect      how the engine names blocks; one that nobody can reproduce is replaced by our own names
    ask_engine   posts a body to a path of an engine that serves this model; None when none may be asked
    """

    def __init__(
        self,
        tokenizer: Path | None,
        dialect: Dialect,
        ask_engine: AskEngine | None = None,
        *,
        settings: EngineSettings | None = None,
        limits: Limits | None = None,
        pool: Executor | None = None,
    ) -> None:
        self.limits, self.counters, self.distrusted = limits or Limits(), Counters(), ""
        self.dialect = dialect if dialect.reproducible else Own(block_size=dialect.block_size)
        self.keys_note = "" if self.dialect is dialect else f"{dialect.algorithm} is seeded at random: own keys"
        self._text = TextDialect(dialect.block_size)
        self._memo = PrefixMemo(self.dialect, self.limits.block_bytes)
        self._exact = (
            None
            if tokenizer is None
            else ExactTokens(tokenizer, settings or EngineSettings(), self.limits.stretch_bytes)
        )
        self._asking = None if ask_engine is None else Asking(ask_engine)
        self._pool = pool

    @property
    def mode(self) -> Mode:
        """The mode of requests that nothing speaks against."""
        if self._exact is not None and not self.distrusted:
            return "exact"
        return "text" if self._asking is None else "engine"

    def describe(self, route: str, body: dict[str, Any], lora: tuple[str, str] | None = None) -> Prompt | None:
        """At once, when all of it is known or short; None asks for `describe_slowly`. Raises ClientError."""
        scope = _scope(body, lora)
        try:
            wanted, cut = self._read(route, body)
        except Inexact as inexact:
            return self._describe_text(body, scope, inexact.reason) if self._asking is None else None
        if cut.unknown_chars > self.limits.inline_chars:
            return None
        if cut.unknown_chars:
            keys = self._encoder_keys(cut)
            self._fill(cut, keys, self._encode(keys))
        chunks = truncated(cut.flat, wanted.cut)
        path = self._memo.walk(self._memo.root(scope), chunks)
        computed: list[Node] = []
        if len(path) <= len(chunks):
            missing = chunks[len(path) - 1 :]
            if sum(map(len, missing)) > self.limits.inline_tokens * ID_BYTES:
                return None
            computed = compute(self.dialect, scope, path[-1], missing)
        self._memo.keep(path, chunks, computed)
        return self._described(path, "exact", wanted.note)

    async def describe_slowly(self, route: str, body: dict[str, Any], lora: tuple[str, str] | None = None) -> Prompt:
        """Whatever it takes: the pool for long new text, else the engine, else text blocks. Raises ClientError."""
        scope = _scope(body, lora)
        try:
            wanted, cut = self._read(route, body)
        except Inexact as inexact:
            return await self._ask(route, body, scope, inexact.reason)
        keys = self._encoder_keys(cut)
        loop = asyncio.get_running_loop()
        if keys:
            self._fill(cut, keys, await loop.run_in_executor(self._pool, self._encode, keys))
        return await self._hash(truncated(cut.flat, wanted.cut), scope, "exact", wanted.note)

    async def check(self, model: str | None = None) -> str:
        """Compares with the engine on awkward prompts; after a difference it is asked instead. Returns the difference.

        The engine's library may rebuild a tokenizer by rules of its own for some model families, so equality with
        tokenizer.json is checked and not assumed. Raises Inexact when the engine cannot be asked.
        """
        if self._asking is None or self._exact is None:
            raise Inexact("no engine to compare with")
        for route, body in _PROBES:
            named = body if model is None else {**body, "model": model}
            try:
                _, cut = self._exact.read(route, named)
            except Inexact:
                continue
            keys = self._encoder_keys(cut)
            self._fill(cut, keys, self._encode(keys))
            answer = await self._asking.ids(route, named)
            if pack(answer.ids) != b"".join(cut.flat):
                self.distrusted = "tokenizer differs from the engine's"
                break
        return self.distrusted

    def _read(self, route: str, body: dict[str, Any]) -> tuple[Wanted, Cut]:
        if self._exact is not None and not self.distrusted:
            return self._exact.read(route, body)
        refuse_client_template(body)
        ids = body.get("prompt", body.get("input"))
        if isinstance(ids, list) and ids and all(type(each) is int and 0 <= each < 2**32 for each in ids):
            return Wanted(ids, False), Cut([""], [in_chunks(pack(ids))], 0)
        raise Inexact(self.distrusted or "no tokenizer")

    async def _ask(self, route: str, body: dict[str, Any], scope: Scope, reason: str) -> Prompt:
        if self._asking is None:
            return self._describe_text(body, scope, reason)
        try:
            answer: Answer = await self._asking.ids(route, body)
        except Inexact as inexact:
            return self._describe_text(body, scope, f"{reason}; {inexact.reason}")
        note = f"{reason}; {answer.note}" if answer.note else reason
        prompt = await self._hash(list(in_chunks(pack(answer.ids))), scope, "engine", note)
        if answer.before_media >= len(answer.ids):
            return prompt
        # Keys after an image or sound contain its hash as well, which the ids do not tell.
        return msgspec.structs.replace(prompt, blocks=prompt.blocks[: answer.before_media // self.dialect.block_size])

    async def _hash(self, chunks: list[bytes], scope: Scope, mode: Mode, note: str) -> Prompt:
        path = self._memo.walk(self._memo.root(scope), chunks)
        missing, computed = chunks[len(path) - 1 :], list[Node]()
        if missing:
            loop = asyncio.get_running_loop()
            computed = await loop.run_in_executor(self._pool, compute, self.dialect, scope, path[-1], missing)
        self._memo.keep(path, chunks, computed)
        return self._described(path, mode, note)

    def _describe_text(self, body: dict[str, Any], scope: Scope, reason: str) -> Prompt:
        text = text_of(body)
        self.counters.add("text", reason)
        return Prompt(self._text.tokens(text), self._text.chain(text, scope), "text", reason)

    def _described(self, path: list[Node], mode: Mode, note: str) -> Prompt:
        self.counters.add(mode, note if mode != "exact" else "")
        if self.keys_note:
            note = f"{note}; {self.keys_note}" if note else self.keys_note
        return Prompt(path[-1].tokens, keys_of(path), mode, note)

    def _encoder_keys(self, cut: Cut) -> list[Key]:
        return [] if self._exact is None else self._exact.encoder.unknown(cut)

    def _encode(self, keys: list[Key]) -> list[bytes]:
        assert self._exact is not None
        return self._exact.encoder.encode(keys)

    def _fill(self, cut: Cut, keys: list[Key], packed: list[bytes]) -> None:
        assert self._exact is not None
        self._exact.encoder.fill(cut, keys, packed)


def _scope(body: dict[str, Any], lora: tuple[str, str] | None) -> Scope:
    salt = body.get("cache_salt")
    if salt is None and lora is None:
        return NO_SCOPE
    # The engine refuses half a surrogate pair in a salt; here it must only not break.
    return Scope(lora, salt.encode("utf-8", "backslashreplace").decode() if isinstance(salt, str) else None)


_AWKWARD = " Zoë's  naïve cafe\u0301\t\n\n  \u4f60\u597d, 12345 \U0001f469\u200d\U0001f680 don't\u00a0STOP </s> <|im_end|>\r\n x"
_PROBES: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"prompt": _AWKWARD}),
    ("/tokenize", {"prompt": _AWKWARD.strip(), "add_special_tokens": False}),
    ("/tokenize", {"messages": [{"role": "user", "content": _AWKWARD}]}),
    (
        "/tokenize",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": _AWKWARD}]},
                {"role": "assistant", "content": "One. "},
                {"role": "user", "content": "Two?"},
            ],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        },
    ),
]
