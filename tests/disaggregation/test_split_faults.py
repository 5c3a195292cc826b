"""Engines of a pair die, hang and come back at every point of a split request: right tokens or one clear error, soon.

Each gateway is held to the laws of all gateways at its end: an empty ledger, one end for each request, a journal that
replays.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.events import Role
from rig.engines import Engine, Rig, wait_until
from rig.exchange import Exchange, lacking
from tests.disaggregation.by_hand import (
    Refused,
    begun,
    completion,
    fetched_tokens,
    metric,
    tokens_of,
    varied_prompt,
    whole,
)
from tests.disaggregation.conftest import Front

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(lacking("nixl")), reason=lacking("nixl"))]

ANSWERED = "vllm:request_success_total"
SOON_S = 15  # until a client knows; most of it is this machine's
WAIT = {"waiting": "1s"}  # for an engine


@pytest.fixture(scope="module")
def exchange(rig: Rig) -> Iterator[Exchange]:
    with Exchange(rig, "nixl", lease_s=10) as running:
        yield running


@pytest.fixture(scope="module")
def engines(exchange: Exchange, tiny: Path) -> dict[Role, Engine]:
    return {role: exchange.start(role, tiny) for role in (Role.PREFILL, Role.DECODE)}


@pytest.fixture
def prefill(rig: Rig, engines: dict[Role, Engine]) -> Engine:
    return revived(rig, engines[Role.PREFILL])


@pytest.fixture
def decode(rig: Rig, engines: dict[Role, Engine]) -> Engine:
    return revived(rig, engines[Role.DECODE])


@pytest.fixture
def pools(exchange: Exchange, prefill: Engine, decode: Engine) -> list[dict[str, Any]]:
    return [exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, decode)]


def revived(rig: Rig, engine: Engine) -> Engine:
    """Alive and answering whatever the test before did to it."""
    engine.resume()
    if not engine.alive:
        rig.restart(engine)
    return engine.wait_ready()


def test_a_prefill_engine_that_died_unnoticed_costs_an_attempt(
    front: Front, pools: list[dict[str, Any]], prefill: Engine, single: Engine
) -> None:
    gateway = front(*pools, health={"every": "60s"})
    prefill.kill()
    assert whole(gateway, varied_prompt(200)) == whole(single, varied_prompt(200))


@pytest.mark.parametrize("fallback", ["local", "error"])
def test_an_empty_prefill_pool_is_an_error_or_the_declared_fallback(
    fallback: str, front: Front, pools: list[dict[str, Any]], prefill: Engine, single: Engine
) -> None:
    gateway = front(*pools, fallback=fallback, timeouts=WAIT)
    prefill.kill()
    assert wait_until(lambda: gateway.endpoint("prefill-0")["state"] == "ejected", 10)
    if fallback == "local":
        assert whole(gateway, varied_prompt(201)) == whole(single, varied_prompt(201))
        return
    with pytest.raises(Refused, match="no_prefill_engine") as refused:
        whole(gateway, varied_prompt(201))
    assert refused.value.status == 503


@pytest.mark.parametrize("end", ["dies", "hangs"])
def test_a_prefill_engine_fails_while_it_computes(
    end: str, front: Front, pools: list[dict[str, Any]], prefill: Engine, single: Engine
) -> None:
    gateway = front(*pools)
    prompt = varied_prompt(202 if end == "dies" else 203)
    with ThreadPoolExecutor() as clients:
        prefill.suspend()
        asked = clients.submit(whole, gateway, prompt)
        assert wait_until(lambda: gateway.endpoint("prefill-0")["in_flight"] == 1, 10)
        if end == "dies":
            prefill.kill()
        assert asked.result(SOON_S) == whole(single, prompt)


def test_a_prefill_engine_dies_between_its_answer_and_the_claim(
    front: Front, pools: list[dict[str, Any]], prefill: Engine, decode: Engine, single: Engine
) -> None:
    gateway = front(*pools)
    prompt = varied_prompt(204)
    answered = metric(prefill, ANSWERED)
    with ThreadPoolExecutor() as clients:
        decode.suspend()
        asked = clients.submit(whole, gateway, prompt)
        assert wait_until(lambda: metric(prefill, ANSWERED) > answered, 10)
        assert wait_until(lambda: gateway.endpoint("prefill-0")["in_flight"] == 0, 10)
        prefill.kill()
        decode.resume()
        assert asked.result(SOON_S) == whole(single, prompt)
    assert whole(decode, prompt) == whole(single, prompt)


def test_a_prefill_engine_dies_after_its_kv_was_fetched(
    front: Front, pools: list[dict[str, Any]], prefill: Engine, decode: Engine, single: Engine
) -> None:
    gateway = front(*pools)
    prompt = varied_prompt(205)
    right = tokens_of(completion(single, prompt, max_tokens=400, ignore_eos=True))
    with begun(gateway, prompt, max_tokens=400, ignore_eos=True, return_token_ids=True) as answer:
        first = answer.readline()
        prefill.kill()
        events = [line for line in (first + answer.read()).decode().splitlines() if line.startswith("data: {")]
    said = [token for each in events for token in json.loads(each.removeprefix("data: "))["choices"][0]["token_ids"]]
    assert said == right


def test_a_decode_engine_dies_with_kv_that_it_fetched(
    rig: Rig, front: Front, pools: list[dict[str, Any]], decode: Engine, single: Engine
) -> None:
    """A stream that has begun ends with an error; an answer that has not is given by the engine that comes back."""
    gateway = front(*pools)
    prompt = varied_prompt(206)
    right = tokens_of(completion(single, prompt, max_tokens=400, ignore_eos=True))
    with ThreadPoolExecutor() as clients:
        with begun(gateway, varied_prompt(207), max_tokens=8000, ignore_eos=True) as answer:
            answer.readline()
            fetched = fetched_tokens(decode)
            asked = clients.submit(completion, gateway, prompt, max_tokens=400, ignore_eos=True)
            assert wait_until(lambda: fetched_tokens(decode) > fetched, 10)
            decode.kill()
            *_, error, done = [line for line in answer.read().decode().splitlines() if line]
        assert (
            done == "data: [DONE]" and json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_broke_off"
        )
        rig.restart(decode).wait_ready()
        assert tokens_of(asked.result(SOON_S)) == right
    assert wait_until(gateway.is_idle, 10)
    before = fetched_tokens(decode)
    assert wait_until(lambda: gateway.states() == "up up", 10)
    assert whole(gateway, varied_prompt(208)) == whole(single, varied_prompt(208))
    assert fetched_tokens(decode) - before == 400


def test_an_engine_that_came_back_under_its_old_address_is_asked_anew(
    rig: Rig, front: Front, pools: list[dict[str, Any]], prefill: Engine, decode: Engine, single: Engine
) -> None:
    gateway = front(*pools)
    assert whole(gateway, varied_prompt(209)) == whole(single, varied_prompt(209))
    prefill.kill()
    rig.restart(prefill).wait_ready()
    assert wait_until(lambda: gateway.states() == "up up", 10)
    before = fetched_tokens(decode)
    assert whole(gateway, varied_prompt(210)) == whole(single, varied_prompt(210))
    assert fetched_tokens(decode) - before == 400
