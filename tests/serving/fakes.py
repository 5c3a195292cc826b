"""A small world for the front door: steering and directory in memory, an engine of scripted bytes, a client of raw bytes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import uvloop

from pilothouse.core.commands import AnyCommand, Reject, RejectReason, Route, Why
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished, FirstToken
from pilothouse.core.units import EndpointId
from pilothouse.live.clock import Clock
from pilothouse.live.steering import Answer
from pilothouse.live.upstream import UpstreamLimits
from pilothouse.serving.front import FrontDoor
from pilothouse.serving.record import Record
from pilothouse.serving.settings import FrontSettings

T = TypeVar("T")
PATIENCE_S = 10.0  # a test that waits longer has failed
WHY = Why("test", [], [], 1)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs one test on the loop that production uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main, 30))


class FakeSteering:
    """Sends every request to the URLs given, one after the other on failures; keeps all events."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.events: list[Arrived | FirstToken | Finished | Failed | Cancelled] = []
        self.answers: dict[str, Answer] = {}
        self.hold = False  # True: answer nothing until told
        self.changed = asyncio.Event()

    def arrive(self, arrived: Arrived, answer: Answer) -> None:
        self._note(arrived)
        self.answers[arrived.request] = answer
        if not self.hold:
            self.route(arrived.request)

    def tell(self, event: FirstToken | Finished | Failed | Cancelled) -> None:
        self._note(event)
        if isinstance(event, Failed) and not event.sent:
            self.route(event.request)

    def route(self, request: str) -> None:
        """Answers with the next URL, or a refusal when all have been tried."""
        tried = sum(isinstance(e, Failed) and e.request == request for e in self.events)
        command: AnyCommand = Reject(request, RejectReason.RETRIES_EXHAUSTED)  # type: ignore[arg-type]
        if tried < len(self.urls):
            command = Route(request, EndpointId(f"engine-{tried}"), self.urls[tried], tried + 1, 7, WHY)  # type: ignore[arg-type]
        self.answers[request](command)

    def kinds(self) -> list[str]:
        """Names of the events so far."""
        return [type(event).__name__ for event in self.events]

    async def until(self, *kinds: str) -> None:
        """Waits for the events to be these."""
        async with asyncio.timeout(PATIENCE_S):
            while self.kinds() != list(kinds):
                self.changed.clear()
                await self.changed.wait()

    def _note(self, event: Arrived | FirstToken | Finished | Failed | Cancelled) -> None:
        self.events.append(event)
        self.changed.set()


class FakeDirectory:
    """One model, `m`; described by whatever is put into `describer`."""

    describer: Any = None

    def models(self) -> list[dict[str, Any]]:
        return [{"id": "m", "object": "model"}, {"id": "org/big", "object": "model"}]

    def default_model(self) -> str | None:
        return "m"

    def tokens(self, model: str) -> Any:
        return self.describer

    key: str | None = None

    def engine_key(self, model: str) -> str | None:
        return self.key

    def block_size(self, model: str) -> int:
        return 16


class World:
    """A front door with fakes around it."""

    def __init__(self, *urls: str, **settings: Any) -> None:
        self.steering, self.directory, self.records = FakeSteering(*urls), FakeDirectory(), list[Record]()
        self.directory.key = settings.pop("engine_key", None)
        limits: Any = UpstreamLimits(**settings.pop("upstream", {}))
        self.settings = FrontSettings(**{"timer_tick_us": 10_000, "upstream": limits, **settings})
        self.door = FrontDoor(
            self.settings, steering=self.steering, directory=self.directory, clock=Clock(), observe=self.records.append
        )
        self.port = 0
        self._clients: list[Client] = []

    async def __aenter__(self) -> "World":
        self.port = await self.door.start("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        await self.door.drain(0)
        await asyncio.gather(*(client.closed() for client in self._clients))

    async def client(self) -> "Client":
        """A fresh connection to the front door."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    async def ask(self, raw: bytes) -> "Reply":
        """One request on a connection of its own."""
        client = await self.client()
        client.send(raw)
        try:
            return await client.reply()
        finally:
            client.close()


class Reply:
    """An answer taken apart."""

    def __init__(self, status: int, fields: dict[str, str], body: bytes, whole: bool) -> None:
        self.status, self.fields, self.body, self.whole = status, fields, body, whole


class Client:
    """Raw bytes out, answers in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    def close(self) -> None:
        self.writer.close()

    def read_nothing(self) -> None:
        """Becomes a client that takes no byte."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        """And recovers."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def closed(self) -> None:
        """Waits until the socket is released."""
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def reply(self, *, bodiless: bool = False) -> Reply:
        """The next answer; `whole` is false if it was cut."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:-2])}
            status = int(lines[0].split(" ")[1])
            if bodiless or status in (204, 304):
                return Reply(status, fields, b"", True)
            try:
                return Reply(status, fields, await self._body(fields), True)
            except asyncio.IncompleteReadError as error:
                return Reply(status, fields, error.partial, False)

    async def is_closed(self) -> bool:
        """Waits for the end of the connection; False if bytes come instead."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def _body(self, fields: dict[str, str]) -> bytes:
        if "content-length" in fields:
            return await self.reader.readexactly(int(fields["content-length"]))
        if "transfer-encoding" not in fields:
            return await self.reader.read()
        body = b""
        try:
            while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
        except asyncio.IncompleteReadError:
            raise asyncio.IncompleteReadError(body, None) from None
        assert await self.reader.readexactly(2) == b"\r\n"
        return body


class EngineLink:
    """One connection that the scripted engine accepted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> tuple[str, dict[str, str], bytes]:
        """Reads one whole request: first line, fields, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:-2])}
        return head[0], fields, await self.reader.readexactly(int(fields.get("content-length", "0")))

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    def hang_up(self) -> None:
        self.writer.close()

    async def gone(self) -> None:
        """Waits until the other side has closed."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionResetError:
            return


Script = Callable[[EngineLink], Awaitable[None]]


class ScriptedEngine:
    """Runs `script` on each connection it accepts, and hangs up at its end."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ScriptedEngine":
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
        self.connections += 1
        try:
            await self._script(EngineLink(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


def post(body: bytes, path: str = "/v1/completions", more: str = "") -> bytes:
    """A plain request."""
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


UNARY = b'{"model":"m","prompt":"hi"}'
STREAM = b'{"model":"m","prompt":"hi","stream":true}'


def ok(body: bytes, more: str = "") -> bytes:
    """A unary answer."""
    head = f"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
