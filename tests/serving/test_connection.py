"""The client's side of a connection: order, limits, time-outs, bodies in every framing, drains."""

import asyncio
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.fakes import STREAM, UNARY, EngineLink, ScriptedEngine, World, chunk, ok, post, run

GET_MODELS = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
CHUNKED_HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
)


async def echo(link: EngineLink) -> None:
    """Answers every request with its own body."""
    while True:
        _, _, body = await link.request()
        link.send(ok(body))


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> None:
        async with ScriptedEngine(echo) as engine, World(engine.url) as world:
            client = await world.client()
            bodies = [b'{"model":"m","prompt":"%d"}' % i for i in range(20)]
            client.send(b"".join(map(post, bodies)) + GET_MODELS + post(bodies[0]))
            assert [(await client.reply()).body for _ in bodies] == bodies
            assert json.loads((await client.reply()).body)["object"] == "list"
            assert (await client.reply()).body == bodies[0]

    run(main())


def test_reading_stops_when_too_much_is_sent_ahead() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def script(link: EngineLink) -> None:
            await link.request()
            await release.wait()
            link.send(ok(b"{}"))
            await echo(link)

        async with ScriptedEngine(script) as engine, World(engine.url, pipelined_bytes_max=10_000) as world:
            client = await world.client()
            client.send(post(UNARY))
            await world.steering.until("Arrived")
            body = b'{"model":"m","prompt":"%b"}' % (b"x" * 20_000_000)
            client.send(post(body))
            (connection,) = world.door.plane.connections
            while not connection._read_paused:
                await asyncio.sleep(0)
            assert len(connection._held) < 1_000_000
            release.set()
            assert (await client.reply()).status == 200
            assert (await client.reply()).body == body

    run(main())


def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    async def main() -> None:
        async with World() as world:
            client = await world.client()
            client.read_nothing()
            client.send(GET_MODELS * 100_000)
            while not world.door.plane.connections:
                await asyncio.sleep(0)
            (connection,) = world.door.plane.connections
            while not connection.is_write_paused:
                await asyncio.sleep(0)
            assert connection._transport.get_write_buffer_size() < 1_000_000
            client.read_on()
            for _ in range(1_000):
                assert (await client.reply()).status == 200

    run(main())


def test_expectation_is_met_before_the_body() -> None:
    async def main() -> None:
        async with ScriptedEngine(echo) as engine, World(engine.url) as world:
            client = await world.client()
            client.send(post(UNARY, more="expect: 100-continue\r\n")[: -len(UNARY)])
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(UNARY)
            assert (await client.reply()).body == UNARY

    run(main())


def test_chunked_body_with_extensions_and_trailers() -> None:
    async def main() -> None:
        async with ScriptedEngine(echo) as engine, World(engine.url) as world:
            raw = b"5;a=b\r\n" + UNARY[:5] + b"\r\n" + chunk(UNARY[5:]) + b"0\r\nx-t: 1\r\ncontent-length: 9\r\n\r\n"
            client = await world.client()
            for _ in range(2):
                client.send(CHUNKED_HEAD + raw)
                assert (await client.reply()).body == UNARY

    run(main())


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_body_that_is_too_large(framing: str) -> None:
    async def main() -> None:
        async with World(body_bytes_max=1_000) as world:
            raw = post(b"x" * 2_000) if framing == "length" else CHUNKED_HEAD + chunk(b"x" * 600) + chunk(b"x" * 600)
            client = await world.client()
            client.send(raw)
            assert (await client.reply()).status == 413
            assert await client.is_closed()

    run(main())


def test_bodies_together_are_bounded() -> None:
    async def main() -> None:
        async with World(bodies_bytes_max=1_500) as world:
            first, second = await world.client(), await world.client()
            first.send(post(b"x" * 1_000)[:-1])
            while not world.door.plane.arriving_bytes:
                await asyncio.sleep(0)
            second.send(post(b"x" * 1_000)[:-1])
            assert (await second.reply()).status == 503
            first.close()
            while world.door.plane.arriving_bytes:
                await asyncio.sleep(0)

    run(main())


def test_http_1_0_client_gets_one_answer_without_chunks() -> None:
    async def main() -> None:
        async def script(link: EngineLink) -> None:
            await link.request()
            link.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"hi") + b"0\r\n\r\n")
            await link.gone()

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            reply = await world.ask(post(UNARY).replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert (reply.body, reply.fields["connection"]) == (b"hi", "close")
            assert "transfer-encoding" not in reply.fields

    run(main())


@pytest.mark.parametrize(
    ("limit", "sent", "status"),
    [
        ("head_timeout_us", b"POST /v1/comp", 408),
        ("head_timeout_us", b"", None),
        ("body_timeout_us", post(UNARY)[:-3], 408),
        ("body_total_timeout_us", post(UNARY)[:-3], 408),
        ("idle_timeout_us", GET_MODELS, 200),
    ],
)
def test_client_that_is_too_slow(limit: str, sent: bytes, status: int | None) -> None:
    async def main() -> None:
        async with World(**{limit: 30_000}) as world:
            client = await world.client()
            client.send(sent)
            if status is not None:
                assert (await client.reply()).status == status
            assert await client.is_closed()

    run(main())


def test_head_that_comes_byte_by_byte_is_timed_from_its_first() -> None:
    async def main() -> None:
        async with World(head_timeout_us=100_000) as world:
            client = await world.client()
            client.send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx: ")
            reply = asyncio.ensure_future(client.reply())
            while not reply.done():
                client.send(b"a")
                await asyncio.sleep(0.005)
            assert (await reply).status == 408

    run(main())


def test_too_many_connections() -> None:
    async def main() -> None:
        async with World(connections_max=1) as world:
            first = await world.client()
            first.send(GET_MODELS)
            assert (await first.reply()).status == 200
            assert (await world.ask(b"")).status == 503
            first.send(GET_MODELS)
            assert (await first.reply()).status == 200

    run(main())


def test_drain_lets_requests_end_and_closes_the_idle() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def script(link: EngineLink) -> None:
            await link.request()
            await release.wait()
            link.send(ok(b"{}"))
            await link.gone()

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            idle, busy = await world.client(), await world.client()
            idle.send(GET_MODELS)
            assert (await idle.reply()).status == 200
            busy.send(post(UNARY))
            await world.steering.until("Arrived")
            drain = asyncio.ensure_future(world.door.drain(5))
            assert await idle.is_closed()
            release.set()
            reply = await busy.reply()
            assert (reply.status, reply.fields["connection"]) == (200, "close")
            assert await busy.is_closed() and await drain
            with pytest.raises(OSError, match=r"onnect"):
                await world.client()

    run(main())


def test_drain_ends_what_takes_too_long() -> None:
    async def main() -> None:
        async def script(link: EngineLink) -> None:
            await link.request()
            await link.gone()

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            client = await world.client()
            client.send(post(UNARY))
            await world.steering.until("Arrived")
            assert not await world.door.drain(0.01)
            assert world.steering.kinds() == ["Arrived", "Cancelled"]

    run(main())


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n", 200, {"status": "ok"}),
        (b"GET /v1/models/org/big HTTP/1.1\r\nhost: a\r\n\r\n", 200, {"id": "org/big", "object": "model"}),
        (b"GET /v1/models/org%2Fbig HTTP/1.1\r\nhost: a\r\n\r\n", 200, {"id": "org/big", "object": "model"}),
        (b"GET /v1/models/none HTTP/1.1\r\nhost: a\r\n\r\n", 404, None),
        (b"GET /v1/completions HTTP/1.1\r\nhost: a\r\n\r\n", 405, None),
        (b"OPTIONS /v1/completions HTTP/1.1\r\nhost: a\r\n\r\n", 204, None),
        (post(b"{}"), 400, None),
        (post(b"[]"), 400, None),
        (post(b'{"model":1}'), 400, None),
        (post(UNARY).replace(b"application/json", b"text/plain"), 415, None),
        (post(UNARY, more="content-encoding: gzip\r\n"), 415, None),
    ],
)
def test_answers_of_our_own(raw: bytes, status: int, body: object) -> None:
    async def main() -> None:
        async with World() as world:
            client = await world.client()
            client.send(raw)
            reply = await client.reply()
            assert reply.status == status
            assert body is None or json.loads(reply.body) == body
            assert len(world.records) == 1

    run(main())


def test_head_request_has_no_body_and_keeps_the_connection() -> None:
    async def main() -> None:
        async with World() as world:
            client = await world.client()
            client.send(GET_MODELS.replace(b"GET", b"HEAD") + GET_MODELS)
            head = await client.reply(bodiless=True)
            full = await client.reply()
            assert int(head.fields["content-length"]) == len(full.body)

    run(main())


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("", 401),
        ("authorization: Bearer wrong\r\n", 401),
        ("authorization: Basic key\r\n", 401),
        ("authorization: Bearer key\r\n", 200),
        ("authorization: bearer key\r\n", 200),
        ("x-api-key: key\r\n", 200),
    ],
)
def test_client_keys(more: str, status: int) -> None:
    async def main() -> None:
        async with ScriptedEngine(echo) as engine, World(engine.url, client_keys={"key"}) as world:
            client = await world.client()
            client.send(post(UNARY, more=more))
            reply = await client.reply()
            assert reply.status == status
            assert b"key" not in reply.body or status == 200 or b"API key" in reply.body
            assert (await world.ask(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")).status == 200

    run(main())


def test_anthropic_clients_get_their_shape() -> None:
    async def main() -> None:
        async with World() as world:
            reply = await world.ask(post(b'{"model":"m","priority":1}', "/v1/messages"))
            assert json.loads(reply.body)["error"]["type"] == "invalid_request_error"
            assert json.loads(reply.body)["type"] == "error"

    run(main())


REQUESTS = (
    post(UNARY)
    + CHUNKED_HEAD
    + chunk(UNARY[:7])
    + chunk(UNARY[7:])
    + b"0\r\nx-t: 1\r\n\r\n"
    + GET_MODELS
    + post(STREAM)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, len(REQUESTS) - 1), max_size=12))
def test_requests_mean_the_same_wherever_they_are_cut(cuts: list[int]) -> None:
    async def main() -> None:
        async with ScriptedEngine(echo) as engine, World(engine.url) as world:
            client = await world.client()
            edges = [0, *sorted(cuts), len(REQUESTS)]
            for start, end in itertools.pairwise(edges):
                client.send(REQUESTS[start:end])
                await asyncio.sleep(0)
            replies = [await client.reply() for _ in range(4)]
            assert [r.body for r in (replies[0], replies[1], replies[3])] == [UNARY, UNARY, STREAM]
            assert [r.status for r in replies] == [200] * 4

    run(main())
