"""What engines do wrong alone (test_engine_alone), done through a gateway on the same engines: the tokens are right.

Late claims are in test_gateway_late, what cannot be split at all in test_gateway_split.
"""

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
    completion,
    fetched_tokens,
    occupied,
    prefill_by_hand,
    streamed,
    varied_prompt,
    whole,
)
from tests.disaggregation.conftest import Front

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(lacking("nixl")), reason=lacking("nixl"))]


@pytest.fixture(scope="module")
def exchange(rig: Rig) -> Iterator[Exchange]:
    with Exchange(rig, "nixl", lease_s=2) as running:
        yield running


@pytest.fixture(scope="module")
def prefill(exchange: Exchange, tiny: Path) -> Engine:
    return exchange.start(Role.PREFILL, tiny).wait_ready()


@pytest.fixture(scope="module")
def decode(exchange: Exchange, tiny: Path) -> Engine:
    return exchange.start(Role.DECODE, tiny).wait_ready()


@pytest.fixture
def pools(exchange: Exchange, prefill: Engine, decode: Engine) -> list[dict[str, Any]]:
    return [exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, decode)]


def test_a_claim_that_waits_longer_than_it_may_is_given_up(
    exchange: Exchange, tiny: Path, front: Front, prefill: Engine, single: Engine
) -> None:
    busy = exchange.start(Role.DECODE, tiny, ["--max-num-seqs", "1"]).wait_ready()
    gateway = front(exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, busy))
    prompt = varied_prompt(110)
    right = whole(single, prompt)
    with ThreadPoolExecutor() as clients:
        with occupied(busy):
            asked = clients.submit(whole, gateway, prompt)
            assert wait_until(lambda: gateway.total("pilothouse_attempt_failures_total", kind="expired") > 0, 10)
        assert asked.result() == right


def test_engines_with_other_blocks_are_not_paired_and_the_status_says_so(
    exchange: Exchange, tiny: Path, front: Front, prefill: Engine, single: Engine
) -> None:
    with exchange.start(Role.DECODE, tiny, ["--block-size", "64"]) as other:
        gateway = front(exchange.pool(Role.PREFILL, prefill), exchange.pool(Role.DECODE, other))
        prompts = [varied_prompt(seed) for seed in range(120, 123)]
        assert [whole(gateway, prompt) for prompt in prompts] == [whole(single, prompt) for prompt in prompts]
        assert fetched_tokens(other) == 0
        said = [each for each in gateway.status()["degraded"] if "not paired" in each]
        assert len(said) == 1 and "block size 32" in said[0] and "64" in said[0]


def test_parameters_of_a_client_are_refused(
    front: Front, pools: list[dict[str, Any]], exchange: Exchange, prefill: Engine, decode: Engine, single: Engine
) -> None:
    gateway = front(*pools)
    prompt = varied_prompt(130)
    others = prefill_by_hand(exchange, prefill, varied_prompt(131), "others")
    with pytest.raises(Refused, match="kv_transfer_params") as refused:
        completion(gateway, prompt, others, "others")
    assert refused.value.status == 400
    assert whole(gateway, prompt) == whole(decode, prompt) == whole(single, prompt)


def test_each_of_many_at_once_gets_its_own(
    front: Front, pools: list[dict[str, Any]], decode: Engine, single: Engine
) -> None:
    gateway = front(*pools)
    prompts = [varied_prompt(seed, 60 + seed % 5) for seed in range(140, 164)]  # in twos and threes of one length
    fetched = fetched_tokens(decode)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda n: (whole, streamed)[n % 2](gateway, prompts[n]), range(len(prompts))))
    assert answers == [whole(single, prompt) for prompt in prompts]
    assert fetched_tokens(decode) - fetched == sum(map(len, prompts))
