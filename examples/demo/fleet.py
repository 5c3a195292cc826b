"""`pilothouse up` as a child process, on free ports, with proof at the end that nothing of it is left."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from pilothouse.live.launch_machine import free_ports

MODEL, ENGINES = "demo", 2
LOGS = Path(".cache/demo")
LOADING_S, STOPPING_S, POLL_S = 600, 60, 0.25
PROBE_S = aiohttp.ClientTimeout(total=5)


class DemoFailed(Exception):
    """A sentence for the person who watches."""


@asynccontextmanager
async def fleet(model: Path, name: str, *what: str) -> AsyncIterator[tuple[str, str]]:
    """Two engines and the gateway in front: the URLs of its API and of its control address."""
    api, control = (f"127.0.0.1:{port}" for port in free_ports(2))
    options = {"model": model, "served-name": MODEL, "listen": api, "control": control, "logs": LOGS / name}
    words = ["up", *what, *(f"--{option}={value}" for option, value in options.items())]
    say(f"pilothouse {' '.join(words)}")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pilothouse.cli", *words),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160"},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,  # Ctrl-C is for the demo, which then stops its child in order
    )
    told: list[str] = []
    telling = asyncio.create_task(tell(child, told))
    try:
        await until_ready(child, f"http://{control}", told)
        yield f"http://{api}/v1", f"http://{control}"
    finally:
        await asyncio.shield(asyncio.ensure_future(stop(child)))
        await telling


async def tell(child: Process, told: list[str]) -> None:
    """Passes on what the child says."""
    assert child.stdout
    async for line in child.stdout:
        told.append(line.decode(errors="replace").rstrip())
        say(f"  | {told[-1]}")


async def until_ready(child: Process, control: str, told: list[str]) -> None:
    """Returns when every engine is up and what its cache holds is known from its own events."""
    deadline = time.monotonic() + LOADING_S
    async with aiohttp.ClientSession(timeout=PROBE_S) as session:
        while time.monotonic() < deadline:
            if child.returncode is not None:
                raise DemoFailed(f"`pilothouse up` ended with status {child.returncode}; what it said is above")
            if any(": failed" in line for line in told):
                raise DemoFailed(f"an engine could not be started; why is above, and in {LOGS}")
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{control}/status") as answer:
                    endpoints = (await answer.json())["endpoints"]
                if sum(each["state"] == "up" and each["kv"] == "exact" for each in endpoints) == ENGINES:
                    return
            await asyncio.sleep(POLL_S)
    raise DemoFailed(f"the engines were not ready after {LOADING_S} s; their logs are in {LOGS}")


async def stop(child: Process) -> None:
    """Asks it to end, as Ctrl-C would; then every process that the child had is looked for."""
    left = descendants(child.pid)
    if child.returncode is None:
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), STOPPING_S)
    except TimeoutError:
        child.kill()
        await child.wait()
    for _ in range(100):
        left = {pid: born for pid, born in left.items() if pid in (now := processes()) and now[pid][1] == born}
        if not left:
            return
        await asyncio.sleep(0.1)
    raise DemoFailed(f"processes are left over: {', '.join(map(str, left))}")


def descendants(root: int) -> dict[int, str]:
    """Processes below and including one, with the time of birth, which tells a process from a later one of its number."""
    table = processes()
    family = [root] if root in table else []
    for member in family:  # grows while it is walked
        family += [pid for pid, (parent, _) in table.items() if parent == member]
    return {pid: table[pid][1] for pid in family}


def processes() -> dict[int, tuple[int, str]]:
    """Parent and time of birth of every process that is not a zombie, from /proc."""
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()  # the name before it may hold anything
            if fields[0] != "Z":
                table[int(path.parent.name)] = (int(fields[1]), fields[19])
    return table


def say(text: str) -> None:
    """A line, now, even through a pipe."""
    print(text, flush=True)
