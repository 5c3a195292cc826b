"""Which engines there are: fixed addresses, and DNS names resolved regularly. One watcher runs for each."""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

import aiohttp

from pilothouse.config.schema import Config, Dns, Engine, Pool
from pilothouse.core.events import AnyEvent
from pilothouse.core.units import EndpointId
from pilothouse.live.clock import Clock
from pilothouse.live.inspect import EngineClient
from pilothouse.live.models import ServedModel, merged
from pilothouse.live.supervise import supervised
from pilothouse.live.watch import Watch

log = logging.getLogger(__name__)

ENDPOINTS_MAX = 4096  # a DNS answer longer than this is a mistake


class Discovery:
    """All watchers of all pools; what they find reaches the dispatcher by `post` and the front doors by `models_changed`."""

    def __init__(
        self,
        config: Config,
        keys: dict[str, str],
        clock: Clock,
        post: Callable[[AnyEvent], None],
        models_changed: Callable[[dict[str, ServedModel]], None],
    ) -> None:
        self._config, self._keys, self._clock, self._post, self._models_changed = (
            config,
            keys,
            clock,
            post,
            models_changed,
        )
        self.watches: dict[EndpointId, Watch] = {}
        self._listings: dict[EndpointId, list[ServedModel]] = {}
        self._tasks: dict[EndpointId, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled. `keys` maps a pool to its engines' API key."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for pool in self._config.pools:
                    for engine in pool.endpoints:
                        self.add(engine, pool)
                    if pool.dns is not None:
                        tasks.create_task(supervised(f"dns/{pool.name}", partial(self._resolve, pool, pool.dns)))
                await asyncio.Event().wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def add(self, engine: Engine, pool: Pool) -> None:
        """Starts watching an engine; a second call for the same one changes nothing."""
        name = EndpointId(engine.name or engine.url.removeprefix("http://"))
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._watch(name, engine, pool), name=f"watch/{name}")

    def remove(self, name: EndpointId) -> None:
        """Stops watching; the dispatcher is told that the endpoint is gone."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    async def _watch(self, name: EndpointId, engine: Engine, pool: Pool) -> None:
        timeout_s, key = self._config.health.timeout.seconds, self._keys.get(pool.name)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8)) as session:
            client = EngineClient(session, engine.url, pool.engine, timeout_s, key)
            watch = Watch(engine, pool, self._config, client, self._clock, self._post, self._listed)
            self.watches[name] = watch
            try:
                await supervised(f"watch/{name}", watch.run)
            finally:
                self.watches.pop(name, None)

    async def _resolve(self, pool: Pool, dns: Dns) -> None:
        found: dict[EndpointId, Engine] = {}
        while True:
            try:
                urls = await urls_of(dns)
            except OSError as error:  # the last answer stays in force: a resolver's trouble is not the engines'
                log.warning("dns %s: %s; keeping %d engines", dns.name, error, len(found))
            else:
                fresh = {EndpointId(url.removeprefix("http://")): Engine(url=url) for url in urls}
                for name in found.keys() - fresh.keys():
                    self.remove(name)
                for name in fresh.keys() - found.keys():
                    self.add(fresh[name], pool)
                found = fresh
            await asyncio.sleep(dns.every.seconds)

    def _listed(self, endpoint: EndpointId, models: list[ServedModel]) -> None:
        if self._listings.get(endpoint, []) == models:
            return
        if models:
            self._listings[endpoint] = models
        else:
            self._listings.pop(endpoint, None)
        self._models_changed(merged(list(self._listings.values())))


async def urls_of(dns: Dns) -> list[str]:
    """Every address that the name resolves to now. Raises OSError."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(dns.name, dns.port, type=socket.SOCK_STREAM)
    hosts = sorted({str(address[0]) for *_, address in answers})[:ENDPOINTS_MAX]
    return [f"http://[{host}]:{dns.port}" if ":" in host else f"http://{host}:{dns.port}" for host in hosts]
