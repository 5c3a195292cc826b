"""serve, up and the supervisor's children: configuration in, event loop around, exit status out."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import IO, Any

import msgspec
import typer
import uvloop
import yaml
from rich.console import Console
from rich.logging import RichHandler

from pilothouse.config.load import from_data, load
from pilothouse.config.schema import Config
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.launch import Launcher, Replica, Settings, State
from pilothouse.live.launch_command import Fleet
from pilothouse.live.launch_machine import inspect_machine
from pilothouse.plugins import load_plugins
from pilothouse.serving import gateway

console = Console(stderr=True)


class Wanted(msgspec.Struct, frozen=True):
    """What `up` was asked for."""

    model: str
    replicas: int
    engine: str
    engine_args: tuple[str, ...]
    served_name: str
    listen: str
    control: str
    workers: int
    policy: str
    journal: str | None
    logs: str
    log: bool


def serve(path: Path, log: bool) -> None:
    text = read_config(path)
    config = prepare(text, str(path))
    _run(gateway.serve(config, text, _log(log), _announce))


def up(wanted: Wanted) -> None:
    if wanted.engine != "vllm":
        raise ConfigError([Problem("--engine", f"unknown engine {wanted.engine!r}, known: vllm")])
    fleet = Fleet(wanted.model, wanted.replicas, wanted.engine_args, wanted.served_name)
    _run(_up(wanted, fleet))


def process(role: str, runtime: Path, log: bool) -> None:
    config = prepare((runtime / gateway.CONFIG).read_text(), "configuration")
    if role == "picker":
        _run(gateway.serve_picker(config, runtime, _log(log)))
    else:
        _run(gateway.serve_worker(config, runtime))


def read_config(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError([Problem(str(path), f"cannot be read: {what}")]) from None


def prepare(text: str, source: str) -> Config:
    """Plugins, then the configuration that may name them."""
    load_plugins()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return load(text, source)


async def _up(wanted: Wanted, fleet: Fleet) -> None:
    machine = await asyncio.to_thread(inspect_machine)
    progress = Progress()
    launcher = Launcher(fleet, machine, Settings(log_directory=wanted.logs), progress.changed, progress.line)
    data = _config_of(wanted, launcher.replicas)
    text = yaml.safe_dump(data)
    config = prepare(text, "up")
    gateway.check_surroundings(config)
    for replica in launcher.replicas:
        console.print(f"[bold]{replica.name}[/] will answer at {replica.url}, log {replica.log}")
    engines = asyncio.create_task(launcher.run(), name="launcher")
    serving = asyncio.create_task(gateway.serve(config, text, _log(wanted.log), _announce), name="gateway")
    try:
        await asyncio.wait([engines, serving], return_when=asyncio.FIRST_COMPLETED)
        if engines.done() and not serving.done():
            engines.result()
            raise ConfigError([Problem(r.name, r.why) for r in launcher.replicas if r.state is State.FAILED])
        serving.result()
        console.print("stopping the engines ...")
    finally:
        for task in (serving, engines):
            task.cancel()
        await asyncio.gather(serving, engines, return_exceptions=True)


def _config_of(wanted: Wanted, replicas: list[Replica]) -> dict[str, Any]:
    engines = [
        {"name": r.name, "url": r.url}
        | ({"kv_events": r.kv_events, "kv_replay": r.kv_replay} if r.kv_events else {})
        for r in replicas
    ]
    pool: dict[str, Any] = {"endpoints": engines, "models": [wanted.served_name or wanted.model]}
    if Path(wanted.model).is_dir():
        pool["tokenizer"] = wanted.model
    data: dict[str, Any] = {
        "listen": wanted.listen,
        "control": wanted.control,
        "workers": wanted.workers,
        "policy": wanted.policy,
        "pools": [pool],
    }
    if wanted.journal:
        data["journal"] = {"directory": wanted.journal}
    from_data(data, "up")
    return data


class Progress:
    """What a person sees while engines load, die and come back."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def changed(self, replica: Replica) -> None:
        style = {State.READY: "green", State.FAILED: "red"}.get(replica.state, "yellow")
        console.print(f"[{style}]{replica.name}: {replica.state}[/]" + (f": {replica.why}" if replica.why else ""))

    def line(self, replica: Replica, line: str) -> None:
        if self._last.get(replica.name) != line:
            self._last[replica.name] = line
            console.print(f"{replica.name}: {line}", style="dim", markup=False, highlight=False, overflow="ellipsis")


def _announce(listen: str, control: str) -> None:
    console.print(f"[bold green]pilothouse[/] serves the OpenAI API at [bold]http://{listen}/v1[/]")
    console.print(f"metrics, status and explain at http://{control}")


def _log(wanted: bool) -> IO[bytes] | None:
    return sys.stdout.buffer if wanted else None


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Exit status 0 after a clean stop, 70 (EX_SOFTWARE) when the dispatcher's state cannot be trusted any more."""
    try:
        uvloop.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except AssertionError:
        logging.getLogger(__name__).exception("an invariant of the dispatcher is broken; please report this")
        raise typer.Exit(70) from None
