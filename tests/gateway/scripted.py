"""An engine of scripted bytes for the faults that a real one cannot be brought to: vLLM's API, as far as we ask for it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Self

METRICS = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0"} 0.0
"""
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
GOOD = json.dumps({"id": "x", "object": "chat.completion", "choices": [], "usage": USAGE}).encode()
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Chat = Callable[[asyncio.StreamWriter], Awaitable[None]]  # writes an answer; the connection is closed after it


class Scripted:
    """Answers probes, scrapes and listings well, and each chat completion with `chat`."""

    def __init__(self, chat: Chat, model: str = "tiny") -> None:
        self.chat, self.model = chat, model
        self.asked = 0  # chat completions
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
            await reader.readexactly(int(lengths[0]) if lengths else 0)
            await self._answer(head.split(" ")[1], writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/chat/completions":
            self.asked += 1
            await self.chat(writer)
        elif path == "/v1/models":
            writer.write(ok(json.dumps({"data": [{"id": self.model}]}).encode()))
        elif path == "/metrics":
            writer.write(ok(METRICS))
        else:
            writer.write(ok(b"{}") if path == "/health" else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


def ok(body: bytes) -> bytes:
    """A unary answer."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def event(data: bytes) -> bytes:
    """One server-sent event in a chunk of its own."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def saying(raw: bytes) -> Chat:
    """The same bytes for everyone."""

    async def chat(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return chat


def after(seconds: float, raw: bytes) -> Chat:
    """The same bytes for everyone, but late: this engine's slowness, not a way to wait for something."""

    async def chat(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(raw)

    return chat
