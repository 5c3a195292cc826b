"""What a front door knows of the fleet: the models to list, and how each one's prompts are described."""

import asyncio
import logging
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from pilothouse.core.errors import ConfigError, UpstreamError
from pilothouse.live.inspect import EngineClient
from pilothouse.live.models import ServedModel, dialect_of
from pilothouse.live.tokens.describe import Limits, ModelTokens, Prompt
from pilothouse.live.tokens.inexact import Inexact
from pilothouse.live.tokens.requests import EngineSettings

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0


class TokenStatus(msgspec.Struct, frozen=True):
    """How prompts of one model are described, for status and metrics."""

    model: str
    mode: str  # exact, engine or text
    note: str
    exact: int
    engine: int
    text: int
    reasons: dict[str, int]


class Described:
    """One name's describer: the base model's tokens, with the adapter that the name stands for."""

    def __init__(self, tokens: ModelTokens, lora: tuple[str, str] | None) -> None:
        self.tokens, self._lora = tokens, lora

    def describe(self, route: str, body: dict[str, Any]) -> Prompt | None:
        return self.tokens.describe(route, body, self._lora)

    async def describe_slowly(self, route: str, body: dict[str, Any]) -> Prompt:
        return await self.tokens.describe_slowly(route, body, self._lora)


class Directory:
    """Kept current by `update`; asked by the front door for every request."""

    def __init__(self, cache_bytes: int, pool: Executor, keys: dict[str, str]) -> None:
        self._cache_bytes, self._pool, self._keys = cache_bytes, pool, keys
        self._served: dict[str, ServedModel] = {}
        self._tokens: dict[ServedModel, ModelTokens] = {}  # by base model, its urls left out
        self._names: dict[str, Described] = {}
        self._notes: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._closed = False

    def models(self) -> list[dict[str, Any]]:
        """Entries of /v1/models."""
        return [
            {
                "id": model.name,
                "object": "model",
                "created": 0,
                "owned_by": "pilothouse",
                "root": model.parent or model.name,
                "parent": model.parent,
                "max_model_len": model.max_model_len,
            }
            for model in self._served.values()
        ]

    def tokens(self, model: str) -> Described | None:
        return self._names.get(model)

    def engine_key(self, model: str) -> str | None:
        """The API key of the engines that serve the model, None if they ask for none."""
        served = self._served.get(model)
        return self._keys.get(served.pool) if served is not None else None

    def block_size(self, model: str) -> int:
        """Tokens per block of what that model's describer returns; 0 for an unknown model."""
        described = self._names.get(model)
        return described.tokens.dialect.block_size if described else 0

    def default_model(self) -> str | None:
        """The only model, or none: with several, a request must name one."""
        bases = [model.name for model in self._served.values() if model.parent is None]
        return bases[0] if len(bases) == 1 else None

    def update(self, served: dict[str, ServedModel]) -> None:
        """The fleet serves these now. What did not change keeps its caches."""
        if self._closed:  # the watchers of the engines end later, and say so
            return
        self._served = served
        names = {}
        for model in served.values():
            base = served.get(model.parent, model) if model.parent else model
            lora = (model.name, model.root or "") if model.parent else None
            names[model.name] = Described(self._model_tokens(base), lora)
        self._names = names
        used = {id(described.tokens) for described in names.values()}
        self._tokens = {key: tokens for key, tokens in self._tokens.items() if id(tokens) in used}

    def status(self) -> list[TokenStatus]:
        lines = []
        for name, described in self._names.items():
            tokens, counters = described.tokens, described.tokens.counters
            note = "; ".join(part for part in (self._notes.get(name, ""), tokens.distrusted, tokens.keys_note) if part)
            lines.append(
                TokenStatus(
                    name, tokens.mode, note, counters.exact, counters.engine, counters.text, dict(counters.reasons)
                )
            )
        return lines

    async def close(self) -> None:
        self._closed = True
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _model_tokens(self, model: ServedModel) -> ModelTokens:
        key = msgspec.structs.replace(model, urls=())
        tokens = self._tokens.get(key)
        if tokens is None:
            tokens = self._tokens[key] = self._build(model)
            task = asyncio.get_running_loop().create_task(self._check(model, tokens), name=f"tokens/{model.name}")
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)
        return tokens

    def _build(self, model: ServedModel) -> ModelTokens:
        folder = model.tokenizer or model.root
        limits = Limits(self._cache_bytes // 2, self._cache_bytes // 2)
        settings = EngineSettings(max_model_len=model.max_model_len)
        dialect = dialect_of(model)
        try:
            if folder is not None:
                return ModelTokens(
                    Path(folder), dialect, self._asker(model), settings=settings, limits=limits, pool=self._pool
                )
            reason = "the engine names no model root and the pool no tokenizer"
        except ConfigError as error:
            reason = "; ".join(problem.what for problem in error.problems)
        self._notes[model.name] = f"no tokenizer here, the engine is asked: {reason}"
        log.warning("model %s: %s", model.name, self._notes[model.name])
        return ModelTokens(None, dialect, self._asker(model), limits=limits, pool=self._pool)

    async def _check(self, model: ServedModel, tokens: ModelTokens) -> None:
        """Compares our tokens with the engine's once; a difference makes us ask the engine from then on."""
        try:
            if await tokens.check(model.name):
                log.warning("model %s: our tokens differ from the engine's, so the engine is asked", model.name)
        except Inexact as inexact:
            log.info("model %s: tokens were not compared with the engine: %s", model.name, inexact.reason)

    def _asker(self, model: ServedModel) -> "Asker":
        return Asker(self, model.name, self._keys.get(model.pool))

    async def ask(self, name: str, key: str | None, path: str, body: bytes) -> bytes:
        """Has any engine that serves the model answer. Raises UpstreamError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
        model = self._served.get(name)
        if model is None or not model.urls:
            raise UpstreamError(name, "no engine serves it")
        error = UpstreamError(name, "was not asked")
        for url in model.urls[:3]:
            try:
                return await EngineClient(self._session, url, "vllm", ASK_TIMEOUT_S, key).post(path, body)
            except UpstreamError as failed:
                error = failed
        raise error


class Asker:
    """Posts a body to an engine of one model: what `ModelTokens` needs to ask for token ids."""

    def __init__(self, directory: Directory, model: str, key: str | None) -> None:
        self._directory, self._model, self._key = directory, model, key

    async def __call__(self, path: str, body: bytes) -> bytes:
        return await self._directory.ask(self._model, self._key, path, body)
