"""A worker: one front door and what it needs to describe prompts. Steered by the picker, here or over the channel."""

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor

from pilothouse.config.schema import Config
from pilothouse.live.clock import Clock
from pilothouse.live.directory import Directory
from pilothouse.live.steering import Steering
from pilothouse.live.upstream import UpstreamLimits
from pilothouse.serving.front import FrontDoor
from pilothouse.serving.picker import engine_keys
from pilothouse.serving.record import Observe
from pilothouse.serving.settings import ConnectorSettings, FrontSettings
from pilothouse.serving.tracing import Contexts
from pilothouse.wire.transfer.table import ADAPTERS, MULTI

TOKEN_THREADS = 2  # long prompts being tokenised at once, per worker
GARBAGE_OBJECTS = 20_000  # made before the youngest are looked through; the default is meant for small programs


class Worker:
    """`start` listens; `stop` drains. The steering and the directory are fed by whoever owns the picker's end."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config, self.clock = config, clock
        self._pool = ThreadPoolExecutor(TOKEN_THREADS, thread_name_prefix="tokens")
        self.directory = Directory(config.limits.token_cache, self._pool, engine_keys(config))
        self.front: FrontDoor | None = None

    async def start(self, steering: Steering, observe: Observe, *, share_port: bool) -> str:
        """Listens; returns the address, host:port. Raises OSError if it is taken."""
        self.front = FrontDoor(
            front_settings(self.config), steering=steering, directory=self.directory, clock=self.clock, observe=observe
        )
        if self.config.tracing.otlp is not None:
            self.front.plane.contexts = Contexts(self.config.tracing.sample_ratio)
        gc.collect()
        gc.freeze()  # what start-up made stays: no collection need look at it again
        gc.set_threshold(GARBAGE_OBJECTS, 20, 20)
        host, _, port = self.config.listen.rpartition(":")
        actual = await self.front.start(host.strip("[]"), int(port), reuse_port=share_port)
        return f"{host}:{actual}"

    @property
    def busy(self) -> bool:
        """Whether a client is connected."""
        return self.front is not None and bool(self.front.plane.connections)

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Drains, until `hurry` is set at the longest. False if requests had to be cut off."""
        clean = True if self.front is None else await self.front.drain(self.config.timeouts.drain.seconds, hurry)
        await self.directory.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        return clean


def front_settings(config: Config) -> FrontSettings:
    limits, timeouts = config.limits, config.timeouts
    return FrontSettings(
        connections_max=limits.connections,
        head_bytes_max=limits.head,
        body_bytes_max=limits.body,
        head_timeout_us=timeouts.head,
        body_timeout_us=timeouts.body,
        idle_timeout_us=timeouts.keep_alive,
        client_keys=client_keys(config),
        session_field=config.clients.session_header.lower().encode(),
        grants=frozenset(config.clients.grants),
        upstream=UpstreamLimits(
            connections_max=limits.pool_connections,
            connect_timeout_us=timeouts.connect,
            first_byte_timeout_us=timeouts.first_byte,
            idle_timeout_us=timeouts.idle,
            total_timeout_us=timeouts.total,
        ),
        connectors=connectors(config),
        salted_splits=all(ADAPTERS[c.kind].salted for c in connectors(config).values()),
    )


def connectors(config: Config) -> dict[str, ConnectorSettings]:
    """How prefill engines hand KV over: by URL, and by type for engines whose URLs nobody knows yet."""
    found: dict[str, ConnectorSettings] = {}
    for pool in config.pools:
        if pool.connector is None or pool.role != "prefill":
            continue
        each = pool.connector
        kind = each.carrier if each.type == MULTI else each.type
        settings = ConnectorSettings(kind=kind, lease_us=each.lease, port=each.port)
        found |= {engine.url: settings for engine in pool.endpoints}
        known = found.setdefault(each.type, settings)
        if settings.lease_us < known.lease_us:
            found[each.type] = settings
    return found


def client_keys(config: Config) -> frozenset[str]:
    """The accepted API keys; empty when none are asked for."""
    name = config.clients.api_keys_env
    keys = os.environ.get(name, "").split(",") if name else []
    return frozenset(key.strip() for key in keys if key.strip())
