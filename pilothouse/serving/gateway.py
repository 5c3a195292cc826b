"""The gateway as processes: all in one, or a picker and its workers under a supervisor.

one worker      picker and worker share one process; the dispatcher is a function call away
more workers    the supervisor starts one picker and the workers, restarts what dies, and stops workers first
"""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pilothouse.config.schema import Config
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.clock import Clock
from pilothouse.live.supervise import supervised
from pilothouse.serving.control import ControlServer
from pilothouse.serving.picker import Picker, engine_keys
from pilothouse.serving.remote import RemoteSteering
from pilothouse.serving.signals import CHILD, StopSignals
from pilothouse.serving.worker import Worker, client_keys

SOCKET, CONFIG = "picker.sock", "config.yaml"
STOP_MARGIN_S = 5.0  # beyond the drain time, before a process that does not stop is killed

Started = Callable[[str, str], None]  # (API address, control address)


async def serve(config: Config, text: str, log: IO[bytes] | None, started: Started) -> None:
    """Runs until SIGINT or SIGTERM, then drains. `text` is what `config` was loaded from, for the children.

    Raises ConfigError if an address is taken or a key is missing, or whatever broke the dispatcher.
    """
    check_surroundings(config)
    if config.workers == 1:
        await serve_alone(config, log, started)
    else:
        await _serve_many(config, text, log is not None, started)


def check_surroundings(config: Config) -> None:
    """What cannot be known from the file alone: addresses, keys. Raises ConfigError with every problem."""
    problems = []
    for where, address in (("listen", config.listen), ("control", config.control)):
        host, _, port = address.rpartition(":")
        try:
            _listen(host, int(port)).close()
        except OSError as error:
            problems.append(Problem(where, f"cannot listen on {address}: {os.strerror(error.errno or 0)}"))
    if config.clients.api_keys_env and not client_keys(config):
        problems.append(Problem("clients.api_keys_env", f"{config.clients.api_keys_env} is not set or empty"))
    keys = engine_keys(config)
    for i, pool in enumerate(config.pools):
        if pool.api_key_env and pool.name not in keys:
            problems.append(Problem(f"pools[{i}].api_key_env", f"{pool.api_key_env} is not set"))
    if problems:
        raise ConfigError(problems)


async def serve_alone(config: Config, log: IO[bytes] | None, started: Started) -> None:
    clock = Clock()
    picker, worker = Picker(config, clock, log), Worker(config, clock)
    picker.listeners.append(worker.directory.update)
    picker.tokens["worker 0"] = worker.directory.status
    async with _control(picker) as control, _background(picker.run()) as deciding:
        address = await worker.start(picker.driver, picker.observer.observed, share_port=False)
        started(address, control)
        signals = StopSignals()
        await signals.wait_for_one_or(deciding)
        await signals.drain(worker)


async def serve_picker(config: Config, runtime: Path, log: IO[bytes] | None) -> None:
    """The picker's process."""
    picker = Picker(config, Clock(), log)
    path = runtime / SOCKET
    path.unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(picker.serve_worker, path)
    async with server, _control(picker), _background(picker.run()) as deciding:
        await StopSignals().wait_for_one_or(deciding)


async def serve_worker(config: Config, runtime: Path) -> None:
    """A worker's process."""
    clock = Clock()
    worker = Worker(config, clock)
    steering = RemoteSteering(str(runtime / SOCKET), worker.directory, clock, config.timeouts.waiting)
    async with _background(steering.run()) as connected:
        await steering.informed.wait()
        await worker.start(steering, steering.observed, share_port=True)
        assert worker.front is not None
        worker.front.plane.stored.tell, steering.learnt = steering.made, worker.front.plane.stored.learn
        signals = StopSignals()
        await signals.wait_for_one_or(connected)
        await signals.drain(worker)


async def _serve_many(config: Config, text: str, log: bool, started: Started) -> None:
    with tempfile.TemporaryDirectory(prefix="pilothouse-") as directory:
        (Path(directory) / CONFIG).write_text(text)
        signals = StopSignals()
        flags = [] if log else ["--no-log"]
        picker = asyncio.create_task(_keep("picker", directory, flags, STOP_MARGIN_S, signals))
        drain_s = config.timeouts.drain.seconds + STOP_MARGIN_S
        workers = [
            asyncio.create_task(_keep("worker", directory, flags, drain_s, signals)) for _ in range(config.workers)
        ]
        try:
            async with _background(_announce(config, started)):
                await signals.first.wait()
        finally:
            for tasks in (workers, [picker]):  # the picker last: ends of requests still reach the journal
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(role: str, directory: str, flags: list[str], grace_s: float, signals: StopSignals) -> None:
    """One child, started again with back-off whenever it ends."""

    async def live() -> None:
        command = [sys.executable, "-m", "pilothouse.cli", "process", role, directory, *flags]
        child = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, start_new_session=True, env={**os.environ, CHILD: "1"}
        )
        try:
            status = await child.wait()
        finally:
            await _end(child, grace_s, signals)
        raise RuntimeError(f"ended with status {status}")

    await supervised(role, live)


async def _end(child: asyncio.subprocess.Process, grace_s: float, signals: StopSignals) -> None:
    """SIGTERM, once more if the second signal comes meanwhile, and SIGKILL when the grace is over."""
    if child.returncode is not None:
        return
    hurry = asyncio.create_task(signals.second.wait())
    ended = asyncio.create_task(child.wait())
    with suppress(ProcessLookupError):
        child.terminate()
        await asyncio.wait([ended, hurry], timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done() and not ended.done():
            child.terminate()
            await asyncio.wait([ended], timeout=STOP_MARGIN_S)
        if not ended.done():
            child.kill()
    await ended
    hurry.cancel()


async def _announce(config: Config, started: Started) -> None:
    """Waits until a worker listens, then says so."""
    host, _, port = config.listen.rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        started(config.listen, config.control)
        return


@asynccontextmanager
async def _control(picker: Picker) -> AsyncIterator[str]:
    """The control address, answered while the block runs."""
    host, _, port = picker.config.control.rpartition(":")
    listener = _listen(host, int(port))
    server = ControlServer(picker)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="control")
    try:
        yield f"{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
