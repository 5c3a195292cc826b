"""A whole load run: look at the server, then send stage after stage, then say what came of it, honestly."""

import asyncio
import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from pilothouse.bench.bodies import Bodies
from pilothouse.bench.figures import stage_run
from pilothouse.bench.load import StageLoad, StageResult
from pilothouse.bench.probe import inspect
from pilothouse.bench.prompts import WORDS, Drawer, Fragments, IdDrawer, WordDrawer
from pilothouse.bench.settings import Prompts, Server, Settings
from pilothouse.core.errors import PilothouseError
from pilothouse.core.units import SECOND, Micros
from pilothouse.live.clock import Clock
from pilothouse.live.timers import Timers
from pilothouse.live.upstream import Pool, Upstream, UpstreamLimits
from pilothouse.workload.outcomes import Run
from pilothouse.workload.requests import Stage, Workload

CONNECT_TIMEOUT_US = Micros(30 * SECOND)


class Origin(msgspec.Struct, frozen=True):
    """What the run is called in tables and reports."""

    scenario: str
    load: float
    seed: int


class Bench:
    """`tell` hears of progress; `stop` ends the run early, with what there is."""

    def __init__(
        self, workload: Workload, settings: Settings, origin: Origin, tell: Callable[[StageLoad, int], None]
    ) -> None:
        self._workload, self._settings, self._origin, self._tell = workload, settings, origin, tell
        self._current: StageLoad | None = None
        self._pausing = asyncio.Event()
        self._probing: asyncio.Task[Any] | None = None
        self.heard: Callable[[StageResult], None] = lambda result: None  # each stage as it is over, for other tools
        self.stopped = False

    def stop(self) -> None:
        """Sends nothing more, drops what is in flight."""
        self.stopped = True
        self._pausing.set()
        if self._current is not None:
            self._current.stop()
        elif self._probing is not None:
            self._probing.cancel()

    async def run(self) -> Run:
        """From the first probe to the last answer. Raises UpstreamError or ConfigError before anything is sent."""
        settings, clock = self._settings, Clock()
        timers = Timers(clock)
        wait_us = settings.timeout_us
        limits = UpstreamLimits(
            connections_max=2 * settings.concurrency_max + 16,  # some are closing while others open
            connect_timeout_us=min(wait_us, CONNECT_TIMEOUT_US),
            first_byte_timeout_us=wait_us,
            idle_timeout_us=wait_us,
            total_timeout_us=wait_us,
        )
        upstream = Upstream(limits, clock, timers)
        pool = upstream.pool(settings.url)
        timers.start()
        try:
            server = await self._inspect(pool, clock)
            fragments = Fragments(_drawer(settings, server, self._origin.seed), self._workload.block_size,
                                  settings.memo_bytes_max)  # fmt: skip
            bodies = Bodies(settings, server, fragments, pool.authority)
            results = []
            with _without_long_pauses():
                for stage in self._workload.stages:
                    self._current = StageLoad(stage, settings, server, bodies, pool, clock, self._told)
                    results.append(await self._current.run())
                    self.heard(results[-1])
                    if self.stopped:
                        break
                    await self._pause(stage.pause_us if stage is not self._workload.stages[-1] else 0)
            return self._run(server, results)
        finally:
            upstream.close()
            timers.stop()

    async def _inspect(self, pool: Pool, clock: Clock) -> Server:
        self._probing = asyncio.current_task()
        try:
            return await inspect(self._settings, self._workload.model, pool, clock)
        except asyncio.CancelledError:
            if self.stopped:
                raise PilothouseError("stopped before the load began") from None
            raise
        finally:
            self._probing = None

    def _told(self, load: StageLoad) -> None:
        self._tell(load, len(self._workload.stages))

    async def _pause(self, pause_us: int) -> None:
        try:
            async with asyncio.timeout(pause_us / SECOND):
                await self._pausing.wait()
        except TimeoutError:
            pass

    def _run(self, server: Server, results: Sequence[StageResult]) -> Run:
        settings, origin = self._settings, self._origin
        label = "Emulated" if server.emulated else settings.label
        notes = [f"model {server.model}, {settings.api}, prompts as {settings.prompts}", *server.notes]
        if settings.prompts is Prompts.TOKENS and not server.token_ids and _has_turns(self._workload):
            notes.append("the server does not give the token ids of its answers: later turns go on without them")
        if any(result.client.is_bottleneck for result in results):
            notes.append("the client itself was the bottleneck, or late, in at least one stage: see the stages' notes")
        if self.stopped:
            unsent = sum(len(stage.requests) for stage in self._workload.stages)
            unsent -= sum(len(result.outcomes) for result in results)
            notes.append(f"PARTIAL: stopped early; {unsent} planned requests were never sent")
        stages = [stage_run(result, label, settings.objectives) for result in results if result.stage.reported]
        return Run(settings.url, label, origin.scenario, origin.load, origin.seed, stages, notes)


def shorten(workload: Workload, requests_max: int) -> Workload:
    """The first requests only. A request comes behind the one it follows, so none loses its forerunner."""
    stages: list[Stage] = []
    for stage in workload.stages:
        kept = stage.requests[:requests_max]
        requests_max -= len(kept)
        if kept:
            share = len(kept) / len(stage.requests)
            stages.append(msgspec.structs.replace(stage, requests=kept, seconds=stage.seconds * share))
    return msgspec.structs.replace(workload, stages=stages)


async def run_until_stopped(bench: Bench) -> Run:
    """As `bench.run`; Ctrl-C stops it in order."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, bench.stop)
    try:
        return await bench.run()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _drawer(settings: Settings, server: Server, seed: int) -> Drawer:
    if settings.prompts is Prompts.TOKENS:
        return IdDrawer(seed, server.id_first, server.id_last)
    return WordDrawer(seed, server.vocabulary or WORDS, server.tokens_per_word)


def _has_turns(workload: Workload) -> bool:
    return any(planned.after is not None for stage in workload.stages for planned in stage.requests)


@contextmanager
def _without_long_pauses() -> Iterator[None]:
    """A workload is millions of objects that live to the end: the garbage collector need not look at them."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
