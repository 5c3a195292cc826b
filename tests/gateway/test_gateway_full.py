"""Engines without room: of KV space, of queue. Clients are answered, or told in bounded time when to come again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.clients import Client
from rig.engines import Engine, Rig
from tests.gateway.language import engine_metric, prompt, until
from tests.gateway.laws import Gateways

pytestmark = pytest.mark.engine
QUEUE = 2  # requests that an engine of `narrow` takes


@pytest.fixture(scope="module")
def cramped(rig: Rig, tiny: Path) -> Iterator[Engine]:
    """An engine with room for one long request: 39 blocks of 32 tokens."""
    with rig.start(tiny, args=["--num-gpu-blocks-override", "40", "--max-model-len", "1024"]) as engine:
        yield engine


@pytest.fixture(scope="module")
def narrow(rig: Rig, tiny: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two engines that refuse their third request with 503."""
    option = ["--max-num-queued-reqs", str(QUEUE)]
    with rig.start(tiny, args=option) as one, rig.start(tiny, args=option) as other:
        yield one, other


async def test_a_prompt_that_does_not_fit_gets_the_engines_own_answer(cramped: Engine, gateways: Gateways) -> None:
    gateway = await gateways.steer(cramped.url)
    assert gateway.endpoint("a")["kv_blocks"] == 39
    text = prompt(1500)
    async with Client(gateway.url) as client, Client(cramped.url) as direct:
        for stream in (False, True):
            answer, own = await client.ask(text, stream=stream), await direct.ask(text, stream=stream)
            assert answer.status == own.status == 400
            assert answer.body == own.body
            assert (answer.endpoint, answer.attempts) == ("a", 1)
        assert (await client.ask(prompt(20))).is_good, "and the engine is as well as before"
    assert gateway.endpoint("a")["state"] == "up"


async def test_preemption_breaks_nothing(cramped: Engine, gateways: Gateways) -> None:
    gateway = await gateways.steer(cramped.url)
    before = await preemptions(cramped)
    async with Client(gateway.url) as client:
        texts = [prompt(60) for _ in range(6)]
        answers = await asyncio.gather(
            *(client.ask(text, stream=i % 2 == 0, max_tokens=400) for i, text in enumerate(texts))
        )
        assert all(a.is_good and a.usage["completion_tokens"] == 400 for a in answers)
        assert await preemptions(cramped) > before
        await until(gateway.is_idle)
        text = prompt(60)
        for _ in range(2):
            answer = await client.ask(text)
            assert answer.expected == answer.cached, "what was evicted is known to be gone"
        assert answer.cached


async def test_full_queues_are_learned_shared_and_waited_for(narrow: tuple[Engine, Engine], gateways: Gateways) -> None:
    gateway = await gateways.steer(*(e.url for e in narrow))
    async with Client(gateway.url) as client:
        answers = await asyncio.gather(*(client.ask(prompt(), stream=i % 2 == 0, max_tokens=150) for i in range(20)))
    assert all(a.is_good for a in answers), [(a.status, a.error) for a in answers if not a.is_good]
    share = [sum(a.endpoint == name for a in answers) for name in "ab"]
    assert min(share) >= 5, share
    assert gateway.total("pilothouse_attempt_failures_total", kind="busy") > 0, "it was refused, or nothing is tested"
    assert gateway.states() == "up up" and gateway.total("pilothouse_ejections_total") == 0
    attempts = sum(a.attempts for a in answers)
    assert attempts <= 8 * len(answers), f"{attempts} attempts for {len(answers)} requests"


async def test_engines_that_stay_full_are_not_waited_for_for_ever(
    narrow: tuple[Engine, Engine], gateways: Gateways
) -> None:
    gateway = await gateways.steer(*(e.url for e in narrow), timeouts={"waiting": "1s"})
    loop = asyncio.get_running_loop()
    async with Client(narrow[0].url) as one, Client(narrow[1].url) as other, Client(gateway.url) as client:
        full = [asyncio.create_task(c.ask(prompt(), max_tokens=7000)) for c in (one, other) for _ in range(QUEUE)]
        await until(lambda: all(gateway.endpoint(name)["running"] == QUEUE for name in "ab"))
        started = loop.time()
        answers = await asyncio.gather(*(client.ask(prompt(), stream=i % 2 == 0) for i in range(6)))
        took = loop.time() - started
        for task in full:
            task.cancel()
        await asyncio.gather(*full, return_exceptions=True)
        assert [a.status for a in answers] == [429] * 6
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers)
        assert all(a.error is not None and a.error["code"] == "engines_busy" for a in answers)
        assert 0.9 < took < 10, "a second of waiting, and what a busy machine adds"
        assert (await client.ask(prompt())).is_good, "as soon as there is room again"


async def preemptions(engine: Engine) -> int:
    """How often the engine had to throw out a running request."""
    return int(await asyncio.to_thread(engine_metric, engine, "vllm:num_preemptions_total"))
