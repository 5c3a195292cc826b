"""A prefill and a decode engine of scripted answers, and a steering that splits every request between them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pilothouse.core.commands import AnyCommand, PrefillStep, Reject, RejectReason, Route
from pilothouse.core.events import Failed
from pilothouse.core.units import EndpointId
from pilothouse.serving.settings import ConnectorSettings
from tests.serving.fakes import SSE_HEAD, WHY, EngineLink, ScriptedEngine, World, chunk, ok

Body = dict[str, Any]
USAGE = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
EVENTS = b"data: " + json.dumps({"usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
STREAMED = SSE_HEAD + chunk(EVENTS) + b"0\r\n\r\n"
WHOLE = json.dumps({"answer": "whole", "usage": USAGE}).encode()
HANG, HANG_UP = b"<hang>", b"<hang up>"  # what an engine does after what it has sent


class Got:
    """One request that an engine received."""

    def __init__(self, line: str, fields: dict[str, str], raw: bytes, link: int) -> None:
        self.path, self.fields, self.raw, self.link = line.split(" ")[1], fields, raw, link
        self.body: Body = json.loads(raw) if raw else {}
        self.name = fields.get("x-request-id", "")


Answering = Callable[[Got], bytes]


class Side:
    """One engine: `answering` says what it sends for what it got; keeps all it got, and counts whom it lost."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.got: list[Got] = []
        self.lost = 0
        self.changed = asyncio.Event()
        self.engine = ScriptedEngine(self._serve)

    async def until(self, condition: Callable[["Side"], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

    async def _serve(self, link: EngineLink) -> None:
        number = self.engine.connections
        while True:
            got = Got(*await link.request(), number)
            self.got.append(got)
            self.changed.set()
            raw = self.answering(got)
            if raw.endswith(HANG_UP):
                link.send(raw[: -len(HANG_UP)])
                return
            if raw.endswith(HANG):
                link.send(raw[: -len(HANG)])
                await link.gone()
                self.lost += 1
                self.changed.set()
                return
            link.send(raw)


def prefilled(got: Got) -> bytes:
    """What vLLM answers to a prefill step over NIXL."""
    parameters = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [[1, 2]],
        "remote_engine_id": "e",
        "remote_request_id": f"cmpl-{got.name}-0-81d8c8d2",
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
        "tp_size": 1,
        "remote_num_tokens": 5,
    }
    return prefill_answer(parameters)


def prefill_answer(parameters: Body | None, end: str | None = "length", usage: Body | None = None) -> bytes:
    body = {"choices": [{"finish_reason": end}], "usage": usage or USAGE, "kv_transfer_params": parameters}
    return ok(json.dumps(body).encode())


def changed(**more: Any) -> Answering:
    """The same with other parameters; None takes one out."""

    def answering(got: Got) -> bytes:
        body: Body = json.loads(prefilled(got).partition(b"\r\n\r\n")[2])
        parameters = body["kv_transfer_params"] | more
        return prefill_answer({name: value for name, value in parameters.items() if value is not None})

    return answering


def decoded(got: Got) -> bytes:
    return STREAMED if got.body.get("stream") else ok(WHOLE)


class Pair:
    """The world of a test."""

    def __init__(self, world: World, prefill: Side, decode: Side) -> None:
        self.world, self.prefill, self.decode = world, prefill, decode
        self.splits = 1  # attempts that are split; those after them are whole

    def route(self, request: str) -> None:
        """In the place of the steering's own."""
        steering = self.world.steering
        tried = sum(isinstance(e, Failed) and e.request == request for e in steering.events)
        command: AnyCommand = Reject(request, RejectReason.RETRIES_EXHAUSTED)  # type: ignore[arg-type]
        if tried <= self.splits:
            step = PrefillStep(EndpointId("prefill-0"), self.prefill.engine.url, "nixl", 0, WHY)
            command = Route(
                request,  # type: ignore[arg-type]
                EndpointId("decode-0"),
                self.decode.engine.url,
                tried + 1,
                7,
                WHY,
                step if tried < self.splits else None,
            )
        steering.answers[request](command)

    def failures(self) -> list[tuple[str, bool]]:
        """(kind, whether it was the prefill's) of each failed attempt."""
        return [(e.kind.value, e.prefill) for e in self.world.steering.events if isinstance(e, Failed)]


@asynccontextmanager
async def pairing(
    prefill: Answering = prefilled, decode: Answering = decoded, kind: str = "nixl", lease_us: int = 30_000_000
) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        sides = [Side(prefill), Side(decode)]
        for side in sides:
            await stack.enter_async_context(side.engine)
        port = int(sides[0].engine.url.rpartition(":")[2])
        connector = ConnectorSettings(kind=kind, lease_us=lease_us, port=port)
        world = await stack.enter_async_context(World(connectors={"nixl": connector}))
        pair = Pair(world, *sides)
        world.steering.route = pair.route  # type: ignore[method-assign]
        yield pair
