"""Watching one engine: what it is, whether it lives, how busy it is, which KV blocks it holds.

Everything learned leaves as core events through `post`, and as a listing of served models through `listed`. The engine
is first inspected; from then on it is probed and scraped, inspected again when its process has restarted, and its KV
events are followed by a subscriber of their own.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec
import zmq.asyncio

from pilothouse.config.schema import Config, Engine, Pool
from pilothouse.core.errors import UpstreamError
from pilothouse.core.events import AnyEvent, BlocksCleared, EndpointGone, EndpointSeen, LoadReported, Probed, Role
from pilothouse.core.units import EndpointId, Micros
from pilothouse.live.block_names import BlockNames
from pilothouse.live.clock import Clock
from pilothouse.live.consistency.facts import Facts, Member, exchange, member
from pilothouse.live.consistency.reading import launch_facts, method_of, told_facts
from pilothouse.live.inspect import EngineClient, Listed, Metrics, drafts_since
from pilothouse.live.kv_events import KvFeed
from pilothouse.live.kv_width import kv_token_bytes
from pilothouse.live.models import ServedModel, dialect_of
from pilothouse.live.stores import StoreFeed, store_feed, with_tiers
from pilothouse.live.supervise import supervised
from pilothouse.wire.kv_events import Source

log = logging.getLogger(__name__)

INSPECT_EVERY = 10  # scrapes between two looks at the model list: adapters come and go
SILENT_BLOCKS = 8  # blocks computed without one event, in two scrapes running: the feed does not work
LAUNCH_TRIES = 5  # to learn how an engine was launched, while it answers everything else
IDLE_FACTOR = 3  # an engine without requests is scraped this much less often


class Observed(msgspec.Struct):
    """What status shows of one engine."""

    endpoint: EndpointId
    url: str
    pool: str
    reached: bool = False
    error: str = ""
    exact: bool = False
    note: str = ""
    models: list[str] = []
    member: Member | None = None  # what it is, once it was reached


class Watch:
    """The watcher of one engine. `run` ends only by cancellation, and then tells that the endpoint is gone."""

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        config: Config,
        client: EngineClient,
        clock: Clock,
        post: Callable[[AnyEvent], None],
        listed: Callable[[EndpointId, list[ServedModel]], None],
    ) -> None:
        self.id = EndpointId(engine.name or engine.url.removeprefix("http://"))
        self.observed = Observed(self.id, engine.url, pool.name)
        self.pool = pool
        self.feed: KvFeed | None = None
        self._engine, self._config, self._client = engine, config, client
        self._clock, self._post, self._listed = clock, post, listed
        self._seen: EndpointSeen | None = None
        self._metrics: Metrics | None = None
        self._feed_task: asyncio.Task[None] | None = None
        self._launch: Facts | None = None  # of the present process, once it told
        self._launch_tries = 0
        self._silent_scrapes = 0
        self._silent = False
        self._inspecting = asyncio.Lock()  # probes and scrapes both find restarts

    async def run(self) -> None:
        if self.pool.models:
            self._announce_unreached()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(supervised(f"probe/{self.id}", self._probe))
                tasks.create_task(supervised(f"scrape/{self.id}", self._scrape))
        finally:
            await self._stop_feed()
            self._listed(self.id, [])
            self._post(EndpointGone(self._now(), self.id))

    def _announce_unreached(self) -> None:
        """Requests for declared models wait for the engine rather than being refused as unknown."""
        urls, tokenizer = (self._engine.url,), self.pool.tokenizer
        declared = [ServedModel(name, self.pool.name, tokenizer=tokenizer, urls=urls) for name in self.pool.models]
        self._listed(self.id, declared)
        self._seen = self._described(member(self.id, self.pool, Facts()), list(self.pool.models))
        self._post(self._seen)
        for _ in range(self._config.health.probe_failures):
            self._post(Probed(self._now(), self.id, False))

    async def _probe(self) -> None:
        was_well = False
        while True:
            if self._seen is not None:
                is_well = await self._client.healthy()
                if is_well and not was_well:
                    await self._recognise()
                self._post(Probed(self._now(), self.id, is_well))
                was_well = is_well
            await asyncio.sleep(self._config.health.every.seconds)

    async def _recognise(self) -> None:
        """An engine that answers again may be another process: that is found out before requests go there."""
        with suppress(UpstreamError):  # the scrapes will say so
            await self._look(inspect=False)

    async def _scrape(self) -> None:
        scrapes = 0
        while True:
            idle = False
            try:
                metrics = await self._look(inspect=scrapes % INSPECT_EVERY == 0)
                idle = metrics.running + metrics.waiting == 0
                scrapes += 1
                if self.observed.error:
                    log.info("%s answers", self.id)
                self.observed.reached, self.observed.error = True, ""
            except UpstreamError as error:
                if self.observed.reached:
                    log.warning("%s cannot be reached: %s", self.id, error)
                elif not self.observed.error:
                    log.info("waiting for %s to answer at %s", self.id, self._engine.url)
                self.observed.reached, self.observed.error = False, str(error)
            # An engine that was never reached is looked for more often: requests may be waiting for it.
            every_s = self._config.signals.scrape_every.seconds
            slow = IDLE_FACTOR if idle and scrapes % INSPECT_EVERY else 1
            await asyncio.sleep(min(every_s, 0.25) if self._metrics is None else every_s * slow)

    async def _look(self, *, inspect: bool) -> Metrics:
        """One scrape, and whatever else it shows to be needed."""
        metrics = await self._client.metrics()
        restarted = self._metrics is not None and metrics.started_s != self._metrics.started_s
        if restarted:
            self._launch, self._launch_tries = None, 0
            await self._forget_blocks()
        asks_launch = self._launch is None and self._launch_tries < LAUNCH_TRIES
        if restarted or self._metrics is None or inspect or asks_launch:
            async with self._inspecting:
                await self._inspect(metrics)
        self._report(metrics)
        return metrics

    def _report(self, metrics: Metrics) -> None:
        self._watch_silence(metrics)
        drafted, accepted = drafts_since(self._metrics, metrics)
        self._metrics = metrics
        load = (metrics.running, metrics.waiting, metrics.kv_used_ratio)
        self._post(LoadReported(self._now(), self.id, *load, drafted, accepted))

    async def _inspect(self, metrics: Metrics) -> None:
        """Reads what the engine is; tells the core and the front doors only what is new."""
        models = await self._client.models()
        source = await self._kv_source() if metrics.prefix_caching else None
        served = [
            ServedModel(
                model.id,
                self.pool.name,
                model.root,
                model.parent,
                model.max_model_len,
                self.pool.tokenizer,
                metrics.block_size,
                self.pool.hashing.algorithm or metrics.hash_algorithm,
                self.pool.hashing.seed,
                (self._engine.url,),
            )
            for model in models
        ]
        names = list(dict.fromkeys([*(model.id for model in models), *self.pool.models]))
        exact = source is not None and not self._silent
        facts = await self._facts(metrics, models)
        self.observed.member = member(self.id, self.pool, facts, tuple(names))
        width = await asyncio.to_thread(kv_token_bytes, facts.model or "", metrics.cache_dtype)
        seen = msgspec.structs.replace(
            self._described(self.observed.member, names),
            exact=exact,
            kv_blocks=metrics.kv_blocks,
            block_size=metrics.block_size,
            kv_token_bytes=width,
            speculation=method_of(facts, metrics),
        )
        seen = with_tiers(seen, self.pool)
        if self._seen is None or msgspec.structs.replace(seen, at_us=self._seen.at_us) != self._seen:
            self._seen = seen
            self._post(seen)
        self._listed(self.id, served)
        self.observed.models, self.observed.exact = names, exact
        if source is not None and served and (self.feed is None or self.feed.source != source):
            if self.feed is not None:  # a new process may publish elsewhere
                await self._stop_feed()
                self._post(BlocksCleared(self._now(), self.id))
            self._start_feed(source, served)

    def _described(self, engine: Member, names: list[str]) -> EndpointSeen:
        """What the configuration says of the engine, and whom it can be paired with."""
        pool = self.pool
        return EndpointSeen(
            self._now(),
            self.id,
            self._engine.url,
            pool.name,
            names,
            role=Role(pool.role),
            connector=pool.connector.type if pool.connector else "",
            exchange=exchange(engine),
            labels=dict(pool.labels),
        )

    async def _facts(self, metrics: Metrics, models: list[Listed]) -> Facts:
        """What it is. How it was launched takes vLLM seconds to tell at first: it is asked again, but not for ever."""
        launch = self._launch or Facts()
        if self._launch is None and self._launch_tries < LAUNCH_TRIES:
            self._launch_tries += 1
            try:
                version = await self._client.version()
                launch = launch_facts(self.pool.engine, version, {})
                launch = self._launch = launch_facts(self.pool.engine, version, await self._client.server_info())
            except UpstreamError as error:
                log.info("%s does not say how it was launched: %s", self.id, error)
                if self._launch_tries == LAUNCH_TRIES:
                    self._launch = launch
        return told_facts(self.pool.engine, metrics, models, launch)

    async def _kv_source(self) -> Source | None:
        if self._engine.kv_events:
            return Source(self._engine.kv_events, self._engine.kv_replay)
        sources = await self._client.kv_sources()
        if len(sources) > 1:
            self.observed.note = (
                f"{len(sources)} data-parallel ranks behind one address: KV blocks are assumed, not exact"
            )
            return None
        return sources[0] if sources else None

    def _watch_silence(self, metrics: Metrics) -> None:
        """Blocks were computed but no event came: the feed does not reach us, so blocks are assumed from our routes."""
        if self.feed is None or self._metrics is None or self._silent:
            return
        computed = metrics.computed_tokens - self._metrics.computed_tokens
        is_silent = self.feed.status().events == 0 and computed > SILENT_BLOCKS * max(1, metrics.block_size)
        self._silent_scrapes = self._silent_scrapes + 1 if is_silent else 0
        if self._silent_scrapes >= 2 and self._seen is not None:
            self._silent, self.observed.exact = True, False
            self.observed.note = "computes blocks but sends no KV events: blocks are assumed from our own routes"
            log.warning("%s %s", self.id, self.observed.note)
            self._seen = msgspec.structs.replace(self._seen, at_us=self._now(), exact=False)
            self._post(self._seen)

    async def _forget_blocks(self) -> None:
        """A new process holds nothing. A feed that is connected to it finds out by itself, and may know more already."""
        if self.feed is None or self._silent:
            self._post(BlocksCleared(self._now(), self.id))
        elif self.feed.status().connected:
            await self.feed.settled()
        else:  # it connects again at its leisure: up to `reconnect_ms_max` later
            self.feed.restarted()

    def _start_feed(self, source: Source, served: list[ServedModel]) -> None:
        adapters = {model.name: model.root or "" for model in served if model.parent}
        store, context = store_feed(self.pool), zmq.asyncio.Context.instance()
        names = BlockNames(dialect_of(served[0]), adapters, shares=store is not StoreFeed.NONE)
        through = store is StoreFeed.ASSUMED
        self.feed = KvFeed(self.id, source, names, self._post, self._clock, context, writes_through=through)
        self._feed_task = asyncio.create_task(self.feed.run(), name=f"kv_events/{self.id}")

    async def _stop_feed(self) -> None:
        if self._feed_task is not None:
            self._feed_task.cancel()
            await asyncio.gather(self._feed_task, return_exceptions=True)

    def _now(self) -> Micros:
        return Micros(self._clock.now_us())
