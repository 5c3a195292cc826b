"""Asks every engine of a configuration what it is, without a gateway."""

import asyncio

import aiohttp
import msgspec

from pilothouse.config.schema import Config, Pool
from pilothouse.core.errors import UpstreamError
from pilothouse.live.consistency.facts import Facts
from pilothouse.live.consistency.reading import launch_facts, told_facts
from pilothouse.live.discovery import urls_of
from pilothouse.live.inspect import EngineClient

ASK_TIMEOUT_S = 15.0  # vLLM's first answer to /server_info looks at the whole machine


class Asked(msgspec.Struct, frozen=True):
    """One engine and its answer."""

    name: str
    url: str
    pool: Pool
    facts: Facts = Facts()
    models: tuple[str, ...] = ()
    error: str = ""


async def ask_fleet(config: Config, keys: dict[str, str]) -> list[Asked]:
    """All at once. `keys` maps a pool to its engines' API key; an engine that does not answer carries why."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
        pools = await asyncio.gather(*(_engines(pool) for pool in config.pools))
        engines = [engine for pool in pools for engine in pool]
        return await asyncio.gather(*(_ask(session, engine, keys.get(engine.pool.name)) for engine in engines))


async def _engines(pool: Pool) -> list[Asked]:
    urls = [(engine.name, engine.url) for engine in pool.endpoints]
    if pool.dns is not None:
        try:
            urls += [("", url) for url in await urls_of(pool.dns)]
        except OSError as error:
            return [Asked(pool.dns.name, f"http://{pool.dns.name}:{pool.dns.port}", pool, error=str(error))]
    return [Asked(name or url.removeprefix("http://"), url, pool) for name, url in urls]


async def _ask(session: aiohttp.ClientSession, engine: Asked, key: str | None) -> Asked:
    if engine.error:
        return engine
    client = EngineClient(session, engine.url, engine.pool.engine, ASK_TIMEOUT_S, key)
    try:
        metrics, models = await client.metrics(), await client.models()
        launch = launch_facts(engine.pool.engine, await client.version(), await client.server_info())
    except UpstreamError as error:
        return msgspec.structs.replace(engine, error=str(error))
    facts = told_facts(engine.pool.engine, metrics, models, launch)
    return msgspec.structs.replace(engine, facts=facts, models=tuple(model.id for model in models))
