"""The routes of an emulated engine that its model answers: vLLM's API, minus what needs a model."""

from collections.abc import Callable
from typing import Any

import msgspec

from pilothouse import __version__
from pilothouse.emulate import asked as asking
from pilothouse.emulate.asked import CHAT, COMPLETIONS
from pilothouse.emulate.connection import Connection, Request
from pilothouse.emulate.errors import invalid
from pilothouse.emulate.life import Life

VLLM_VERSION = "0.32.0"  # whose API this is
METRICS_TYPE = b"text/plain; version=1.0.0; charset=utf-8"

Handler = Callable[[Connection, Request], None]


class Api:
    """One life of an engine, over HTTP. Handlers raise Refused."""

    def __init__(self, life: Life) -> None:
        self._life, self._settings, self._prompts = life, life.settings, life.prompts
        self._loras, self._replica, self._clock = life.loras, life.replica, life.clock
        self.routes: dict[str, dict[str, Handler]] = {
            CHAT: {"POST": self._generate},
            COMPLETIONS: {"POST": self._generate},
            f"{CHAT}/render": {"POST": self._render},
            f"{COMPLETIONS}/render": {"POST": self._render},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._ok},
            "/ping": {"GET": self._ok, "POST": self._ok},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/load": {"GET": self._load},
            "/kv_event_sources": {"GET": self._kv_event_sources},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/v1/load_lora_adapter": {"POST": self._load_lora},
            "/v1/unload_lora_adapter": {"POST": self._unload_lora},
        }

    def _generate(self, connection: Connection, request: Request) -> None:
        self._life.generation.handle(connection, request)

    def _render(self, connection: Connection, request: Request) -> None:
        body = asking.decode(request.body)
        route = request.path.removesuffix("/render")
        asking.read(body, route == CHAT, self._prompts.max_model_len)
        rendered = {"token_ids": self._ids(route, body), "features": None, "model": self._settings.served}
        connection.reply(200, msgspec.json.encode(rendered if route == CHAT else [rendered]))

    def _tokenize(self, connection: Connection, request: Request) -> None:
        body = asking.decode(request.body)
        if "prompt" not in body and "messages" not in body:
            raise invalid("missing", "body.prompt", "Field required")
        ids = self._ids("/tokenize", body)
        strings = [self._prompts.tokenizer.id_to_token(i) for i in ids] if body.get("return_token_strs") else None
        limit = self._prompts.max_model_len
        answer = {"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": strings}
        connection.reply(200, msgspec.json.encode(answer))

    def _detokenize(self, connection: Connection, request: Request) -> None:
        body = asking.decode(request.body)
        self._loras.find(_model(body))
        if "tokens" not in body:
            raise invalid("missing", "body.tokens", "Field required")
        try:
            ids = msgspec.convert(body["tokens"], list[int])
            text = self._prompts.tokenizer.decode(ids, skip_special_tokens=False)
        except (msgspec.ValidationError, OverflowError):
            raise invalid("list_type", "body.tokens", "Input should be a valid list") from None
        connection.reply(200, msgspec.json.encode({"prompt": text}))

    def _ids(self, route: str, body: dict[str, Any]) -> list[int]:
        self._loras.find(_model(body))
        return self._prompts.all_ids(route, body)

    # What it is

    def _ok(self, connection: Connection, request: Request) -> None:
        connection.reply(200, b"")

    def _version(self, connection: Connection, request: Request) -> None:
        version = f"{VLLM_VERSION}+emulated.pilothouse.{__version__}"
        connection.reply(200, msgspec.json.encode({"version": version}))

    def _models(self, connection: Connection, request: Request) -> None:
        served, wanted = self._settings.served, self._settings.wanted
        entries = [_listed(served, str(self._prompts.folder), None, wanted.max_model_len, self._clock.wall_s())]
        entries += [_listed(name, path, served, None, self._clock.wall_s()) for name, path in self._loras.items()]
        connection.reply(200, msgspec.json.encode({"object": "list", "data": entries}))

    def _metrics(self, connection: Connection, request: Request) -> None:
        connection.reply(200, self._life.metrics.text(self._replica.gauges()), METRICS_TYPE)

    def _load(self, connection: Connection, request: Request) -> None:
        gauges = self._replica.gauges()
        connection.reply(200, msgspec.json.encode({"server_load": gauges.running + gauges.waiting + gauges.deferred}))

    def _kv_event_sources(self, connection: Connection, request: Request) -> None:
        sources = {"0": self._life.publisher.described()} if self._life.publisher is not None else {}
        connection.reply(200, msgspec.json.encode(sources))

    def _reset_prefix_cache(self, connection: Connection, request: Request) -> None:
        connection.reply(200, msgspec.json.encode({"success": self._replica.reset_cache()}))

    def _load_lora(self, connection: Connection, request: Request) -> None:
        connection.reply(200, self._loras.load(asking.decode(request.body)), b"text/plain; charset=utf-8")

    def _unload_lora(self, connection: Connection, request: Request) -> None:
        connection.reply(200, self._loras.unload(asking.decode(request.body)), b"text/plain; charset=utf-8")


def _model(body: dict[str, Any]) -> str:
    model = body.get("model")
    return model if isinstance(model, str) else ""


def _listed(name: str, root: str, parent: str | None, max_model_len: int | None, now_s: float) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-emulated-{name}",
        "object": "model_permission",
        "created": int(now_s),
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": False,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": int(now_s),
        "owned_by": "emulated by pilothouse",
        "root": root,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [permission],
    }
