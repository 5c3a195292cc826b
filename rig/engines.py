"""Real vLLM replicas for tests, benchmarks and the demo: quick to start, killable, never left behind.

    with Rig() as rig:
        engine = rig.start(tiny_model()).wait_ready()
        ... engine.url, engine.kv_endpoint ...
        engine.kill()
        rig.restart(engine).wait_ready()

`with rig.start(model) as engine:` waits until the engine is ready, and kills it at the end.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
FAST = (  # two processes instead of three, no compiler, a small cache, the smallest blocks that a CPU engine allows
    *("--distributed-executor-backend", "uni", "--enforce-eager", "--dtype", "bfloat16"),
    *("--max-model-len", "8192", "--max-num-seqs", "16", "--max-num-batched-tokens", "2048"),
    *("--kv-cache-memory-bytes", "64M", "--block-size", "32", "--prefix-caching-hash-algo", "sha256_cbor"),
    *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log", "--served-model-name", "tiny"),
)
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
POLL_S = 0.02


class EngineDied(Exception):
    """An engine ended before it was ready; carries the end of its log."""


@dataclass(slots=True)
class Engine:
    """One replica: where it answers, what it was started with, and the means to hurt it."""

    url: str
    port: int
    pid: int  # also its process group, which holds vLLM's second process
    log: Path
    kv_endpoint: str | None  # ZMQ PUB, bound by the engine
    kv_replay_endpoint: str | None  # ZMQ ROUTER, bound by the engine
    model: Path
    arguments: list[str]
    environment: dict[str, str]

    def __enter__(self) -> Self:
        return self.wait_ready()

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def wait_ready(self, timeout: float = 60) -> Self:
        """Returns when /health answers 200; raises with the end of the log when the process ends or time is up."""

        def ready() -> bool:
            if not self.alive:
                raise EngineDied(f"engine on port {self.port} ended:\n{self.tail()}")
            return self.healthy()

        if not wait_until(ready, timeout):
            raise TimeoutError(f"engine on port {self.port} is not ready after {timeout} s:\n{self.tail()}")
        return self

    def healthy(self) -> bool:
        """Whether /health answers 200 within a second."""
        try:
            with urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    @property
    def alive(self) -> bool:
        """Whether any process of the engine is left; the zygote buries the dead at once."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to all its processes; returns when they are gone."""
        self.signal(signal.SIGKILL)
        wait_until(lambda: not self.alive, 10)

    def stop(self, timeout: float = 10) -> None:
        """SIGTERM as an orchestrator would send it, then SIGKILL; returns when all is gone."""
        self.resume()
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        if not wait_until(lambda: not self.alive, timeout):
            self.kill()

    def suspend(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as with a hung machine."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes; one that is gone is no error."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Rig:
    """Owns the zygote and every engine that was started from it; leaving the `with` block ends them all."""

    def __init__(self, log_dir: Path | str | None = None) -> None:
        self.runtime = Path(tempfile.mkdtemp(prefix="rig-"))  # short, for a socket's path has at most 107 bytes
        self.log_dir = Path(log_dir) if log_dir else self.runtime
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.engines: list[Engine] = []
        self._started = 0
        self.zygote: subprocess.Popen[str] | None = None
        self._orders = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(
        self,
        model: Path | str,
        port: int | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        kv_events: bool = True,
    ) -> Engine:
        """Forks an engine and returns at once. `args` come last on its command line and so win over the defaults."""
        port = port or free_port()
        name = f"engine-{self._started}"
        self._started += 1
        endpoints = (
            [f"ipc://{self.runtime}/{name}.{kind}.tcp:1" for kind in ("kv", "replay")] if kv_events else [None, None]
        )
        engine = Engine(
            url=f"http://127.0.0.1:{port}",
            port=port,
            pid=0,
            log=self.log_dir / f"{name}.log",
            kv_endpoint=endpoints[0],
            kv_replay_endpoint=endpoints[1],
            model=Path(model),
            arguments=[str(model), "--host", "127.0.0.1", "--port", str(port), *FAST, *events(*endpoints), *args],
            environment={**ENVIRONMENT, **(env or {})},
        )
        engine.log.unlink(missing_ok=True)
        return self.restart(engine)

    def restart(self, engine: Engine) -> Engine:
        """Starts a dead engine again: same port, arguments and log. The process id is another."""
        assert not (engine.pid and engine.alive), "kill or stop it first"
        order = {"log": str(engine.log), "arguments": engine.arguments, "environment": engine.environment}
        engine.pid = self._order(order)["pid"]
        if engine not in self.engines:
            self.engines.append(engine)
        return engine

    def close(self) -> None:
        """Kills what runs, ends the zygote, removes the sockets."""
        for engine in self.engines:
            engine.kill()
        if self.zygote:
            assert self.zygote.stdin
            self.zygote.stdin.close()
            self.zygote.wait(timeout=20)
            assert self.zygote.stdout
            self.zygote.stdout.close()
        shutil.rmtree(self.runtime, ignore_errors=True)  # as the zygote does, if there was one

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        with self._orders:
            zygote = self.zygote = self.zygote or self._start_zygote()
            assert zygote.stdin and zygote.stdout
            zygote.stdin.write(json.dumps(order) + "\n")
            zygote.stdin.flush()
            return read_answer(zygote, self.log_dir / "zygote.log")

    def _start_zygote(self) -> "subprocess.Popen[str]":
        log = self.log_dir / "zygote.log"
        with log.open("w") as errors:
            zygote = subprocess.Popen(
                [sys.executable, "-m", "rig.zygote", str(self.runtime)],
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT, "TMPDIR": str(self.runtime)},  # killed engines leave files there
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for the test; the engines end with it, in order
            )
        read_answer(zygote, log)
        return zygote


def events(publish: str | None, replay: str | None) -> list[str]:
    """The option that turns KV events on. The engine binds ipc endpoints; a plain tcp one it would connect to.

    Their names end in "tcp:1" because a data-parallel rank makes its own by adding its number, only where "tcp" occurs.
    """
    if publish is None:
        return []
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": publish, "replay_endpoint": replay}
    return ["--kv-events-config", json.dumps(config)]


def read_answer(zygote: "subprocess.Popen[str]", log: Path) -> dict[str, Any]:
    """The next line from the zygote, or what it said when it died."""
    assert zygote.stdout
    line = zygote.stdout.readline()
    if not line:
        raise EngineDied(f"the zygote ended:\n{log.read_text(errors='replace')[-3000:]}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection is given: an engine that is started again wants
    it back, and would wait a minute for the end of such a connection."""
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    while True:
        port = random.randrange(10_000, max(first, 20_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Asks every few milliseconds; False when the time is up."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
