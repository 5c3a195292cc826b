"""Runs the engines of a local fleet: starts them, tells when each is ready, restarts what dies, leaves nothing behind.

    launcher = Launcher(fleet, machine, settings, on_change)
    await launcher.run()          until cancelled; then every engine is stopped

Each replica has one task, which goes round in a circle: start, wait for /health, wait for the end, pause, start again.
Pauses grow while restarts follow one another closely. A replica is given up when it never became ready, or was
restarted too often in a window. Others go on. `launch_guard.py` holds each engine's processes, so that they end even if
this process is killed.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import aiohttp
import msgspec
from tenacity import AsyncRetrying, RetryCallState, wait_exponential

from pilothouse.core.events import Role
from pilothouse.live import launch_guard
from pilothouse.live.clock import Clock
from pilothouse.live.launch_command import Fleet, Machine, ReplicaCommand, replica_commands
from pilothouse.live.launch_log import EngineLog, error_line
from pilothouse.live.launch_machine import free_ports

POLL_S = 0.25
PROBE_S = aiohttp.ClientTimeout(total=2)
REFUSED_ARGUMENTS = 2  # argparse's exit status: another try would end the same way


class State(StrEnum):
    """Where a replica stands."""

    LOADING = "loading"
    READY = "ready"
    WAITING = "waiting to restart"
    FAILED = "failed"
    STOPPED = "stopped"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the launcher."""

    log_directory: str = "logs"
    ready_us_max: int = 1_800_000_000  # large models load for many minutes
    grace_us_max: int = 10_000_000  # from SIGTERM to SIGKILL
    starts_max: int = 2  # of a replica that has never been ready
    restarts_max: int = 5  # within the window
    restart_window_us: int = 600_000_000
    pause_us_max: int = 60_000_000


@dataclass(slots=True)
class Replica:
    """One engine as the gateway and the person at the terminal see it."""

    name: str
    url: str
    kv_events: str
    kv_replay: str
    log: Path
    role: Role = Role.BOTH
    exchange_port: int = 0  # where it hands over KV; 0 = it does not
    state: State = State.LOADING
    pid: int | None = None  # of the engine's first process; its process group has the same number
    restarts: int = 0
    why: str = ""  # of a failure: the engine's own error, then the end of its log


@dataclass(slots=True)
class _Run:
    """What the task of one replica keeps from one start to the next."""

    command: ReplicaCommand
    replica: Replica
    log: EngineLog
    starts: int = 0
    was_ready: bool = False  # ever
    restarted_us: deque[int] = field(default_factory=deque)


def _silent(replica: Replica, line: str) -> None:
    pass


class Launcher:
    """A fleet of local engines. `on_change` hears every change of state, `on_progress` a line a second of loading."""

    def __init__(
        self,
        fleet: Fleet,
        machine: Machine,
        settings: Settings,
        on_change: Callable[[Replica], None],
        on_progress: Callable[[Replica, str], None] = _silent,
    ) -> None:
        self.settings, self._environment = settings, machine.environment
        self._on_change, self._on_progress = on_change, on_progress
        self._clock = Clock()
        self._settled = asyncio.Event()
        self._runtime = Path(tempfile.mkdtemp(prefix="pilothouse-"))  # mode 0700; a socket's path must be short
        try:
            commands = replica_commands(fleet, machine, free_ports(fleet.ports), str(self._runtime))
        except BaseException:
            self._runtime.rmdir()
            raise
        self._runs = [self._prepare(command) for command in commands]

    @property
    def replicas(self) -> list[Replica]:
        """All replicas, in the order of their numbers."""
        return [run.replica for run in self._runs]

    async def settled(self) -> list[Replica]:
        """Returns when each replica has been ready or has failed."""
        await self._settled.wait()
        return self.replicas

    async def run(self) -> None:
        """Keeps the fleet alive until cancelled. Returns by itself only when every replica has failed."""
        Path(self.settings.log_directory).mkdir(parents=True, exist_ok=True)
        for replica in self.replicas:  # a log holds all lives of a replica under one launcher
            replica.log.unlink(missing_ok=True)
        try:
            async with aiohttp.ClientSession(timeout=PROBE_S) as session, asyncio.TaskGroup() as group:
                for run in self._runs:
                    group.create_task(self._keep(run, session), name=run.command.name)
        finally:
            shutil.rmtree(self._runtime, ignore_errors=True)

    def _prepare(self, command: ReplicaCommand) -> _Run:
        log = Path(self.settings.log_directory).absolute() / f"{command.name}.log"
        told = (command.kv_events, command.kv_replay, log, command.role, command.exchange_port)
        replica = Replica(command.name, command.url, *told)
        return _Run(command, replica, EngineLog(log))

    # The circle of one replica

    async def _keep(self, run: _Run, session: aiohttp.ClientSession) -> None:
        """Starts and restarts until given up or cancelled."""
        try:
            while True:
                status = await self._live(run, session)
                if given_up := self._gives_up(run, status):
                    return self._change(run, State.FAILED, f"{given_up}: {account(status, run.log)}")
                self._change(run, State.WAITING, account(status, run.log))
                await asyncio.sleep(pause_s(max(1, len(run.restarted_us)), self.settings.pause_us_max))
                run.replica.restarts += 1
        except asyncio.CancelledError:
            self._change(run, State.STOPPED)
            raise

    async def _live(self, run: _Run, session: aiohttp.ClientSession) -> int | None:
        """One life of an engine, from start to end. Returns its exit status, None if it was not ready in time."""
        run.starts += 1
        run.log.begin()
        async with self._process(run) as process:
            self._change(run, State.LOADING)
            if not await self._becomes_ready(run, process, session):
                return process.returncode
            run.was_ready = True
            self._change(run, State.READY)
            return await process.wait()

    async def _becomes_ready(self, run: _Run, process: Process, session: aiohttp.ClientSession) -> bool:
        """Asks /health until it answers, the engine ends or time is up."""
        started_us, told_s = self._clock.now_us(), 0
        while process.returncode is None:
            waited_us = self._clock.now_us() - started_us
            if waited_us > self.settings.ready_us_max:
                return False
            if await healthy(session, run.command.url):
                return True
            if waited_us // 1_000_000 > told_s:
                told_s = waited_us // 1_000_000
                self._on_progress(run.replica, f"{run.replica.name}: loading, {told_s} s  {run.log.latest()}")
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), POLL_S)
        return False

    def _gives_up(self, run: _Run, status: int | None) -> str:
        """The reason for not starting again, empty to go on."""
        if not run.was_ready:
            hopeless = status == REFUSED_ARGUMENTS or run.starts >= self.settings.starts_max
            return "never became ready" if hopeless else ""
        now_us = self._clock.now_us()
        while run.restarted_us and run.restarted_us[0] < now_us - self.settings.restart_window_us:
            run.restarted_us.popleft()
        run.restarted_us.append(now_us)
        return "restarted too often" if len(run.restarted_us) > self.settings.restarts_max else ""

    def _change(self, run: _Run, state: State, why: str = "") -> None:
        run.replica.state, run.replica.why = state, why
        if state not in (State.LOADING, State.READY):
            run.replica.pid = None
        self._on_change(run.replica)
        if all(each.was_ready or each.replica.state is State.FAILED for each in self._runs):
            self._settled.set()

    # Processes

    @asynccontextmanager
    async def _process(self, run: _Run) -> AsyncIterator[Process]:
        """A guard with its engine; both are gone when the block is left."""
        guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", launch_guard.__file__, str(run.replica.log), str(self._runtime)),
            *run.command.arguments,
            env=self._environment | run.command.environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # Ctrl-C is for Pilothouse, which then stops its engines in order
        )
        try:
            assert guard.stdout
            told = await guard.stdout.readline()  # empty when the engine could not even be started
            run.replica.pid = int(told) if told else None
            yield guard
        finally:
            await self._end(guard, run.replica.pid)

    async def _end(self, guard: Process, pid: int | None) -> None:
        """Asks the engine to end, and after the grace closes the guard's input, which kills the whole group."""
        assert guard.stdin
        if guard.returncode is None and pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(guard.wait(), self.settings.grace_us_max / 1e6)
        if not guard.stdin.is_closing():  # uvloop closes it when the guard has ended by itself
            guard.stdin.write(b"end\n")  # silence would mean that the launcher had died
            guard.stdin.close()
        await guard.wait()
        if pid:  # for the case that somebody killed the guard
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


async def healthy(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether /health answers 200."""
    try:
        async with session.get(f"{url}/health") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def pause_s(attempt: int, us_max: int) -> float:
    """Seconds before the next start: 1, 2, 4 and so on up to the maximum."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.attempt_number = attempt
    return wait_exponential(multiplier=1, max=us_max / 1e6)(state)


def account(status: int | None, log: EngineLog) -> str:
    """What the engine itself said about its end, and where to read more."""
    lines = log.lines()
    how = "it was not ready in time" if status is None else f"it ended with status {status}"
    cause = error_line(lines)
    return "\n".join([f"{how}{': ' + cause if cause else ''}", f"The end of {log.path}:", *lines[-12:]])
