"""The smuggling corpus: refused, hung up on, and not a byte of it at an engine. With scripted and with real engines."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from pilothouse.wire.openai import FORBIDDEN_FIELDS
from rig.engines import Rig
from tests.serving.fakes import Client, EngineLink, ScriptedEngine, World, ok, post, run
from tests.serving.smuggling import CORPUS


async def expect_refusal(client: Client, raw: bytes, status: int) -> None:
    """Sends `raw`; the answer is that status in OpenAI's shape, and the connection ends."""
    client.send(raw)
    head_only = raw.startswith(b"HEAD")
    reply = await client.reply(bodiless=head_only and status == 200)
    assert reply.status == status, reply.body
    assert reply.fields["connection"] == "close"
    assert set(json.loads(reply.body)["error"]) == {"message", "type", "param", "code"}
    assert await client.is_closed()
    client.close()


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("name", CORPUS)
def test_refused(name: str) -> None:
    raw, status = CORPUS[name]

    async def main() -> None:
        async def script(link: EngineLink) -> None:
            raise AssertionError("an engine was connected to")

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            await expect_refusal(await world.client(), raw, status)
            assert engine.connections == 0 and not world.steering.events
            assert [record.status for record in world.records] == [status]

    run(main())


@pytest.mark.parametrize("name", CORPUS)
def test_refused_after_a_good_request_on_the_same_connection(name: str) -> None:
    raw, status = CORPUS[name]

    async def main() -> None:
        async def script(link: EngineLink) -> None:
            await link.request()
            link.send(ok(b"{}"))
            await link.gone()

        async with ScriptedEngine(script) as engine, World(engine.url) as world:
            client = await world.client()
            client.send(post(b'{"model":"m","prompt":"x"}') + raw)
            assert (await client.reply()).status == 200
            await expect_refusal(client, b"", status)
            assert world.steering.kinds() == ["Arrived", "Finished"]

    run(main())


def requests_seen(url: str) -> float:
    """Requests that a real engine has counted, of any kind and outcome, those for its metrics left out."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts = re.findall(r"^http_requests_total\{([^}]*)\} ([0-9.e+]+)$", text, re.MULTILINE)
    assert counts or "http_requests_total" in text
    return sum(float(value) for labels, value in counts if '"/metrics"' not in labels)


def running(url: str) -> float:
    """Requests in the batch and in the queue of a real engine."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(
        float(v)
        for v in re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([0-9.e+]+)$", text, re.MULTILINE)
    )


@pytest.fixture(scope="module")
def engine_url(rig: Rig, tiny: Path) -> Iterator[str]:
    """One real engine for this file."""
    with rig.start(tiny) as engine:
        yield engine.url


@pytest.mark.engine
def test_a_real_engine_sees_nothing_of_the_corpus(engine_url: str) -> None:
    async def main() -> None:
        async with World(engine_url) as world:
            good = post(b'{"model":"tiny","prompt":"hello","max_tokens":2,"temperature":0}')
            assert (await world.ask(good)).status == 200
            before = await asyncio.to_thread(requests_seen, engine_url)
            for raw, status in CORPUS.values():
                await expect_refusal(await world.client(), raw, status)
            assert await asyncio.to_thread(requests_seen, engine_url) == before
            assert (await world.ask(good)).status == 200
            assert await asyncio.to_thread(requests_seen, engine_url) == before + 1

    run(main())


@pytest.mark.engine
def test_a_real_engine_sees_no_forbidden_field(engine_url: str) -> None:
    async def main() -> None:
        async with World(engine_url) as world:
            before = await asyncio.to_thread(requests_seen, engine_url)
            for name in FORBIDDEN_FIELDS:
                for spelling in (name, "".join(f"\\u{ord(c):04x}" for c in name)):
                    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/score"):
                        body = b'{"model":"tiny","%b":null,"prompt":"x"}' % spelling.encode()
                        reply = await world.ask(post(body, path))
                        assert (reply.status, json.loads(reply.body)["error"]["param"]) == (400, name)
            assert await asyncio.to_thread(requests_seen, engine_url) == before

    run(main())


@pytest.mark.engine
def test_real_answers_pass_byte_for_byte(engine_url: str) -> None:
    async def main() -> None:
        async with World(engine_url) as world:
            body = b'{"model":"tiny","prompt":"one two three","max_tokens":8,"temperature":0}'
            reply = await world.ask(post(body))
            assert reply.status == 200 and json.loads(reply.body)["usage"]["completion_tokens"] == 8
            assert world.records[-1].output_tokens == 8
            streamed = body[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
            reply = await world.ask(post(streamed))
            assert reply.whole and reply.body.endswith(b"data: [DONE]\n\n")
            record = world.records[-1]
            assert (record.output_tokens, record.prompt_tokens) == (8, world.records[0].prompt_tokens)
            assert record.chunks > 1 and sum(record.itl_counts) == record.chunks - 1

    run(main())


@pytest.mark.engine
@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_client_that_leaves_frees_the_real_engine(engine_url: str, stream: bytes) -> None:
    async def main() -> None:
        async def until(busy: bool) -> None:
            async with asyncio.timeout(15):
                while (await asyncio.to_thread(running, engine_url) > 0) != busy:
                    pass

        async with World(engine_url) as world:
            client = await world.client()
            body = b'{"model":"tiny","prompt":"go","max_tokens":8000,"ignore_eos":true,"stream":%b}' % stream
            client.send(post(body))
            await until(busy=True)
            client.close()
            await until(busy=False)
            assert world.steering.kinds()[-1] == "Cancelled"

    run(main())
