"""The processes of a contest over HTTP: emulated engines, one router at a time, what they cost, and that none is left behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

ROOT = Path(__file__).resolve().parent.parent
RIVALS = ROOT / ".cache" / "rivals"
HOST = "127.0.0.1"
OURS = [sys.executable, "-m", "pilothouse.cli"]
START_S, STOP_S = 40.0, 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MODEL, GPU = "qwen3-32b", "a100"


class DidNotStart(Exception):
    """A program ended or was silent before it served; carries the end of what it said."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All of one contest, one after the other from `first`. ZMQ addresses lie behind them."""

    first: int
    engines: int

    @property
    def urls(self) -> list[str]:
        return [f"http://{HOST}:{self.first + i}" for i in range(self.engines)]

    @property
    def router(self) -> int:
        return self.first + self.engines

    @property
    def control(self) -> int:
        return self.router + 1

    @property
    def kv(self) -> int:
        return self.router + 10

    def events(self, offset: int) -> list[str]:
        """URL=ADDRESS of each engine's KV events (0) or of their replay (1)."""
        return [f"{url}=tcp://{HOST}:{self.kv + 2 * i + offset}" for i, url in enumerate(self.urls)]


@dataclass(slots=True)
class Running:
    """One program and its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def cpu_s(self) -> float:
        """Of it and of all that it started."""
        return sum(_cpu_s(pid) for pid in _tree(self.process.pid))

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip()

    def stop(self) -> None:
        """In order, or else by force."""
        family = _tree(self.process.pid)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in family[1:]:  # children of a router that did not end them
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


@dataclass(slots=True)
class Programs:
    """What runs. Left in any way, all of it is ended."""

    folder: Path
    running: list[Running] = field(default_factory=list)

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *exception: object) -> None:
        for each in reversed(self.running):
            each.stop()
        self.running.clear()

    def start(self, name: str, command: Sequence[str], ready_url: str) -> Running:
        """Returns when `ready_url` answers. A session of its own, so that Ctrl-C reaches only us and we end it in order."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, "RUST_LOG": "error"},
            )  # fmt: skip
        running = Running(name, process, log)
        self.running.append(running)
        deadline = time.monotonic() + START_S
        while not _answers(ready_url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DidNotStart(f"{name} does not serve: {running.said()}")
            time.sleep(0.05)
        return running


def emulator_command(ports: Ports, kv_blocks: int, time_scale: float) -> list[str]:
    """All engines in one process, which costs least."""
    fleet = ["--replicas", str(ports.engines), "--host", HOST, "--port", str(ports.first)]
    engine = ["--model", MODEL, "--gpu", GPU, "--tp", "2", "--kv-blocks", str(kv_blocks)]
    return [*OURS, "emulate", *engine, *fleet, "--kv-events-port", str(ports.kv), "--time-scale", str(time_scale)]


def gateway_command(ports: Ports, folder: Path, policy: str) -> list[str]:
    """Ours, as users run it: nothing set but addresses and, for the baseline, the policy."""
    endpoints = [{"url": url} for url in ports.urls]
    said = {
        "listen": f"{HOST}:{ports.router}",
        "control": f"{HOST}:{ports.control}",
        "pools": [{"endpoints": endpoints}],
    }
    path = folder / f"{policy or 'default'}.yaml"
    path.write_text(json.dumps(said | ({"policy": policy} if policy else {})))
    return [*OURS, "serve", "-c", str(path)]


def router_command(program: str, ports: Ports, policy: str) -> list[str]:
    """A Rust router with one of its policies and its own defaults for the rest."""
    launch = ["launch"] if program == "sglang-router" else []
    where = ["--host", HOST, "--port", str(ports.router), "--prometheus-port", str(ports.control)]
    events: list[str] = []
    if policy == "kv_aware":
        for option, offset in (("--kv-event-source", 0), ("--kv-event-replay-source", 1)):
            for source in ports.events(offset):
                events += [option, source]
        events += ["--kv-event-block-size", "16", "--kv-event-model", MODEL]
    binary = str(RIVALS / program / "bin" / program)
    return [binary, *launch, *where, "--worker-urls", *ports.urls, "--policy", policy, *events, "--log-level", "error"]


def missing(program: str) -> str:
    """Why a router cannot take part; empty if it can."""
    if (RIVALS / program / "bin" / program).exists():
        return ""
    folder = f".cache/rivals/{program}"
    return f"not installed: python3 -m venv {folder} && {folder}/bin/pip install {program}"


def asked(url: str) -> Any:
    """JSON from an address."""
    return json.loads(text_of(url))


def text_of(url: str) -> str:
    with build_opener(ProxyHandler({})).open(url, timeout=20) as answer:
        return str(answer.read().decode())


def engines_now(ports: Ports) -> dict[str, float]:
    """Sums over the engines since they started."""
    found: dict[str, float] = {}
    for url in ports.urls:
        for line in text_of(f"{url}/metrics").splitlines():
            for name in ("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total"):
                if line.startswith(f"vllm:{name}{{"):
                    found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
    for status in asked(f"{ports.urls[0]}/emulator"):
        for name in ("steps", "steps_late"):
            found[name] = found.get(name, 0.0) + status[name]
    return found


def grown(now: Mapping[str, float], before: Mapping[str, float], name: str) -> float:
    return now.get(name, 0.0) - before.get(name, 0.0)


def _answers(url: str) -> bool:
    try:
        text_of(url)
        return True
    except (URLError, OSError):
        return False


def _tree(pid: int) -> list[int]:
    """A process and its descendants, it first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                found += _tree(int(child))
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
