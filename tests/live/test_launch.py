"""The launcher with stand-ins for engines, which start at once, and with real ones."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pilothouse.live.launch import Launcher, Replica, Settings, State, pause_s
from pilothouse.live.launch_command import Fleet, Machine
from pilothouse.live.launch_log import error_line
from pilothouse.live.launch_machine import inspect_machine

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = '''#!{python} -I
"""Answers /health on the port it is given; starts a second process, as an engine does."""
import http.server, subprocess, sys
if "--broken" in sys.argv:
    sys.exit("ValueError: No common block size for 16")
if "--refused" in sys.argv:
    print("vllm serve: error: unrecognized arguments: --refused")
    sys.exit(2)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
'''


@pytest.fixture
def stand_in(tmp_path: Path) -> Machine:
    executable = tmp_path / "vllm"
    executable.write_text(STAND_IN.format(python=sys.executable))
    executable.chmod(0o755)
    return Machine(str(executable), True, 2, environment=dict(os.environ))


class Watched:
    """Collects what a launcher reports and lets a test wait for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, State]] = []
        self.progress: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, replica: Replica) -> None:
        self.seen.append((replica.name, replica.state))
        self._news.set()

    async def until(self, name: str, state: State, times: int) -> None:
        async with asyncio.timeout(90):
            while self.seen.count((name, state)) < times:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def launched(fleet: Fleet, machine: Machine, logs: Path) -> AsyncIterator[tuple[Launcher, Watched]]:
    watched = Watched()
    settings = Settings(log_directory=str(logs), pause_us_max=10_000, restarts_max=2, grace_us_max=8_000_000)
    launcher = Launcher(fleet, machine, settings, watched, lambda _, line: watched.progress.append(line))
    task = asyncio.create_task(launcher.run())
    try:
        async with asyncio.timeout(120):
            await launcher.settled()
        yield launcher, watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def check_life_and_death(fleet: Fleet, machine: Machine, logs: Path) -> None:
    """Two replicas become ready, a killed one comes back at the same address, the end leaves nothing."""
    async with launched(fleet, machine, logs) as (launcher, watched):
        first, second = launcher.replicas
        assert (first.state, second.state) == (State.READY, State.READY)
        killed, untouched, url = first.pid, second.pid, first.url
        assert killed
        os.kill(killed, signal.SIGKILL)
        await watched.until("replica-0", State.READY, 2)
        assert (first.url, first.restarts, second.restarts) == (url, 1, 0)
        assert not group_exists(killed)
        assert second.pid == untouched
        alive = [replica.pid or 0 for replica in launcher.replicas]
        assert all(group_exists(pid) for pid in alive)
        sockets = Path(first.kv_events.removeprefix("ipc://")).parent
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not any(group_exists(pid) for pid in alive)
    assert not sockets.exists()
    assert [replica.state for replica in launcher.replicas] == [State.STOPPED] * 2


def test_life_and_death_of_stand_ins(stand_in: Machine, tmp_path: Path) -> None:
    run(lambda: check_life_and_death(Fleet("m", 2), stand_in, tmp_path / "logs"))


def test_one_that_dies_too_often_is_given_up(stand_in: Machine, tmp_path: Path) -> None:
    async def test() -> None:
        async with launched(Fleet("m"), stand_in, tmp_path) as (launcher, watched):
            for life in (1, 2, 3):
                await watched.until("replica-0", State.READY, life)
                os.kill(launcher.replicas[0].pid or 0, signal.SIGKILL)
            await watched.until("replica-0", State.FAILED, 1)
            assert launcher.replicas[0].why.startswith("restarted too often: it ended with status 137")
            assert launcher.replicas[0].pid is None

    run(test)


@pytest.mark.parametrize(
    ("argument", "starts", "quoted"),
    [("--broken", 2, "No common block size for 16"), ("--refused", 1, "error: unrecognized arguments: --refused")],
)
def test_one_that_cannot_start_is_explained(
    stand_in: Machine, tmp_path: Path, argument: str, starts: int, quoted: str
) -> None:
    async def test() -> None:
        async with launched(Fleet("m", 1, (argument,)), stand_in, tmp_path) as (launcher, watched):
            (replica,) = launcher.replicas
            assert replica.state is State.FAILED
            assert watched.seen.count(("replica-0", State.LOADING)) == starts
            assert quoted in replica.why.splitlines()[0]

    run(test)


def test_an_executable_that_is_gone_is_explained(stand_in: Machine, tmp_path: Path) -> None:
    async def test() -> None:
        Path(stand_in.vllm).unlink()
        async with launched(Fleet("m"), stand_in, tmp_path) as (launcher, _):
            assert "FileNotFoundError" in launcher.replicas[0].why

    run(test)


def test_nothing_outlives_a_killed_launcher(stand_in: Machine, tmp_path: Path) -> None:
    script = (
        "import asyncio, os\n"
        "from pilothouse.live.launch import *\n"
        "from pilothouse.live.launch_command import Fleet, Machine\n"
        "def tell(replica):\n"
        "    if replica.state is State.READY: print(replica.pid, replica.kv_events, flush=True)\n"
        f"machine = Machine({stand_in.vllm!r}, True, 2, environment=dict(os.environ))\n"
        "async def main():\n"
        f"    await Launcher(Fleet('m'), machine, Settings(log_directory={str(tmp_path)!r}), tell).run()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        engine, socket = owner.stdout.readline().split()
        ended = os.pidfd_open(int(engine))
        owner.kill()
    try:
        asyncio.run(readable(ended))
    finally:
        os.close(ended)
    assert not Path(socket.removeprefix("ipc://")).parent.exists()


async def readable(descriptor: int) -> None:
    """Returns when the process behind a pidfd has ended."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    async with asyncio.timeout(10):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(descriptor)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["like `OSError: [Errno 24]`. Consider", "all is well"], ""),
        (
            [
                "(EngineCore pid=2) ERROR 11-21 08:06:34 [core.py:9] Traceback (most recent call last):",
                "(EngineCore pid=2) ERROR 11-21 08:06:34 [core.py:9] ValueError: No common block size for 16",
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            ],
            "ValueError: No common block size for 16",
        ),
        (["usage: ...", "vllm serve: error: invalid choice: x"], "vllm serve: error: invalid choice: x"),
        (
            ["pydantic.ValidationError: 1 validation error for ModelConfig", "  Value error, no such model"],
            "pydantic.ValidationError: 1 validation error for ModelConfig Value error, no such model",
        ),
    ],
)  # fmt: skip
def test_the_cause_is_found_in_the_log(lines: list[str], cause: str) -> None:
    assert error_line(lines) == cause


def test_pauses_double_up_to_a_maximum() -> None:
    assert [pause_s(attempt, 10_000_000) for attempt in (1, 2, 3, 4, 5, 90)] == [1, 2, 4, 8, 10, 10]


@pytest.mark.engine
def test_life_and_death_of_real_engines(tiny: Path, tmp_path: Path) -> None:
    fleet = Fleet(str(tiny), 2, ("--max-model-len 2048", "--kv-cache-memory-bytes 64M"))
    run(lambda: check_life_and_death(fleet, inspect_machine(), tmp_path))


@pytest.mark.engine
def test_a_real_engine_is_quoted(tiny: Path, tmp_path: Path) -> None:
    async def test() -> None:
        fleet = Fleet(str(tiny), 1, ("--no-such-thing",))
        async with launched(fleet, inspect_machine(), tmp_path) as (launcher, watched):
            assert "unrecognized arguments: --no-such-thing" in launcher.replicas[0].why.splitlines()[0]
            assert any("loading, " in line for line in watched.progress)

    run(test)
