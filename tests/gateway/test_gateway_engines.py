"""Engines die, come back, hang, crawl and talk nonsense: clients notice nothing that could have been hidden from them."""

import asyncio

import pytest

from pilothouse.core.commands import Abort
from rig.clients import Client
from rig.engines import Engine, Rig, free_port
from rig.gateways import Gateway
from tests.gateway.language import by_name, do, in_flight, prompt, until
from tests.gateway.laws import Gateways
from tests.gateway.scripted import GOOD, SSE_HEAD, Scripted, after, event, ok, saying

pytestmark = pytest.mark.engine
Pair = tuple[Engine, Engine]
LONG = 3000  # tokens: some seconds of decoding


async def test_an_engine_that_died_idle_costs_nobody_anything(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair))
    async with Client(gateway.url) as client:
        warm = [await client.ask(prompt()) for _ in range(4)]
        assert {answer.endpoint for answer in warm} == {"a", "b"}, "both have kept-alive connections now"
        await do(pair[0].kill)
        answers = await asyncio.gather(*(client.ask(prompt()) for _ in range(6)))
        assert [a.status for a in answers] == [200] * 6
        assert {a.endpoint for a in answers} == {"b"}
        await until(lambda: gateway.states() == "ejected up")


async def test_a_stream_cut_by_the_engines_death_ends_as_a_stream(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair))
    async with Client(gateway.url) as client, client.stream(prompt(), max_tokens=LONG) as stream:
        engine, _ = by_name(pair, stream.endpoint)
        await do(engine.kill)
        answer = await stream.rest()
        assert answer.broke == "", "the chunked body must end as HTTP demands"
        assert answer.events[-1] == "[DONE]"
        assert answer.error is not None and answer.error["code"] == "engine_broke_off"
        await until(gateway.is_idle)
    await gateways.finish(gateway)
    (line,) = gateway.requests()
    assert (line["outcome"], line["status"], line["code"]) == ("failed", 200, "broken")


async def test_a_unary_request_survives_its_engines_death(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair))
    async with Client(gateway.url) as client:
        asked = asyncio.create_task(client.ask(prompt(), max_tokens=LONG))
        name = await routed(gateway)
        engine, other = by_name(pair, name)
        await do(engine.kill)
        answer = await asked
        assert (answer.status, answer.endpoint, answer.attempts) == (200, other, 2)
        assert answer.usage["completion_tokens"] == LONG


@pytest.mark.parametrize("kv", ["exact", "assumed"])
async def test_an_engine_that_comes_back_is_used_and_its_cache_known(
    kv: str, rig: Rig, pair: Pair, quiet: Pair, gateways: Gateways
) -> None:
    pair = pair if kv == "exact" else quiet
    gateway = await gateways.steer(*(e.url for e in pair))
    assert [e["kv"] for e in gateway.status()["endpoints"]] == [kv, kv]
    async with Client(gateway.url) as client:
        prompts = [prompt() for _ in range(4)]
        first = [await client.ask(text) for text in prompts]
        again = [await client.ask(text) for text in prompts]
        assert [a.cached for a in again] == [a.expected for a in again] and all(a.cached for a in again)
        name = first[0].endpoint
        engine, other = by_name(pair, name)
        await do(engine.kill)
        await until(lambda: gateway.endpoint(name)["state"] == "ejected")
        await do(lambda: rig.restart(engine).wait_ready())
        await until(lambda: gateway.endpoint(name)["state"] == "up")
        fresh = await asyncio.gather(*(client.ask(prompt()) for _ in range(8)))
        assert {a.endpoint for a in fresh} == {name, other}, "it must get work again"
        for _ in range(2):
            answers = [await client.ask(text) for text in prompts]
            assert [a.expected for a in answers] == [a.cached for a in answers]
        assert all(a.cached for a in answers)


async def test_requests_leave_an_engine_that_hangs(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair))
    loop = asyncio.get_running_loop()
    async with Client(gateway.url) as client, client.stream(prompt(), max_tokens=LONG) as begun:
        name = begun.endpoint
        engine, other = by_name(pair, name)
        warm = prompt(400)
        while (await client.ask(warm)).endpoint != name:
            warm = prompt(400)
        await do(engine.suspend)
        started = loop.time()
        asked = [
            asyncio.create_task(client.ask(warm)),
            asyncio.create_task(client.ask(warm, stream=True)),
        ]
        answers = await asyncio.gather(*asked)
        took = loop.time() - started
        assert [(a.is_good, a.endpoint, a.attempts) for a in answers] == [(True, other, 2)] * 2
        assert took < 6, took
        assert gateway.endpoint(name)["state"] == "ejected"
        await do(engine.resume)
        answer = await begun.rest()
        assert answer.is_good and answer.usage["completion_tokens"] == LONG, "a begun stream waits for its engine"
        await until(lambda: gateway.states() == "up up")
        assert name in {a.endpoint for a in await asyncio.gather(*(client.ask(prompt()) for _ in range(6)))}
    await gateways.finish(gateway)
    aborted = [c.request for entry in gateway.entries() for c in entry.commands if isinstance(c, Abort)]
    assert sorted(aborted) == sorted(a.request for a in answers)


async def test_a_slow_engine_gets_less(pair: Pair, gateways: Gateways) -> None:
    async with Scripted(after(1.0, ok(GOOD))) as slow:
        gateway = await gateways.steer(pair[0].url, slow.url)
        async with Client(gateway.url) as client:
            answers = []

            async def ask_on() -> None:
                for _ in range(8):
                    answers.append(await client.ask(prompt(20)))

            await asyncio.gather(*(ask_on() for _ in range(4)))
        assert all(a.is_good for a in answers)
        assert slow.asked <= len(answers) // 3, f"the slow one got {slow.asked} of {len(answers)}"


async def test_an_engine_too_slow_to_begin_is_left(pair: Pair, gateways: Gateways) -> None:
    async with Scripted(after(30, ok(GOOD))) as slow:
        gateway = await gateways.steer(slow.url, pair[0].url, timeouts={"first_byte": "700ms"}, policy="round_robin")
        async with Client(gateway.url) as client:
            answers = [await client.ask(prompt(20)) for _ in range(8)]
        assert all(a.is_good and a.endpoint == "b" for a in answers)
        assert sorted({a.attempts for a in answers}) == [1, 2]
        assert slow.asked == 3, "after three failures in a row it is ejected; its good probes let it back later"


GARBAGE = {
    "no HTTP": b"\x16\x03\x01 what?\r\n\r\n",
    "another protocol": b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    "an error": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "nothing": b"",
    "a head and no body": SSE_HEAD,
    "an error as a stream": SSE_HEAD + event(b'{"error": {"message": "broken", "code": 500}}'),
}


@pytest.mark.parametrize("said", GARBAGE)
async def test_nonsense_from_one_engine_is_answered_by_another(said: str, pair: Pair, gateways: Gateways) -> None:
    async with Scripted(saying(GARBAGE[said])) as bad:
        gateway = await gateways.steer(
            bad.url, pair[0].url, policy="round_robin", health={"backoff": "30s", "every": "200ms"}
        )
        async with Client(gateway.url) as client:
            answers = [await client.ask(prompt(20), stream=turn % 2 == 1) for turn in range(8)]
        assert all(a.is_good and a.endpoint == "b" for a in answers), [(a.status, a.error, a.broke) for a in answers]
        assert bad.asked == 3 and gateway.endpoint("a")["state"] == "ejected"


@pytest.mark.parametrize(("rest", "code"), [(b"zz\r\nwhat", "engine_garbage"), (b"40\r\ndata: {", "engine_broke_off")])
async def test_nonsense_in_the_middle_of_a_stream_ends_it_as_a_stream(
    rest: bytes, code: str, gateways: Gateways
) -> None:
    begun = asyncio.Event()

    async def chat(writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + event(b'{"choices":[]}'))
        await begun.wait()
        writer.write(rest)

    async with Scripted(chat) as bad:
        gateway = await gateways.steer(bad.url)
        async with Client(gateway.url) as client, client.stream(prompt(20)) as stream:
            begun.set()
            answer = await stream.rest()
        assert (answer.status, answer.broke, answer.events[-1]) == (200, "", "[DONE]")
        assert answer.error is not None and answer.error["code"] == code
        await gateways.finish(gateway)


async def test_requests_wait_for_the_first_engine(rig: Rig, gateways: Gateways, tiny: str) -> None:
    port = free_port()
    gateway = await gateways.start(f"http://127.0.0.1:{port}")
    assert gateway.get("/ready")[0] == 503
    async with Client(gateway.url) as client:
        asked = [asyncio.create_task(client.ask(prompt(), stream=stream)) for stream in (False, True)]
        await until(lambda: gateway.status()["requests_waiting"] == 2)
        ((labels, waiting),) = gateway.metrics()["pilothouse_requests_waiting"]
        assert labels["model"] and waiting == 2, "by which KEDA starts the first engine of a model"
        engine = rig.start(tiny, port=port)
        try:
            await do(engine.wait_ready)
            answers = await asyncio.gather(*asked)
            assert all(a.is_good for a in answers), [(a.status, a.error) for a in answers]
            await gateways.finish(gateway)
        finally:
            await do(engine.kill)


async def test_nobody_waits_for_ever(gateways: Gateways) -> None:
    gateway = await gateways.start(f"http://127.0.0.1:{free_port()}", timeouts={"waiting": "500ms"})
    async with Client(gateway.url) as client:
        answer = await client.ask(prompt())
    assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
    assert answer.error is not None and answer.error["code"] == "no_endpoint"


async def routed(gateway: Gateway) -> str:
    """Where the one request in flight is."""
    names: list[str] = [endpoint["endpoint"] for endpoint in gateway.status()["endpoints"]]
    await until(lambda: any(in_flight(gateway, name) for name in names))
    return next(name for name in names if in_flight(gateway, name))
