"""The live stack on virtual time: the picker with its journal, front doors, emulated engines, and the network between.

Nothing of the package is replaced: engines are found, inspected, probed and scraped, requests are parsed, tokenised and
hashed, answers are streamed. What a test leaves out is only what has no place in one process: signals and listening
sockets of the operating system.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pilothouse.config.schema import Config
from pilothouse.core.commands import AnyCommand
from pilothouse.core.events import AnyEvent, EndpointSeen
from pilothouse.emulate.emulator import Emulator
from pilothouse.emulate.filler import Words, find_words
from pilothouse.emulate.model_folder import built_in_folder
from pilothouse.emulate.prompts import Prompts
from pilothouse.emulate.settings import Settings, Wanted, settle
from pilothouse.emulate.transfer import Let
from pilothouse.live.clock import Clock
from pilothouse.live.directory import Directory
from pilothouse.live.tokens.dialect import Dialect
from pilothouse.serving.front import FrontDoor
from pilothouse.serving.picker import Picker
from pilothouse.serving.remote import RemoteSteering
from pilothouse.serving.worker import front_settings
from rig.virtual.loop import VirtualLoop
from rig.virtual.zeromq import Hub

ENGINES, DOOR, SOCKET = "engines", "door", "/picker"
FIRST_PORT = 8000


@dataclass(frozen=True)
class Model:
    """What all engines of one kind read and say: made once, it costs a second."""

    settings: Settings
    prompts: Prompts
    words: Words


@cache
def model(wanted: Wanted, folder: Path) -> Model:
    settings = settle(wanted)
    made = built_in_folder(settings.model, settings.wanted.max_model_len, folder)
    prompts = Prompts(made, Dialect(settings.algorithm, settings.spec.block_size), settings.wanted.max_model_len)
    return Model(settings, prompts, find_words(prompts.tokenizer))


def pool(engines: int, name: str = "e", first: int = 0, **more: Any) -> dict[str, Any]:
    """Of a configuration: the engines e-0, e-1, ... as `fleet` starts them. `first`: how many other pools have."""
    urls = [f"http://{ENGINES}:{FIRST_PORT + first + i}" for i in range(engines)]
    return {"name": name, "endpoints": [{"url": url, "name": f"{name}-{i}"} for i, url in enumerate(urls)], **more}


class OwnIds:
    """Requests are called what their clients call them: drawn names would be others in each run."""

    def of(self, given: bytes | None) -> tuple[str, str]:
        assert given is not None
        return given.decode(), given.decode()


@dataclass
class Fleet:
    """What runs."""

    loop: VirtualLoop
    hub: Hub
    picker: Picker
    doors: list[FrontDoor]
    engines: list[Emulator]
    told: list[tuple[AnyEvent, list[AnyCommand]]]  # all events and commands

    async def until_seen(self) -> None:
        """All engines are known as they are."""
        while sum(isinstance(event, EndpointSeen) for event, _ in self.told) < len(self.engines):
            await asyncio.sleep(0.01)
        while not all(door.plane.directory.models() for door in self.doors):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def fleet(loop: VirtualLoop, hub: Hub, config: Config, kind: Model, network_us: int) -> AsyncIterator[Fleet]:
    """All of it, while the block runs. As many engines as the configuration's pools name, and its workers."""
    loop.network.delay_us[ENGINES] = network_us
    clock, others, parts = Clock(), dict[str, Let](), (kind.settings, kind.prompts, kind.words)
    count = sum(len(pool.endpoints) for pool in config.pools)
    engines = [Emulator(*parts, i, ENGINES, FIRST_PORT + i, 0, others) for i in range(count)]
    picker = Picker(config, clock, None)
    told: list[tuple[AnyEvent, list[AnyCommand]]] = []
    picker.driver.watchers.append(lambda event, commands, took_us: told.append((event, commands)))
    doors: list[FrontDoor] = []
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(engine.run(), name=f"engine/{engine.number}") for engine in engines]
        running.append(tasks.create_task(picker.run(), name="picker"))
        listener = await loop.create_unix_server(picker.serve_worker, SOCKET)
        directories = []
        for i in range(config.workers):
            directory = Directory(config.limits.token_cache, None, {})  # type: ignore[arg-type]  # no threads here
            directories.append(directory)
            if config.workers == 1:
                picker.listeners.append(directory.update)
                steering: Any = picker.driver
                observe = picker.observer.observed
            else:
                steering = RemoteSteering(SOCKET, directory, clock, config.timeouts.waiting)
                running.append(tasks.create_task(steering.run(), name=f"steering/{i}"))
                observe = steering.observed
            door = FrontDoor(
                front_settings(config), steering=steering, directory=directory, clock=clock, observe=observe
            )
            door.plane.ids = OwnIds()  # type: ignore[assignment]
            await door.start(f"{DOOR}-{i}", 80)
            doors.append(door)
        yield Fleet(loop, hub, picker, doors, engines, told)
        for door in doors:
            await door.drain(0)
        for directory in directories:
            await directory.close()
        listener.close()
        for task in reversed(running):
            task.cancel()


@contextmanager
def steady_scrapes() -> Iterator[None]:
    """Engines are scraped at equal intervals, as the simulator does it: neither less often while they are idle, nor
    with another look at their models in between."""
    from unittest.mock import patch

    with patch("pilothouse.live.watch.IDLE_FACTOR", 1), patch("pilothouse.live.watch.INSPECT_EVERY", 1 << 40):
        yield
