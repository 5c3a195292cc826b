"""Emulated engines in a thread, and a client that asks an emulated and a real engine alike."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from pilothouse.emulate.emulator import Emulator
from pilothouse.emulate.server import emulators
from pilothouse.emulate.settings import Wanted, settle

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
FAST = 200.0  # a step of 20 ms takes 0.1


@contextmanager
def emulated(cache: Path, replicas: int = 1, *, port: int = 0, **more: Any) -> Iterator["list[Api]"]:
    """Engines that listen inside the block."""
    options = {"model": "qwen3-32b", "gpu": "h100", "tp": 2, "served_name": "tiny", "time_scale": FAST} | more
    settings = settle(Wanted(**options))
    ready, stopped = threading.Event(), asyncio.Event()
    held: dict[str, Any] = {}

    async def run() -> None:
        async with emulators(settings, replicas, port=port, cache=cache) as running:
            held["loop"], held["running"] = asyncio.get_running_loop(), running
            ready.set()
            await stopped.wait()

    def work() -> None:
        try:
            uvloop.run(run())
        except BaseException as error:
            held["error"] = error
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        assert "error" not in held, held["error"]
        yield [Api(f"http://127.0.0.1:{each.port}", each) for each in held["running"]]
    finally:
        held["loop"].call_soon_threadsafe(stopped.set)
        thread.join()


class Api:
    """One engine's HTTP, a connection for each request."""

    def __init__(self, url: str, emulator: Emulator | None = None) -> None:
        self.url, self.emulator = url, emulator
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 0)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=60)) as connection:
            connection.request(method, path, body, {"content-type": "application/json"} | headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}

    def get(self, path: str) -> Any:
        status, body, _ = self.ask("GET", path)
        assert status == 200, (status, body)
        return json.loads(body)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer, _ = self.ask("POST", path, data, **headers)
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, answer.decode()

    def chat(self, text: str, **more: Any) -> dict[str, Any]:
        """A whole answer."""
        return self.answered(CHAT, chat(text, **more))

    def complete(self, prompt: Any, **more: Any) -> dict[str, Any]:
        return self.answered(COMPLETIONS, {"model": "tiny", "prompt": prompt, "max_tokens": 4} | more)

    def answered(self, path: str, body: Any) -> dict[str, Any]:
        status, answer = self.post(path, body)
        assert status == 200, answer
        assert isinstance(answer, dict)
        return answer

    def events(self, path: str, body: dict[str, Any]) -> list[str]:
        """The data of a stream's events."""
        status, raw, headers = self.ask("POST", path, json.dumps(body | {"stream": True}).encode())
        assert status == 200 and headers["content-type"].startswith("text/event-stream"), raw
        parts = raw.decode().split("\n\n")
        assert parts[-1] == "" and all(part.startswith("data: ") for part in parts[:-1])
        return [part.removeprefix("data: ") for part in parts[:-1]]

    def metrics(self) -> str:
        status, body, _ = self.ask("GET", "/metrics")
        assert status == 200
        return body.decode()

    def value(self, name: str, **labels: str) -> float:
        """Sum over the samples with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.metrics().splitlines() if line.partition("{")[0] == f"vllm:{name}"]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in wanted))


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 4} | more
