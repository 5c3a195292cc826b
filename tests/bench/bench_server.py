"""A tiny server for the load generator, on the test's own loop: answers as scripted and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self

from pilothouse.live.clock import Clock

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Script = Callable[["Asked"], AsyncIterator[bytes]]  # bytes as they go out, head included
PROBES = 4  # requests of the probes of a chat run: options and three lengths


@dataclass(slots=True)
class Asked:
    """One request as it arrived."""

    at_us: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def words(self) -> int:
        """Of all messages, or of the prompt."""
        if "prompt" in self.body:
            prompt = self.body["prompt"]
            return len(prompt.split()) if isinstance(prompt, str) else len(prompt)
        return sum(len(message["content"].split()) for message in self.body["messages"])

    @property
    def is_probe(self) -> bool:
        return bool(self.body["max_tokens"] == 2)


class Server:
    """`async with Server(script) as server:` listens at `server.url`."""

    def __init__(self, script: Script, models: tuple[str, ...] = ("m",)) -> None:
        self.script, self.models = script, models
        self.asked: list[Asked] = []  # without probes
        self.probes: list[Asked] = []
        self.url = ""
        self._clock = Clock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = lines[0].split(" ")[1]
        if path == "/v1/models":
            listed = json.dumps({"data": [{"id": model} for model in self.models]}).encode()
            writer.write(plain(200, listed))
            return
        asked = Asked(self._clock.now_us(), path, headers, json.loads(body))
        (self.probes if asked.is_probe else self.asked).append(asked)
        async for part in self.script(asked):
            writer.write(part)
            await writer.drain()


def plain(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def event(data: bytes) -> bytes:
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def token(asked: Asked, text: str = "so", **more: Any) -> bytes:
    """One chunk of an answer."""
    choice = {"text": text} if "prompt" in asked.body else {"delta": {"content": text}}
    return event(json.dumps({"choices": [choice | more]}).encode())


def end(asked: Asked, output: int, cached: int = 0, template: int = 0) -> bytes:
    """The counts and the end. One token per word, and those of a template per message."""
    messages = len(asked.body.get("messages", ()))
    usage = {"prompt_tokens": asked.words + template * messages, "completion_tokens": output,
             "prompt_tokens_details": {"cached_tokens": cached}}  # fmt: skip
    return event(json.dumps({"choices": [], "usage": usage}).encode()) + event(b"[DONE]") + b"0\r\n\r\n"


async def whole(asked: Asked) -> AsyncIterator[bytes]:
    """As many tokens as asked for, at once."""
    yield HEAD
    count = asked.body["max_tokens"]
    for i in range(count):
        yield token(asked, f" w{i}", token_ids=[7000 + i])
    yield end(asked, count)
