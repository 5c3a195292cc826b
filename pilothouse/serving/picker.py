"""The picker: the one dispatcher of a gateway, with everything that feeds it and everything that shows what it does."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from pilothouse import build
from pilothouse.config.schema import Config
from pilothouse.core.commands import AnyCommand, Route, Why
from pilothouse.core.events import AnyEvent, Arrived, Cancelled
from pilothouse.core.units import Micros, RequestId
from pilothouse.journal.log import Writer
from pilothouse.live.clock import Clock
from pilothouse.live.directory import TokenStatus
from pilothouse.live.discovery import Discovery
from pilothouse.live.driver import Driver
from pilothouse.live.models import ServedModel
from pilothouse.live.supervise import supervised
from pilothouse.serving.channel import Channel, FromWorker, ModelsServed, Observed, Stored, TokensTold
from pilothouse.serving.observe import Observer
from pilothouse.serving.tracing import exporter

FLUSH_S = 0.5  # log lines and journal reach the disk at least this often
NOTHING = Why("", [], [], 0)  # workers do not need the receipt


class Picker:
    """Decides for all workers. `run` ends by cancellation, or with AssertionError when the dispatcher is broken."""

    def __init__(self, config: Config, clock: Clock, log: IO[bytes] | None) -> None:
        self.config, self.clock = config, clock
        self.dispatcher = build.dispatcher(config)
        self.driver = Driver(self.dispatcher, clock, _journal(config), self._break)
        self.observer = Observer(self.dispatcher, clock, log)
        self.driver.watchers.append(self.observer.watch)
        self.discovery = Discovery(config, engine_keys(config), clock, self.driver.post, self._models_changed)
        self.served: dict[str, ServedModel] = {}
        self.listeners: list[Callable[[dict[str, ServedModel]], None]] = []  # hear what the fleet serves
        self.tokens: dict[str, Callable[[], list[TokenStatus]]] = {}  # worker -> how it describes prompts
        self.desks: list[Desk] = []
        self.workers = 0  # that ever connected
        self._broken: asyncio.Future[None] | None = None
        self._stop_spans: Callable[[], None] = lambda: None
        if config.tracing.otlp is not None:
            export, self._stop_spans = exporter(config.tracing, clock.wall_s)
            self.observer.exporters.append(export)

    async def run(self) -> None:
        self._broken = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as tasks:
                discovering = tasks.create_task(self.discovery.run(), name="discovery")
                flushing = tasks.create_task(supervised("flush", self._flush), name="flush")
                await asyncio.wait([self._broken])
                discovering.cancel()
                flushing.cancel()
            self._broken.result()  # raises here, since a task group would wrap it
        finally:
            self.observer.settle()
            self.driver.close()
            await asyncio.to_thread(self._stop_spans)  # a last export may take its time

    def serve_worker(self) -> Channel:
        """A new worker's end of its connection."""
        return Desk(self).channel

    def _break(self, error: BaseException) -> None:
        if self._broken is not None and not self._broken.done():
            broken = AssertionError(f"the dispatcher failed: {type(error).__name__}: {error}")
            broken.__cause__ = error
            self._broken.set_exception(broken)

    def _models_changed(self, served: dict[str, ServedModel]) -> None:
        self.served = served
        for listener in list(self.listeners):
            listener(served)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.observer.settle()
            self.driver.flush()


class Desk:
    """The picker's side of one worker: knows that worker's requests, so that they end when it dies."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._requests: dict[RequestId, None] = {}
        self._tokens: list[TokenStatus] = []
        self.channel = Channel(FromWorker, self._opened, self._received, self._lost)
        self._name = f"worker {picker.workers}"
        picker.workers += 1
        picker.listeners.append(self._models_changed)
        picker.desks.append(self)
        picker.tokens[self._name] = lambda: self._tokens

    def _opened(self) -> None:
        self._models_changed(self._picker.served)

    def _received(self, message: AnyEvent | Observed | TokensTold | Stored) -> None:
        if isinstance(message, Observed):
            self._picker.observer.observed(message.record)
        elif isinstance(message, TokensTold):
            self._tokens = message.tokens
        elif isinstance(message, Stored):
            for desk in self._picker.desks:
                if desk is not self:
                    desk.channel.send(message)
        elif isinstance(message, Arrived):
            self._requests[message.request] = None
            self._picker.driver.arrive(message, self._answer)
        elif message.request in self._requests:  # type: ignore[union-attr]
            self._picker.driver.tell(message)  # type: ignore[arg-type]
            if message.request not in self._picker.dispatcher.requests:  # type: ignore[union-attr]
                self._requests.pop(message.request, None)  # type: ignore[union-attr]

    def _answer(self, command: AnyCommand) -> None:
        if isinstance(command, Route):
            step = command.prefill and msgspec.structs.replace(command.prefill, why=NOTHING)
            command = msgspec.structs.replace(command, why=NOTHING, prefill=step)
        self.channel.send(command)
        if command.request not in self._picker.dispatcher.requests:
            self._requests.pop(command.request, None)

    def _models_changed(self, served: dict[str, ServedModel]) -> None:
        self.channel.send(ModelsServed(served))

    def _lost(self) -> None:
        """The worker is gone, and with it the clients' and the engines' connections of its requests."""
        picker = self._picker
        picker.listeners.remove(self._models_changed)
        picker.desks.remove(self)
        del picker.tokens[self._name]
        for request in list(self._requests):
            picker.driver.tell(Cancelled(Micros(picker.clock.now_us()), request))


def _journal(config: Config) -> Writer | None:
    if config.journal.directory is None:
        return None
    settings, policy = build.journal_header(config)
    return Writer(Path(config.journal.directory), config.journal.segment, config.journal.bytes_max, settings, policy)


def engine_keys(config: Config) -> dict[str, str]:
    """Pool name -> the engines' API key, from the environment variables that the configuration names."""
    return {p.name: os.environ[p.api_key_env] for p in config.pools if p.api_key_env and p.api_key_env in os.environ}
