"""One emulated engine behind one address: its routes, its faults, its life and death."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from pilothouse import __version__
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.random_stream import stream
from pilothouse.emulate import asked as asking
from pilothouse.emulate.asked import CHAT, COMPLETIONS
from pilothouse.emulate.bodies import FINGERPRINT
from pilothouse.emulate.cache_config import cache_config
from pilothouse.emulate.connection import Connection, Request
from pilothouse.emulate.errors import Refused, invalid
from pilothouse.emulate.faults import NONE, Faults
from pilothouse.emulate.filler import Words
from pilothouse.emulate.generation import Generation
from pilothouse.emulate.kv_publisher import KvPublisher
from pilothouse.emulate.loras import Loras
from pilothouse.emulate.metrics import EngineMetrics
from pilothouse.emulate.pace import Pace
from pilothouse.emulate.prompts import Prompts
from pilothouse.emulate.replica import Replica
from pilothouse.emulate.settings import Settings
from pilothouse.emulate.transfer import engine_id
from pilothouse.live.clock import Clock
from pilothouse.live.supervise import supervised
from pilothouse.sim.engine import Engine, EngineSpec

log = logging.getLogger(__name__)

VLLM_VERSION = "0.32.0"  # whose API this is
METRICS_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
REBIRTHS_MAX = 250  # attempts to bind again, 20 ms apart
NOT_FOUND, NOT_ALLOWED = b'{"detail":"Not Found"}', b'{"detail":"Method Not Allowed"}'

Handler = Callable[[Connection, Request], None]


class Emulator:
    """`run` until cancelled. `number` tells the replicas of one process apart."""

    def __init__(
        self, settings: Settings, prompts: Prompts, words: Words, number: int, host: str, port: int, kv_port: int
    ) -> None:
        self.number, self.host, self.port = number, host, port
        self.connections: dict[Connection, None] = {}
        self.hung = False
        self.faults = NONE
        self.listening = asyncio.Event()
        self.peers: list[Emulator] = [self]  # all of this process, for faults
        self._settings, self._prompts, self._words = settings, prompts, words
        self._kv_ports = (kv_port, kv_port + 1) if kv_port else (0, 0)
        self._clock = Clock()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._lives = 0
        self._born()
        self._routes: dict[str, dict[str, Handler]] = {
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
            "/emulator": {"GET": self._status},
            "/emulator/faults": {"GET": self._show_faults, "POST": self._set_faults, "DELETE": self._clear_faults},
        }

    @property
    def spec(self) -> EngineSpec:
        """The simulated engine."""
        return self._settings.spec

    # Life

    async def run(self) -> None:
        """Listens, and does what the faults say."""
        try:
            while True:
                self._changed.clear()
                if self.faults.crash:
                    self.dispose()
                elif self._dead:
                    await self._reborn()
                await self._set_listening(not (self.faults.refuse or self.faults.crash))
                self.listening.set()
                async with asyncio.TaskGroup() as tasks:
                    replays = tasks.create_task(supervised(f"kv_replay/{self.number}", self._serve_replays))
                    await self._wait()
                    replays.cancel()
        finally:
            await self._set_listening(False)
            self.dispose()

    def inject(self, faults: Faults) -> None:
        """From now on; what was asked for before is over."""
        self.faults = self._generation.faults = faults
        self.hung = faults.hang
        self._changed.set()
        if not self._dead:
            self._replica.change_pace(self._factor())

    def drain(self) -> None:
        """Closes connections that have nothing to do."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def dispose(self) -> None:
        """Lets go of everything, if that has not happened yet."""
        if not self._dead:
            self._die()

    def _born(self) -> None:
        """A new process, as far as anybody can tell: empty cache, new counts, a new time of start."""
        settings, wanted = self._settings, self._settings.wanted
        self._loras = Loras(settings.served, settings.loras)
        self._publisher: KvPublisher | None = None
        if wanted.kv_events:
            self._publisher = KvPublisher(self.host, self._kv_ports, self._clock.wall_s)
            self._kv_ports = self._publisher.ports  # those who follow it expect it there after a restart
        self._metrics_ = EngineMetrics(
            settings.served, wanted.max_model_len, cache_config(settings), len(settings.loras), self._clock.wall_s()
        )
        publish = self._publisher.publish if self._publisher else None
        engine = Engine(settings.spec, reporting=publish is not None)
        pace = Pace(self._clock, self._factor())
        self._replica = Replica(engine, pace, self._metrics_, publish, wanted.queued_max)
        self._lives += 1
        name = f"{self.number}/{self._lives}"
        self._generation = Generation(
            settings, self._prompts, self._words, self._replica, self._loras, stream(wanted.seed, f"emulate/{name}"),
            (self.host, self.port), engine_id(wanted.seed, name),
        )  # fmt: skip
        self._generation.faults = self.faults
        self._dead = False

    async def _reborn(self) -> None:
        """Its old sockets are given back in the background: until then their addresses are taken."""
        for attempt in range(REBIRTHS_MAX):
            try:
                self._born()
                return
            except ConfigError:
                if attempt + 1 == REBIRTHS_MAX:
                    raise
                await asyncio.sleep(0.02)

    def _die(self) -> None:
        self._dead = True
        self._generation.close()
        self._replica.close()
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
        for connection in list(self.connections):
            connection.abort()

    def _factor(self) -> float:
        return 0.0 if self.faults.hang else self._settings.wanted.time_scale / self.faults.slow

    async def _wait(self) -> None:
        """Until the faults change, by order or because their time is over."""
        timeout = self.faults.seconds if self.faults is not NONE and self.faults.seconds else None
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            self.inject(NONE)

    async def _serve_replays(self) -> None:
        if self._publisher is not None:
            await self._publisher.serve()

    async def _set_listening(self, wanted: bool) -> None:
        if wanted and self._server is None:
            loop = asyncio.get_running_loop()
            try:
                self._server = await loop.create_server(lambda: Connection(self), self.host, self.port, backlog=1024)
            except OSError as error:
                raise ConfigError([Problem("--port", f"cannot listen on {self.host}:{self.port}: {error}")]) from None
            self.port = self._server.sockets[0].getsockname()[1]
        elif not wanted and self._server is not None:
            self._server.close()
            self._server = None

    # Requests

    def handle(self, connection: Connection, request: Request) -> None:
        """Finds who answers."""
        if self.hung and not request.path.startswith("/emulator"):
            return  # the connection stays open and hears nothing
        handlers = self._routes.get(request.path)
        if handlers is None:
            connection.reply(404, NOT_FOUND)
            return
        handler = handlers.get(request.method)
        if handler is None:
            connection.reply(405, NOT_ALLOWED, more=b"allow: %b\r\n" % ", ".join(handlers).encode())
            return
        try:
            handler(connection, request)
        except Refused as refused:
            connection.refuse(refused)
        except Exception:
            log.exception("a request crashed")
            connection.refuse(Refused("Internal server error", 500))

    def _generate(self, connection: Connection, request: Request) -> None:
        self._generation.handle(connection, request)

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
        connection.reply(200, self._metrics_.text(self._replica.gauges()), METRICS_TYPE)

    def _load(self, connection: Connection, request: Request) -> None:
        gauges = self._replica.gauges()
        connection.reply(200, msgspec.json.encode({"server_load": gauges.running + gauges.waiting + gauges.deferred}))

    def _kv_event_sources(self, connection: Connection, request: Request) -> None:
        sources = {"0": self._publisher.described()} if self._publisher is not None else {}
        connection.reply(200, msgspec.json.encode(sources))

    def _reset_prefix_cache(self, connection: Connection, request: Request) -> None:
        connection.reply(200, msgspec.json.encode({"success": self._replica.reset_cache()}))

    def _load_lora(self, connection: Connection, request: Request) -> None:
        connection.reply(200, self._loras.load(asking.decode(request.body)), b"text/plain; charset=utf-8")

    def _unload_lora(self, connection: Connection, request: Request) -> None:
        connection.reply(200, self._loras.unload(asking.decode(request.body)), b"text/plain; charset=utf-8")

    # The emulator's own

    def status(self) -> dict[str, Any]:
        replica = self._replica
        return {
            "emulated": self._settings.title,
            "label": FINGERPRINT,
            "replica": self.number,
            "url": f"http://{self.host}:{self.port}",
            "steps": replica.steps,
            "steps_late": replica.late_steps,
            "lateness_ms_max": replica.latest_us / 1000,
            "preemptions": replica.engine.preemptions,
            "connections": len(self.connections),
            "step_time": replica.engine.spec.step_time,
            "faults": self.faults,
        }

    def _status(self, connection: Connection, request: Request) -> None:
        connection.reply(200, msgspec.json.encode([peer.status() for peer in self.peers]))

    def _show_faults(self, connection: Connection, request: Request) -> None:
        connection.reply(200, msgspec.json.encode(self.faults))

    def _set_faults(self, connection: Connection, request: Request) -> None:
        """`replica` in the body chooses another one of the process: one that does not listen cannot be asked itself."""
        body = asking.decode(request.body)
        peer = self._peer(body.pop("replica", self.number))
        try:
            faults = msgspec.convert(body, Faults)
        except ValueError as error:
            raise Refused(str(error)) from None
        connection.reply(200, msgspec.json.encode(faults))
        peer.inject(faults)

    def _clear_faults(self, connection: Connection, request: Request) -> None:
        body = asking.decode(request.body) if request.body else {}
        self._peer(body.get("replica", self.number)).inject(NONE)
        connection.reply(200, msgspec.json.encode(NONE))

    def _peer(self, number: object) -> "Emulator":
        for peer in self.peers:
            if peer.number == number:
                return peer
        raise Refused(f"there is no replica {number}: there are {len(self.peers)}, from 0", 404)


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
