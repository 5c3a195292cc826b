"""A client of the OpenAI API that notices everything: how an answer ended, where it came from, what it cost."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Answer:
    """One answer, whole or not."""

    status: int = 0  # 0 = not even a head
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    broke: str = ""  # how the connection ended early; empty = as HTTP demands

    @property
    def endpoint(self) -> str:
        return self.headers.get("x-pilothouse-endpoint", "")

    @property
    def request(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def attempts(self) -> int:
        return int(self.headers.get("x-pilothouse-attempts", "1"))

    @property
    def expected(self) -> int:
        """Prompt tokens that the gateway expected to be cached."""
        return int(self.headers["x-pilothouse-cached-tokens"])

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """The data of a stream's events."""
        return [line.removeprefix("data: ") for line in self.body.decode().split("\n") if line.startswith("data: ")]

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object, of the whole answer or of a stream's event."""
        for text in self.events if self.is_stream else [self.body.decode()]:
            if '"error"' in text and "error" in (found := json.loads(text)):
                error: dict[str, Any] = found["error"]
                return error
        return None

    @property
    def is_good(self) -> bool:
        """A whole answer without an error in it."""
        if self.status != 200 or self.broke:
            return False
        return not self.is_stream or (self.events[-1:] == ["[DONE]"] and self.error is None)

    @property
    def usage(self) -> dict[str, Any]:
        """The engine's counts; a stream has them if it was asked for them."""
        if not self.is_stream:
            found: dict[str, Any] = self.json["usage"]
            return found
        return next(u for text in reversed(self.events[:-1]) if (u := json.loads(text).get("usage")))

    @property
    def cached(self) -> int:
        """Prompt tokens that the engine found in its cache."""
        return int(self.usage["prompt_tokens_details"]["cached_tokens"])


class Client:
    """Asks one server, each request on a connection of its own, so that a fault of one says nothing of another."""

    def __init__(self, url: str, model: str = "tiny", timeout: float = 60, receive_buffer: int = 0) -> None:
        """`receive_buffer` [bytes] is for a client that means to read slowly; 0 leaves it to the system."""
        self.url, self.model, self._receive_buffer = url, model, receive_buffer
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=self._socket),
            timeout=aiohttp.ClientTimeout(total=timeout),
            read_bufsize=receive_buffer or 65_536,
        )

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        if self._receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        return made

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def ask(
        self, prompt: str = "hello", *, path: str = CHAT, headers: Mapping[str, str] = {}, **more: Any
    ) -> Answer:
        """One request, to its end however bad."""
        answer = Answer()
        try:
            async with self._send(prompt, path, headers, more) as response:
                answer.status = response.status
                answer.headers = {name.lower(): value for name, value in response.headers.items()}
                async for part in response.content.iter_any():
                    answer.body += part
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            answer.broke = f"{type(error).__name__}: {error}"
        return answer

    @asynccontextmanager
    async def stream(
        self, prompt: str = "hello", *, headers: Mapping[str, str] = {}, **more: Any
    ) -> AsyncIterator["Stream"]:
        """A stream that has begun; leaving the block before its end hangs up."""
        async with self._send(prompt, CHAT, headers, {"stream": True, **more}) as response:
            stream = Stream(response)
            stream.answer.body = await response.content.readany()
            yield stream

    def _send(
        self, prompt: str, path: str, headers: Mapping[str, str], more: Mapping[str, Any]
    ) -> "aiohttp.client._RequestContextManager":
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8} | dict(more)
        if body.get("stream"):
            body = {"stream_options": {"include_usage": True}} | body
        if "max_tokens" in more:
            body = {"ignore_eos": True} | body
        return self._session.post(self.url + path, json=body, headers=dict(headers))


class Stream:
    """A stream under way."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        self.answer = Answer(response.status, headers)
        self._response = response

    @property
    def endpoint(self) -> str:
        return self.answer.endpoint

    async def more(self) -> bytes:
        """The next bytes; none at the end."""
        part = await self._response.content.readany()
        self.answer.body += part
        return part

    async def rest(self) -> Answer:
        """Reads on to the end, however bad."""
        try:
            while await self.more():
                pass
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.answer.broke = f"{type(error).__name__}: {error}"
        return self.answer

    def finish(self) -> "asyncio.Task[Answer]":
        """The same, in the background."""
        return asyncio.create_task(self.rest())
