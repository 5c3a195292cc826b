"""serve, up and the supervisor's children: configuration in, event loop around, exit status out."""

import asyncio
import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import IO, Any

import msgspec
import typer
import uvloop
import yaml
from rich.console import Console
from rich.logging import RichHandler

from pilothouse.cli.progress import Progress
from pilothouse.config.load import from_data, load
from pilothouse.config.schema import Config
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.core.events import Role
from pilothouse.live.launch import Launcher, Replica, Settings, State
from pilothouse.live.launch_command import Fleet
from pilothouse.live.launch_connector import LEASE_S, connector_problems
from pilothouse.live.launch_machine import check_connector, inspect_machine
from pilothouse.plugins import load_plugins
from pilothouse.serving import gateway

console = Console(stderr=True)
if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
    console.width = 160
MODEL_FILES = ("config.json", "params.json")


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
    prefill: int = 0
    decode: int = 0
    connector: str = "nixl"

    @property
    def fleet(self) -> Fleet:
        """The engines to start."""
        return Fleet(
            self.model,
            self.replicas,
            self.engine_args,
            self.served_name,
            self.prefill,
            self.decode,
            self.connector,
        )


def serve(path: Path, log: bool) -> None:
    text = read_config(path)
    config = prepare(text, str(path))
    _run(gateway.serve(config, text, _log(log), _announce))


def up(wanted: Wanted) -> None:
    _check(wanted)
    _run(_up(wanted))


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
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return load(text, source)


async def _up(wanted: Wanted) -> None:
    first_look = config_of(wanted, stand_ins(wanted))  # what is wrong is said before anything is started
    prepare(yaml.safe_dump(first_look), "up")
    gateway.check_surroundings(from_data(first_look, "up"))
    machine = await asyncio.to_thread(inspect_machine)
    if wanted.prefill:
        check_connector(machine.vllm, wanted.connector)
    with Progress(console) as progress:
        launcher = Launcher(wanted.fleet, machine, Settings(log_directory=wanted.logs), progress.changed, progress.line)
        data = config_of(wanted, launcher.replicas)
        config, text = from_data(data, "up"), yaml.safe_dump(data)
        for replica in launcher.replicas:
            console.print(f"[bold]{replica.name}[/] will answer at {replica.url}, log {replica.log}", soft_wrap=True)
        listening = Listening()
        engines = asyncio.create_task(launcher.run(), name="launcher")
        serving = asyncio.create_task(gateway.serve(config, text, _log(wanted.log), listening.tell), name="gateway")
        telling = asyncio.create_task(_tell_when_ready(launcher, listening, wanted), name="telling")
        try:
            await asyncio.wait([engines, serving], return_when=asyncio.FIRST_COMPLETED)
            if engines.done() and not serving.done():
                engines.result()
                raise PilothouseError(f"no engine could be kept running; why is above, and in {wanted.logs}")
            serving.result()
            console.print("stopping the engines ...")
        finally:
            for task in (telling, serving, engines):
                task.cancel()
            await asyncio.gather(telling, serving, engines, return_exceptions=True)


async def _tell_when_ready(launcher: Launcher, listening: "Listening", wanted: Wanted) -> None:
    """Says how many engines are there, and how to ask the first question."""
    replicas = await launcher.settled()
    ready = sum(replica.state is State.READY for replica in replicas)
    if not ready:
        return
    listen, control = await listening.addresses
    _announce(listen, control)
    console.print(f"{ready} of {len(replicas)} engines are ready. A first question:")
    question = {"model": wanted.served_name or wanted.model, "messages": [{"role": "user", "content": "Hello"}]}
    body = shlex.quote(json.dumps(question))
    command = f"curl http://{listen}/v1/chat/completions -H 'content-type: application/json' -d {body}"
    console.print(command, soft_wrap=True, markup=False, highlight=False)


class Listening:
    """The gateway's addresses, once it listens."""

    def __init__(self) -> None:
        self.addresses: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    def tell(self, listen: str, control: str) -> None:
        self.addresses.set_result((listen, control))
        console.print(f"the gateway listens at http://{listen}; the engines are loading")


def _check(wanted: Wanted) -> None:
    """What can be said at once and would otherwise be said by an engine, a minute later and in many lines."""
    problems = connector_problems(wanted.connector, wanted.prefill, wanted.decode)
    if wanted.engine != "vllm":
        problems.append(Problem("--engine", f"unknown engine {wanted.engine!r}, known: vllm"))
    model = Path(wanted.model)
    if not model.exists() and (wanted.model.startswith(("/", ".", "~")) or wanted.model.count("/") > 1):
        problems.append(Problem("--model", f"{wanted.model} does not exist"))
    elif model.is_dir() and not any((model / name).exists() for name in MODEL_FILES):
        problems.append(
            Problem("--model", f"{wanted.model} holds no model: there is no {' or '.join(MODEL_FILES)} in it")
        )
    for option, directory in (("--logs", wanted.logs), ("--journal", wanted.journal)):
        if directory is not None:
            try:
                Path(directory).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=directory) as probe:
                    probe.write(b" " * 4096)
            except OSError as error:
                problems.append(Problem(option, f"cannot write to {directory}: {error.strerror}"))
    if problems:
        raise ConfigError(problems)


def stand_ins(wanted: Wanted) -> list[Replica]:
    """Engines that there are not yet, for a look at the rest of the configuration."""
    engines = enumerate(wanted.fleet.engines, 1)
    return [Replica(name, f"http://127.0.0.1:{port}", "", "", Path(), role) for port, (name, role) in engines]


def config_of(wanted: Wanted, replicas: list[Replica]) -> dict[str, Any]:
    """The gateway's configuration in front of these engines: a pool for each role."""
    roles = [role for role in Role if any(replica.role is role for replica in replicas)]
    pools = [_pool_of(wanted, role, [replica for replica in replicas if replica.role is role]) for role in roles]
    data: dict[str, Any] = {
        "listen": wanted.listen,
        "control": wanted.control,
        "workers": wanted.workers,
        "policy": yaml.safe_load(wanted.policy),  # a name, or a mapping
        "pools": pools,
    }
    if wanted.journal:
        data["journal"] = {"directory": wanted.journal}
    from_data(data, "up")
    return data


def _pool_of(wanted: Wanted, role: Role, replicas: list[Replica]) -> dict[str, Any]:
    """Engines of one role. Those that exchange KV are told to the gateway as they were started."""
    engines = [
        {"name": r.name, "url": r.url} | ({"kv_events": r.kv_events, "kv_replay": r.kv_replay} if r.kv_events else {})
        for r in replicas
    ]
    pool: dict[str, Any] = {"endpoints": engines, "models": [wanted.served_name or wanted.model]}
    if Path(wanted.model).is_dir():
        pool["tokenizer"] = wanted.model
    if role is not Role.BOTH:
        connector: dict[str, Any] = {"type": wanted.connector, "lease": f"{LEASE_S}s"}
        if wanted.connector == "mooncake" and role is Role.PREFILL and replicas[0].exchange_port:
            connector["port"] = replicas[0].exchange_port
        pool |= {"name": str(role), "role": str(role), "connector": connector}
    return pool


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
