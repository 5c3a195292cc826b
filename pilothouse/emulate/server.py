"""Several emulated engines in one process: on neighbouring ports, on one event loop."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.emulate.emulator import Emulator
from pilothouse.emulate.faults import Faults
from pilothouse.emulate.filler import find_words
from pilothouse.emulate.model_folder import built_in_folder
from pilothouse.emulate.prompts import Prompts
from pilothouse.emulate.settings import Settings
from pilothouse.emulate.transfer import Let
from pilothouse.live.tokens.dialect import Dialect

Fault = tuple[int | None, Faults]  # of one replica, or of all


@asynccontextmanager
async def emulators(
    settings: Settings,
    replicas: int = 1,
    host: str = "127.0.0.1",
    port: int = 0,
    kv_port: int = 0,
    cache: Path | None = None,
) -> AsyncIterator[list[Emulator]]:
    """They listen inside the block. Port 0 takes free ones; otherwise replica N has `port` + N, and its KV events
    `kv_port` + 2 N. All replicas share one tokenizer and its memory. Raises ConfigError."""
    wanted = settings.wanted
    folder = wanted.tokenizer or built_in_folder(settings.model, wanted.max_model_len, cache)
    prompts = Prompts(folder, Dialect(settings.algorithm, settings.spec.block_size), wanted.max_model_len)
    words = find_words(prompts.tokenizer)
    started: list[Emulator] = []
    others: dict[str, Let] = {}
    try:
        for i in range(replicas):
            ports = port + i if port else 0, kv_port + 2 * i if kv_port else 0
            started.append(Emulator(settings, prompts, words, i, host, *ports, others))
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each.run(), name=f"emulator/{each.number}") for each in started]
            for each in started:
                each.peers = started
                listening = tasks.create_task(each.listening.wait())
                await asyncio.wait([listening, running[each.number]], return_when=asyncio.FIRST_COMPLETED)
                if not each.listening.is_set():
                    listening.cancel()
            gc.freeze()  # what was made so far stays: a collection need not look at it, and takes a millisecond less
            yield started
            for task in running:
                task.cancel()
    except* ConfigError as group:
        raise group.exceptions[0] from None
    finally:
        for each in started:
            each.dispose()


async def serve(
    settings: Settings,
    replicas: int,
    host: str,
    port: int,
    kv_port: int,
    faults: Sequence[Fault],
    announce: Callable[[list[Emulator]], None],
    stopped: asyncio.Event,
) -> None:
    """Until `stopped` is set."""
    for number, _ in faults:
        if number is not None and not 0 <= number < replicas:
            raise ConfigError([Problem("--fault", f"there is no replica {number}: there are {replicas}, from 0")])
    async with emulators(settings, replicas, host, port, kv_port) as running:
        for number, fault in faults:
            for each in running:
                if number in (None, each.number):
                    each.inject(fault)
        announce(running)
        await stopped.wait()
        for each in running:
            each.drain()
