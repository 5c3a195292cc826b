"""What clients meet: unknown models, leaving early, keys; and that the numbers about them add up."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.clients import Client
from rig.engines import Engine, Rig
from rig.model import tiny_lora
from tests.gateway.language import engine_metric, in_flight, prompt, until
from tests.gateway.laws import Gateways

pytestmark = pytest.mark.engine
Pair = tuple[Engine, Engine]
CLIENT_KEY, ENGINE_KEY, WRONG_KEY = "sk-ours-7f3a9c", "sk-engine-51bd20", "sk-wrong-00e1d4"


async def test_an_unknown_model_is_refused_at_once(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair))
    async with Client(gateway.url) as client:
        for stream in (False, True):
            answer = await client.ask(prompt(), model="nobody", stream=stream)
            assert answer.status == 404
            assert answer.error is not None and answer.error["code"] == "model_not_found"
    assert not gateway.metrics().get("pilothouse_requests_total"), "a made-up name is no label"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine(stream: bool, pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(pair[0].url)
    async with Client(gateway.url) as client:
        if stream:
            async with client.stream(prompt(), max_tokens=7000):
                assert await asyncio.to_thread(running, pair[0]) == 1
        else:
            asked = asyncio.create_task(client.ask(prompt(), max_tokens=7000))
            await until(lambda: running(pair[0]) == 1)
            asked.cancel()
        await until(lambda: running(pair[0]) == 0, 3)
        await until(gateway.is_idle, 3)
    await gateways.finish(gateway)
    (line,) = gateway.requests()
    assert (line["outcome"], line["status"], line["endpoint"]) == ("cancelled", 499, "a")


async def test_the_numbers_add_up(pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in pair))
    async with Client(gateway.url) as client:
        texts = [prompt(words) for words in (50, 150, 300)]
        answers = [await client.ask(text, stream=i % 2 == 0) for i, text in enumerate(texts * 3)]
        left = asyncio.create_task(client.ask(prompt(), max_tokens=7000))
        await until(lambda: in_flight(gateway, "a") + in_flight(gateway, "b") == 1)
        left.cancel()
        await until(gateway.is_idle)
        assert (await client.ask(prompt(), model="nobody")).status == 404
        assert (await client.ask(prompt(), temperature="hot")).status == 400
    assert all(a.is_good and a.expected == a.cached for a in answers)
    cached = sum(a.cached for a in answers)
    assert cached == gateway.total("pilothouse_cached_tokens_total") > 0
    assert cached == gateway.total("pilothouse_expected_cached_tokens_total")
    told = [a.usage for a in answers]
    assert gateway.total("pilothouse_prompt_tokens_total") >= sum(u["prompt_tokens"] for u in told)
    assert gateway.total("pilothouse_output_tokens_total") == sum(u["completion_tokens"] for u in told)
    assert gateway.total("pilothouse_requests_total", outcome="finished") == len(answers) + 1  # the engine's 400 too
    assert gateway.total("pilothouse_requests_total", outcome="cancelled") == 1
    assert gateway.total("pilothouse_responses_total", status="200", api="chat") == len(answers)
    for refused in ("404", "400", "499"):
        assert gateway.total("pilothouse_responses_total", status=refused) == 1, refused
    assert gateway.total("pilothouse_time_to_first_token_seconds_count") == sum(a.is_stream for a in answers)
    assert gateway.total("pilothouse_endpoint_in_flight") == gateway.total("pilothouse_requests_in_flight") == 0
    for answer in answers:
        status, story = gateway.get(f"/explain/{answer.request}")
        assert status == 200 and json.loads(story)["cached_tokens"] == answer.cached
    await gateways.finish(gateway)
    lines = {line["request"]: line for line in gateway.requests()}
    assert len(lines) == len(gateway.requests()) == len(answers) + 3
    for answer in answers:
        line = lines[answer.request]
        assert (line["endpoint"], line["cached_tokens"]) == (answer.endpoint, answer.cached)
        assert (line["output_tokens"], line["status"]) == (answer.usage["completion_tokens"], 200)


@pytest.fixture(scope="module")
def locked(rig: Rig, tiny: Path) -> Iterator[Engine]:
    """An engine that asks for a key of its own."""
    with rig.start(tiny, args=["--api-key", ENGINE_KEY]) as engine:
        yield engine


async def test_keys_open_doors_and_are_written_nowhere(locked: Engine, gateways: Gateways) -> None:
    gateways.secrets += [key.encode() for key in (CLIENT_KEY, ENGINE_KEY, WRONG_KEY)]
    engine = {"name": "a", "url": locked.url}
    gateway = await gateways.start(
        pools=[{"endpoints": [engine], "api_key_env": "ENGINE_KEY"}],
        clients={"api_keys_env": "CLIENT_KEYS"},
        env={"CLIENT_KEYS": f"{CLIENT_KEY},another", "ENGINE_KEY": ENGINE_KEY},
    )
    await until(lambda: bool(gateway.endpoint("a")["models"]))
    async with Client(gateway.url) as client:
        good = await client.ask(prompt(), headers={"authorization": f"Bearer {CLIENT_KEY}"})
        assert good.is_good
        for headers in ({}, {"authorization": f"Bearer {WRONG_KEY}"}, {"authorization": f"Bearer {ENGINE_KEY}"}):
            assert (await client.ask(prompt(), headers=headers)).status == 401
    shown = gateway.get("/status")[1] + gateway.get("/metrics")[1] + gateway.get(f"/explain/{good.request}")[1]
    assert not [secret for secret in gateways.secrets if secret in shown]


@pytest.fixture(scope="module")
def adapted(rig: Rig, tiny: Path) -> Iterator[Engine]:
    """An engine with a LoRA adapter."""
    options = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"pirate={tiny_lora(tiny)}"]
    with rig.start(tiny, args=options) as engine:
        yield engine


async def test_an_adapters_requests_go_where_it_is(adapted: Engine, pair: Pair, gateways: Gateways) -> None:
    gateway = await gateways.steer(pair[0].url, adapted.url, policy="least_requests")
    async with Client(gateway.url) as client:
        text = prompt()
        for stream in (False, True, False):
            answer = await client.ask(text, model="pirate", stream=stream)
            assert answer.is_good and answer.endpoint == "b"
            assert answer.expected == answer.cached, "an adapter's blocks are its own"
        assert answer.cached
        plain = await client.ask(text)
        assert plain.is_good and plain.expected == plain.cached, "the model's own blocks are others"
        crowd = await asyncio.gather(*(client.ask(prompt(), model="pirate", max_tokens=60) for _ in range(8)))
        assert {a.endpoint for a in crowd} == {"b"} and all(a.is_good for a in crowd)
        anywhere = await asyncio.gather(*(client.ask(prompt()) for _ in range(6)))
        assert {a.endpoint for a in anywhere} == {"a", "b"}


def running(engine: Engine) -> int:
    """Requests on the engine, as it says itself."""
    return int(engine_metric(engine, "vllm:num_requests_running") + engine_metric(engine, "vllm:num_requests_waiting"))
