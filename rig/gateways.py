"""A real gateway process for tests and benchmarks: started on free ports, asked over its control address, ended by pid.

with Gateway.start(directory, fleet(a.url, b.url)) as gateway:
    ... gateway.url, gateway.status(), gateway.lines() ...
    assert gateway.stop() == 0
gateway.verified()
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self
from urllib.error import HTTPError
from urllib.request import urlopen

import yaml
from prometheus_client.parser import text_string_to_metric_families

from pilothouse import build
from pilothouse.journal.log import Entry, read, segments
from pilothouse.journal.replay import Verified, verify
from rig.engines import ROOT, free_port, wait_until

QUICK = {  # an engine's death, hang and return are noticed within about a second
    "health": {"every": "200ms", "timeout": "1s", "backoff": "200ms", "backoff_max": "1s"},
    "signals": {"scrape_every": "200ms"},
}
COMMAND = ("-m", "pilothouse.cli")


class GatewayDied(Exception):
    """A gateway ended before it was ready; carries what it said."""


def fleet(*urls: str, **more: Any) -> dict[str, Any]:
    """A configuration with these engines in one pool, named a, b, c ...; `more` are further top-level sections."""
    engines = [{"name": chr(ord("a") + i), "url": url} for i, url in enumerate(urls)]
    return QUICK | {"pools": [{"endpoints": engines}]} | more


@dataclass(slots=True)
class Gateway:
    """One gateway: where it answers, what it wrote, and the means to end it."""

    listen: str
    control: str
    directory: Path
    process: "subprocess.Popen[bytes]"
    _files: tuple[IO[bytes], IO[bytes]]

    @classmethod
    def start(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        *,
        env: Mapping[str, str] | None = None,
        command: tuple[str, ...] = COMMAND,
        wait: bool = True,
    ) -> Self:
        """Starts it and returns when both addresses answer. `command` is what Python runs in the program's place."""
        directory.mkdir(parents=True, exist_ok=True)
        ports = {"listen": f"127.0.0.1:{free_port()}", "control": f"127.0.0.1:{free_port()}"}
        whole = ports | {"journal": {"directory": str(directory / "journal")}} | dict(config)
        path = directory / "pilothouse.yaml"
        path.write_text(yaml.safe_dump(whole))
        files = ((directory / "requests.jsonl").open("wb"), (directory / "stderr").open("wb"))
        process = subprocess.Popen(
            [sys.executable, *command, "serve", "-c", str(path)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(directory), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=files[0],
            stderr=files[1],
            start_new_session=True,
        )
        gateway = cls(whole["listen"], whole["control"], directory, process, files)
        if wait and not wait_until(gateway._answers, 20):
            gateway.kill()
            raise GatewayDied(gateway.said())
        return gateway

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, as an orchestrator would send it; returns the exit status. Raises TimeoutExpired."""
        self.process.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float = 30) -> int:
        """Until it ends by itself; returns the exit status."""
        status = self.process.wait(timeout)
        for file in self._files:
            file.close()
        return status

    def kill(self) -> None:
        """Ends all its processes at once, if there are any."""
        for pid in [*self.children(), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.wait()

    def children(self) -> dict[int, str]:
        """Its child processes, and what each one is: picker or worker."""
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return {}
        return {int(pid): role for pid in pids if (role := _role(pid))}

    def role(self, role: str) -> list[int]:
        """The pids of its pickers or workers."""
        return [pid for pid, what in self.children().items() if what == role]

    # What it says

    def get(self, path: str) -> tuple[int, bytes]:
        """GET from the control address. Raises OSError."""
        try:
            with urlopen(f"http://{self.control}{path}", timeout=5) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status")[1])
        return found

    def endpoint(self, name: str) -> dict[str, Any]:
        """One endpoint's line of the status."""
        found: dict[str, Any] = next(e for e in self.status()["endpoints"] if e["endpoint"] == name)
        return found

    def states(self) -> str:
        """The endpoints' states in order, joined by spaces."""
        return " ".join(e["state"] for e in self.status()["endpoints"])

    def is_idle(self) -> bool:
        """No request anywhere, and nothing left in the ledger."""
        status = self.status()
        ledger = [(e["in_flight"], e["prefill_tokens"]) for e in status["endpoints"]]
        return status["requests_in_flight"] == status["requests_waiting"] == 0 and all(e == (0, 0) for e in ledger)

    def is_steering(self) -> bool:
        """Every engine is up and followed, and its model's prompts are described."""
        status = self.status()
        ready = all(
            e["state"] == "up" and (e["kv_feed"] or {"connected": True})["connected"] for e in status["endpoints"]
        )
        return bool(status["endpoints"] and status["models"]) and ready

    def metrics(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Sample name -> [(labels, value)]."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1].decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum of a metric over all samples with these labels."""
        samples = self.metrics().get(name, [])
        return sum(value for has, value in samples if labels.items() <= has.items())

    def lines(self) -> list[dict[str, Any]]:
        """The request log."""
        return [json.loads(line) for line in (self.directory / "requests.jsonl").read_bytes().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        """The request log without what the gateway answered itself, such as /health."""
        return [line for line in self.lines() if line["kind"] == "steered"]

    def said(self) -> str:
        """What it wrote for people."""
        return (self.directory / "stderr").read_text(errors="replace")

    # What it recorded

    def entries(self) -> Iterator[Entry]:
        """The journal's events and commands."""
        for path in segments(self.journal):
            segment = read(path)
            if segment is not None:
                yield from segment.entries

    def verified(self) -> Verified:
        """The journal through a fresh dispatcher."""
        return verify(self.journal, build.replayed_dispatcher)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise GatewayDied(self.said())
        try:
            with urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200 and self.get("/health")[0] == 200)
        except OSError:
            return False


def _role(pid: str) -> str:
    """Which of the supervisor's children a process is; empty for one that is gone, or not one of them."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return words[words.index("process") + 1] if "process" in words else ""
