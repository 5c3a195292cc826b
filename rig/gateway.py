"""The real gateway as a child process, in front of given engines: for benchmarks and whole-gateway tests.

with Gateway([engine.url for engine in engines], policy="round_robin") as gateway:
    ... gateway.url, gateway.control, gateway.status(), gateway.log_lines() ...
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from rig.engines import free_port

READY_S = 30


class Gateway:
    """`pilothouse serve` with a configuration of its own; everything it writes lies in `directory`."""

    def __init__(self, engine_urls: Sequence[str], directory: Path | None = None, **settings: Any) -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix="gateway-"))
        self.port, self.control_port = free_port(), free_port()
        self.url, self.control = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.control_port}"
        self.journal, self.log = self.directory / "journal", self.directory / "requests.log"
        self.config: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "control": f"127.0.0.1:{self.control_port}",
            "pools": [{"endpoints": [{"name": f"replica-{i}", "url": url} for i, url in enumerate(engine_urls)]}],
            "journal": {"directory": str(self.journal)},
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        path = self.directory / "pilothouse.json"  # JSON is YAML
        path.write_text(json.dumps(self.config))
        command = [sys.executable, "-m", "pilothouse.cli", "serve", "-c", str(path)]
        with open(self.log, "wb") as log, open(self.directory / "stderr.log", "wb") as errors:
            self.process = subprocess.Popen(command, stdout=log, stderr=errors)
        self.wait_until(self._is_ready, READY_S, "is not ready")
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Ends it and returns its exit status; kills it when it does not end in time."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def get(self, path: str) -> Any:
        """JSON from the control address."""
        with urlopen(self.control + path, timeout=10) as answer:
            return json.load(answer)

    def status(self) -> dict[str, Any]:
        return dict(self.get("/status"))

    def log_lines(self) -> list[dict[str, Any]]:
        """The request log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def errors(self) -> str:
        return (self.directory / "stderr.log").read_text()

    def wait_until(self, condition: Any, seconds: float, otherwise: str) -> None:
        """Polls `condition`; raises with the gateway's messages when time is up or it has ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise TimeoutError(f"the gateway {'ended' if ended else otherwise}:\n{self.errors()[-3000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """All engines are up, known and followed, and the first worker describes their model."""
        try:
            status = self.status()
        except (URLError, OSError, ValueError):
            return False
        feeds = [e["kv_feed"] for e in status["endpoints"]]
        return bool(
            status["endpoints"]
            and all(e["state"] == "up" for e in status["endpoints"])
            and all(feed is None or feed["connected"] for feed in feeds)
            and status["models"]
        )
