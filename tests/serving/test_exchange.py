"""One request through the front door and a scripted engine: what the client, the steering and the record get."""

import asyncio
import json

import msgspec
import pytest

from pilothouse.core.commands import Abort, Reject, RejectReason
from pilothouse.core.events import Arrived, Failed, FailureKind, Finished
from pilothouse.core.units import EndpointId, RequestId
from tests.serving.fakes import (
    SSE_HEAD,
    STREAM,
    UNARY,
    EngineLink,
    Script,
    ScriptedEngine,
    World,
    chunk,
    ok,
    post,
    run,
)  # fmt: skip

USAGE = b'{"usage":{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}'


def always(raw: bytes) -> Script:
    """An engine that gives every request the same answer."""

    async def script(link: EngineLink) -> None:
        while True:
            await link.request()
            link.send(raw)

    return script


def then_hang_up(raw: bytes) -> Script:
    """An engine that answers once and closes."""

    async def script(link: EngineLink) -> None:
        await link.request()
        link.send(raw)

    return script


def test_unary_answer_passes_with_its_counts() -> None:
    async def main() -> None:
        async with (
            ScriptedEngine(always(ok(USAGE, "x-kv-secret: 1\r\nx-own: 2\r\n"))) as engine,
            World(engine.url) as world,
        ):
            reply = await world.ask(post(UNARY, more="x-request-id: mine\r\n"))
            assert (reply.status, reply.body) == (200, USAGE)
            assert "server" not in reply.fields and "x-kv-secret" not in reply.fields and reply.fields["x-own"] == "2"
            assert reply.fields["x-request-id"] == "mine"
            assert reply.fields["x-pilothouse-endpoint"] == "engine-0"
            assert reply.fields["x-pilothouse-cached-tokens"] == "7"
            await world.steering.until("Arrived", "Finished")
            done = world.steering.events[-1]
            assert isinstance(done, Finished)
            assert (done.prompt_tokens, done.cached_tokens, done.output_tokens) == (5, 4, 2)
            assert done.request.startswith("mine~")
            (record,) = world.records
            assert (record.status, record.outcome, record.attempts, record.chunks) == (200, "finished", 1, 1)

    run(main())


def test_engine_sees_a_head_of_ours() -> None:
    async def main() -> None:
        seen = []

        async def script(link: EngineLink) -> None:
            seen.append(await link.request())
            link.send(ok(b"{}"))

        async with ScriptedEngine(script) as engine, World(engine.url, client_keys={"k"}, engine_key="ek") as world:
            more = (
                "authorization: Bearer k\r\nx-data-parallel-rank: 3\r\nX-KV-Foo: 1\r\nconnection: close, x-hop\r\nx-hop: 1\r\n"
                "x_under: 1\r\ntraceparent: 00-1-2-00\r\nx-forwarded-for: 6.6.6.6\r\nx-vllm-priority: -9\r\ncookie: a=b\r\n"
                "endpoint-load-metrics-format: TEXT\r\nuser-agent: ua\r\nx-request-id: bad id\r\n"
            )
            assert (await world.ask(post(UNARY, "/v1/completions?x=1", more))).status == 200
            line, fields, body = seen[0]
            assert (line, body) == ("POST /v1/completions HTTP/1.1", UNARY)
            assert fields["authorization"] == "Bearer ek" and fields["x-forwarded-for"] == "127.0.0.1"
            assert fields["traceparent"] == "00-1-2-00" and fields["user-agent"] == "ua"
            assert fields["x-request-id"] == world.steering.events[0].request
            assert set(fields) == {
                "host", "authorization", "content-type", "content-length", "traceparent", "user-agent", "x-request-id",
                "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host",
            }  # fmt: skip

    run(main())


def test_stream_passes_chunk_by_chunk() -> None:
    async def main() -> None:
        events = [b'data: {"a":%d}\n\n' % i for i in range(3)] + [b"data: " + USAGE + b"\n\n", b"data: [DONE]\n\n"]
        raw = SSE_HEAD + b"".join(map(chunk, events)) + b"0\r\n\r\n"
        async with ScriptedEngine(always(raw)) as engine, World(engine.url) as world:
            client = await world.client()
            for _ in range(2):
                client.send(post(STREAM))
                reply = await client.reply()
                assert (reply.status, reply.body) == (200, b"".join(events))
            client.close()
            await world.steering.until(*["Arrived", "FirstToken", "Finished"] * 2)
            assert engine.connections == 1
            done = world.steering.events[-1]
            assert isinstance(done, Finished) and done.output_tokens == 2

    run(main())


def test_stream_without_usage_counts_events() -> None:
    async def main() -> None:
        raw = SSE_HEAD + chunk(b"data: 1\n") + chunk(b"\ndata: 2\n\nda") + chunk(b"ta: [DONE]\n\n") + b"0\r\n\r\n"
        async with ScriptedEngine(always(raw)) as engine, World(engine.url) as world:
            assert (await world.ask(post(STREAM))).body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
            await world.steering.until("Arrived", "FirstToken", "Finished")
            assert world.records[0].output_tokens == 2

    run(main())


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", FailureKind.CLOSED),
        (b"HTTP/1.1 200 OK\r\ncontent-le", FailureKind.BROKEN),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", FailureKind.BROKEN),
        (SSE_HEAD, FailureKind.BROKEN),
        (b"220 smtp ready\r\n", FailureKind.GARBAGE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", FailureKind.GARBAGE),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nxx", FailureKind.GARBAGE),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000, FailureKind.GARBAGE),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello", FailureKind.GARBAGE),
        (b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", FailureKind.GARBAGE),
        (SSE_HEAD + b"zz\r\n", FailureKind.GARBAGE),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops", FailureKind.ERROR),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", FailureKind.BUSY),
        (b"HTTP/1.1 429 Busy\r\ncontent-length: 0\r\n\r\n", FailureKind.BUSY),
    ],
)
def test_failure_before_the_first_byte_is_tried_elsewhere(raw: bytes, kind: FailureKind) -> None:
    async def main() -> None:
        async with (
            ScriptedEngine(then_hang_up(raw)) as bad,
            ScriptedEngine(always(ok(b"{}"))) as good,
            World(bad.url, good.url) as world,
        ):
            reply = await world.ask(post(UNARY))
            assert (reply.status, reply.fields["x-pilothouse-attempts"]) == (200, "2")
            await world.steering.until("Arrived", "Failed", "Finished")
            failed = world.steering.events[1]
            assert isinstance(failed, Failed) and (failed.kind, failed.sent) == (kind, False)

    run(main())


def test_no_engine_there_is_a_connect_failure() -> None:
    async def main() -> None:
        async with World("http://127.0.0.1:1") as world:
            reply = await world.ask(post(UNARY))
            assert (reply.status, json.loads(reply.body)["error"]["code"]) == (502, "engine_failed")
            assert world.steering.kinds() == ["Arrived", "Failed"]
            assert (world.records[0].outcome, world.records[0].status) == ("refused", 502)

    run(main())


def test_client_error_of_the_engine_passes_as_it_is() -> None:
    async def main() -> None:
        raw = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n" + b'{"e": 1} '
        async with ScriptedEngine(always(raw)) as engine, World(engine.url) as world:
            reply = await world.ask(post(STREAM))
            assert (reply.status, reply.body) == (400, b'{"e": 1} ')
            await world.steering.until("Arrived", "Finished")

    run(main())


@pytest.mark.parametrize("half", [b"", b"data: {"])
def test_stream_that_breaks_off_ends_with_an_error_event(half: bytes) -> None:
    async def main() -> None:
        raw = SSE_HEAD + chunk(b"data: 1\n\n") + (chunk(half) if half else b"")
        async with ScriptedEngine(then_hang_up(raw)) as engine, World(engine.url) as world:
            reply = await world.ask(post(STREAM))
            assert reply.whole and reply.status == 200
            blank = b"\n\n" if half else b""
            start, error, done = reply.body.removeprefix(b"data: 1\n\n" + half + blank).partition(b"data: [DONE]\n\n")
            assert json.loads(start.removeprefix(b"data: "))["error"]["code"] == "engine_broke_off"
            assert (error, done) == (b"data: [DONE]\n\n", b"")
            await world.steering.until("Arrived", "FirstToken", "Failed")
            assert world.steering.events[-1].sent  # type: ignore[union-attr]

    run(main())


def test_unary_answer_that_breaks_off_is_cut() -> None:
    async def main() -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf"
        async with ScriptedEngine(then_hang_up(raw)) as engine, World(engine.url) as world:
            reply = await world.ask(post(UNARY))
            assert (reply.status, reply.body, reply.whole) == (200, b"half", False)
            await world.steering.until("Arrived", "Failed")

    run(main())


def test_answer_that_ends_with_the_connection_is_chunked() -> None:
    async def main() -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it"
        async with ScriptedEngine(then_hang_up(raw)) as engine, World(engine.url) as world:
            reply = await world.ask(post(UNARY))
            assert (reply.body, reply.whole, reply.fields["transfer-encoding"]) == (b"all of it", True, "chunked")

    run(main())


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=1\r\nhi\r\n0\r\nx-t: 1\r\n\r\n", 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n", 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
    ],
)
def test_odd_but_good_answers(raw: bytes, status: int, body: bytes) -> None:
    async def main() -> None:
        async with ScriptedEngine(always(raw)) as engine, World(engine.url) as world:
            client = await world.client()
            for _ in range(2):  # the connection, or a new one, serves the next request as well
                client.send(post(UNARY))
                reply = await client.reply()
                assert (reply.status, reply.body) == (status, body)
            client.close()

    run(main())


def test_idle_connection_closed_by_the_engine_costs_no_failure() -> None:
    async def main() -> None:
        async def script(link: EngineLink) -> None:
            await link.request()
            link.send(ok(b"{}"))
            await link.request()  # the second request on this connection meets a closing engine

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            client = await world.client()
            for _ in range(3):
                client.send(post(UNARY))
                assert (await client.reply()).status == 200
            assert set(world.steering.kinds()) == {"Arrived", "Finished"}
            assert engine.connections == 3
            client.close()

    run(main())


def test_early_answer_does_not_reuse_the_connection() -> None:
    async def main() -> None:
        async def script(link: EngineLink) -> None:
            await link.reader.readuntil(b"\r\n\r\n")
            link.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
            await link.gone()

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            body = msgspec.json.encode({"model": "m", "prompt": "x" * 20_000_000})
            for count in (1, 2):
                reply = await world.ask(post(body))
                assert (reply.status, reply.body, engine.connections) == (413, b"no", count)

    run(main())


@pytest.mark.parametrize("part", ["waiting", "silent", "streaming"])
def test_client_that_leaves_stops_the_engine(part: str) -> None:
    async def main() -> None:
        gone = asyncio.Event()
        asked = asyncio.Event()

        async def script(link: EngineLink) -> None:
            await link.request()
            asked.set()
            if part == "streaming":
                link.send(SSE_HEAD + chunk(b"data: 1\n\n"))
            await link.gone()
            gone.set()

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            world.steering.hold = part == "waiting"
            client = await world.client()
            client.send(post(STREAM))
            if part == "waiting":
                await world.steering.until("Arrived")
            elif part == "silent":
                await asked.wait()
            else:
                await client.reader.readuntil(b"data: 1")
            client.close()
            await world.steering.until("Arrived", *["FirstToken"] * (part == "streaming"), "Cancelled")
            if part != "waiting":
                await asyncio.wait_for(gone.wait(), 5)
            assert (world.records[0].status, world.records[0].outcome) == (499, "cancelled")

    run(main())


def test_half_closed_client_is_served_where_that_is_configured() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def script(link: EngineLink) -> None:
            await link.request()
            await release.wait()
            link.send(ok(b"{}"))

        async with ScriptedEngine(script) as engine, World(engine.url, serve_half_closed=True) as world:
            client = await world.client()
            client.send(post(UNARY))
            await world.steering.until("Arrived")
            client.writer.write_eof()
            release.set()
            assert (await client.reply()).status == 200
            assert await client.is_closed()
            client.close()

    run(main())


def test_slow_client_stops_the_reading_of_its_engine() -> None:
    async def main() -> None:
        sent = 0

        async def script(link: EngineLink) -> None:
            nonlocal sent
            await link.request()
            link.send(SSE_HEAD)
            piece = chunk(b"data: " + b"x" * 60_000 + b"\n\n")
            while True:
                link.send(piece)
                await link.writer.drain()
                sent += len(piece)

        async with ScriptedEngine(script) as engine, World(engine.url, stall_timeout_us=300_000) as world:
            client = await world.client()
            client.read_nothing()
            client.send(post(STREAM))
            await world.steering.until("Arrived", "FirstToken", "Cancelled")  # the stall time-out
            assert sent < 30_000_000  # what the kernel's buffers hold, not what an engine can make
            client.close()

    run(main())


@pytest.mark.parametrize(
    ("limit", "raw", "expected"),
    [
        ("first_byte_timeout_us", b"", ["Arrived", "Failed"]),
        ("idle_timeout_us", SSE_HEAD + chunk(b"data: 1\n\n"), ["Arrived", "FirstToken", "Failed"]),
        ("total_timeout_us", SSE_HEAD + chunk(b"data: 1\n\n"), ["Arrived", "FirstToken", "Failed"]),
    ],
)
def test_engine_that_takes_too_long(limit: str, raw: bytes, expected: list[str]) -> None:
    async def main() -> None:
        async def script(link: EngineLink) -> None:
            await link.request()
            link.send(raw)
            await link.gone()

        async with ScriptedEngine(script) as engine, World(engine.url, upstream={limit: 50_000}) as world:
            reply = await world.ask(post(STREAM))
            assert reply.status == (502 if not raw else 200)
            assert world.steering.kinds() == expected
            assert world.steering.events[-1].kind is FailureKind.TIMEOUT  # type: ignore[union-attr]

    run(main())


def test_abort_gives_the_attempt_up_and_the_next_engine_answers() -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def hang(link: EngineLink) -> None:
            await link.request()
            asked.set()
            await link.gone()

        async with (
            ScriptedEngine(hang) as bad,
            ScriptedEngine(always(ok(b"{}"))) as good,
            World(bad.url, good.url) as world,
        ):
            client = await world.client()
            client.send(post(UNARY))
            await asked.wait()
            request = world.steering.events[0].request
            world.steering.answers[request](Abort(request, EndpointId("engine-0")))
            assert (await client.reply()).status == 200
            assert world.steering.kinds() == ["Arrived", "Failed", "Finished"]
            client.close()

    run(main())


def test_refusal_of_the_steering_names_reason_and_time() -> None:
    async def main() -> None:
        async with World() as world:
            world.steering.hold = True
            client = await world.client()
            client.send(post(UNARY))
            await world.steering.until("Arrived")
            request = RequestId(world.steering.events[0].request)
            world.steering.answers[request](Reject(request, RejectReason.BUSY, 2_500_000))  # type: ignore[arg-type]
            reply = await client.reply()
            assert (reply.status, reply.fields["retry-after"]) == (429, "3")
            assert world.steering.kinds() == ["Arrived"]
            client.close()

    run(main())


class SlowDescriber:
    """Describes in its own time."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    def describe(self, route: str, body: dict[str, object]) -> None:
        return None

    async def describe_slowly(self, route: str, body: dict[str, object]) -> object:
        await self.release.wait()
        return type("P", (), {"tokens": 9, "blocks": [1, 2], "mode": "exact", "note": ""})()


def test_slow_description_and_a_client_that_leaves_during_it() -> None:
    async def main() -> None:
        async with ScriptedEngine(always(ok(b"{}"))) as engine, World(engine.url) as world:
            world.directory.describer = describer = SlowDescriber()
            left = await world.client()
            left.send(post(UNARY))
            stayed = await world.client()
            stayed.send(post(UNARY, more="x-session-id: s\r\n"))
            while len(world.door.plane.tasks) < 2:
                await asyncio.sleep(0)
            left.close()
            while not world.records:
                await asyncio.sleep(0)
            assert world.records[0].outcome == "cancelled" and not world.steering.events
            describer.release.set()
            assert (await stayed.reply()).status == 200
            arrived = world.steering.events[0]
            assert isinstance(arrived, Arrived)
            assert (arrived.prompt_tokens, arrived.blocks, arrived.block_size) == (9, [1, 2], 16)
            assert arrived.session != 0
            stayed.close()

    run(main())


def test_stored_response_is_asked_of_the_engine_that_made_it() -> None:
    async def main() -> None:
        async with ScriptedEngine(always(ok(b'{"id":"resp_1"}'))) as engine, World(engine.url) as world:
            unknown = b"GET /v1/responses/resp_1 HTTP/1.1\r\nhost: a\r\n\r\n"
            assert (await world.ask(unknown)).status == 404
            assert (await world.ask(post(b'{"model":"m","input":"x"}', "/v1/responses"))).status == 200
            assert (await world.ask(unknown)).status == 200
            assert world.steering.events[-2].pinned == "engine-0"  # type: ignore[union-attr]
            more = b'{"model":"m","input":"x","previous_response_id":"resp_%d"}'
            assert (await world.ask(post(more % 1, "/v1/responses"))).status == 200
            assert world.steering.events[-2].pinned == "engine-0"  # type: ignore[union-attr]
            assert (await world.ask(post(more % 2, "/v1/responses"))).status == 404
            assert (await world.ask(unknown.replace(b"GET", b"DELETE"))).status == 200
            assert (await world.ask(unknown)).status == 404

    run(main())


class BrokenDescriber:
    """Has a bug."""

    def describe(self, route: str, body: dict[str, object]) -> None:
        raise RuntimeError("a bug")


def test_a_bug_costs_one_request_and_is_reported() -> None:
    async def main() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with ScriptedEngine(always(ok(b"{}"))) as engine, World(engine.url) as world:
            world.directory.describer = BrokenDescriber()
            client = await world.client()
            client.send(post(UNARY))
            assert (await client.reply()).status == 500
            assert [str(error) for error in reported] == ["a bug"]
            world.directory.describer = None
            client.send(post(UNARY))
            assert (await client.reply()).status == 200

    run(main())


def test_a_bug_in_the_middle_of_an_answer_cuts_it() -> None:
    async def main() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        async with ScriptedEngine(always(SSE_HEAD + chunk(b"data: 1\n\n"))) as engine, World(engine.url) as world:
            told = world.steering.tell

            def tell(event: object) -> None:
                if type(event).__name__ == "FirstToken":
                    raise RuntimeError("a bug")
                told(event)  # type: ignore[arg-type]

            world.steering.tell = tell  # type: ignore[method-assign]
            reply = await world.ask(post(STREAM))
            assert not reply.whole and len(reported) == 1
            assert world.steering.kinds() == ["Arrived", "Failed"]

    run(main())
