"""The emulate command: options in, engines that are not there out."""

import asyncio
import logging
import signal
from collections.abc import Sequence

import uvloop
from rich.console import Console

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.emulate.emulator import Emulator
from pilothouse.emulate.faults import parse_fault
from pilothouse.emulate.server import Fault, serve
from pilothouse.emulate.settings import Settings, Wanted, settle

console = Console(stderr=True)
if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
    console.width = 160


def emulate(wanted: Wanted, replicas: int, listen: str, kv_port: int, faults: Sequence[str]) -> None:
    """Until SIGINT or SIGTERM. Raises ConfigError."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) + replicas > 65_536:
        raise ConfigError([Problem("--port, --host", f"{listen!r} is not an address with room for {replicas} ports")])
    settings = settle(wanted)
    parsed = [parse_fault(text) for text in faults]
    uvloop.run(_emulate(settings, replicas, host, int(port), kv_port, parsed))


async def _emulate(settings: Settings, replicas: int, host: str, port: int, kv_port: int, faults: list[Fault]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)

    def announce(running: list[Emulator]) -> None:
        console.print(
            "[bold yellow]EMULATED[/] engines: no model, no GPU; answers are filler text, times are simulated"
        )
        console.print(f"{settings.title}; {settings.spec.kv_blocks} KV blocks of {settings.spec.block_size} tokens")
        console.print(f"step time: {settings.spec.step_time.source or 'from a file'}", highlight=False)
        for each in running:
            console.print(
                f"replica {each.number} at [bold]http://{each.host}:{each.port}/v1[/], model {settings.served}"
            )

    await serve(settings, replicas, host, port, kv_port, faults, announce, stopped)
