"""What engines do wrong when nobody looks after them: wrong tokens with status 200, and a death, all by NIXL.

Each of these is a reason for something that Pilothouse does, and shows that the danger is real on these engines.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pilothouse.core.events import Role
from rig.engines import Engine, Rig, wait_until
from rig.exchange import Exchange, lacking
from tests.disaggregation.by_hand import (
    PLEASE_PREFILL,
    Refused,
    completion,
    fetched_tokens,
    metric,
    occupied,
    prefill_by_hand,
    split_by_hand,
    tokens_of,
    varied_prompt,
    whole,
)

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(lacking("nixl")), reason=lacking("nixl"))]

SMALL = ("--num-gpu-blocks-override", "40", "--max-model-len", "1024")  # three prompts fill its cache
EXPIRED = "vllm:nixl_num_kv_expired_reqs_total"
CLAIMED_LATE = "vllm:nixl_num_notifications_after_expiry_total"  # the only sign of it, and at the other engine


@pytest.fixture(scope="module")
def exchange(rig: Rig) -> Iterator[Exchange]:
    with Exchange(rig, "nixl", lease_s=2) as running:
        yield running


@pytest.fixture(scope="module")
def prefill(exchange: Exchange, tiny: Path) -> Engine:
    """With a small cache, so that what is free is soon used again."""
    return exchange.start(Role.PREFILL, tiny, SMALL).wait_ready()


@pytest.fixture(scope="module")
def decode(exchange: Exchange, tiny: Path) -> Engine:
    return exchange.start(Role.DECODE, tiny).wait_ready()


def test_a_claim_after_the_lease_gets_another_prompts_tokens(
    exchange: Exchange, prefill: Engine, decode: Engine, single: Engine
) -> None:
    prompt = varied_prompt(1)
    parameters = prefill_by_hand(exchange, prefill, prompt, "late")
    assert wait_until(lambda: tick(prefill) and metric(prefill, EXPIRED) == 1, 10)
    for seed in (2, 3, 4):  # its blocks are used again
        completion(prefill, varied_prompt(seed), max_tokens=1)
    claimed = completion(decode, prompt, parameters, "late")
    assert tokens_of(claimed) != whole(single, prompt)
    assert wait_until(lambda: tick(prefill) and metric(prefill, CLAIMED_LATE) == 1, 10)


def test_a_claim_that_waits_at_the_decode_engine_outlives_the_lease(
    rig: Rig, tiny: Path, exchange: Exchange, prefill: Engine, single: Engine
) -> None:
    """The decode engine renews the lease from the moment it has the request, so only the way there is dangerous.

    vLLM renews by two thirds of the lease in whole seconds. With a lease of one second this test gets wrong tokens.
    """
    busy = exchange.start(Role.DECODE, tiny, ["--max-num-seqs", "1"]).wait_ready()
    split_by_hand(exchange, prefill, busy, varied_prompt(10))
    prompt = varied_prompt(11)
    right = whole(single, prompt)
    with ThreadPoolExecutor() as clients:
        with occupied(busy):
            parameters = prefill_by_hand(exchange, prefill, prompt, "held")
            claim = clients.submit(completion, busy, prompt, parameters, "held")
            assert wait_until(lambda: metric(busy, "vllm:num_requests_waiting") == 1, 10)
            expired = metric(prefill, EXPIRED)
            prefill_by_hand(exchange, prefill, varied_prompt(14), "forgotten")  # nobody claims this one
            assert wait_until(lambda: tick(prefill) and metric(prefill, EXPIRED) > expired, 10)
            for seed in range(20, 24):  # all blocks that are free are used again
                completion(prefill, varied_prompt(seed), max_tokens=1)
            assert metric(busy, "vllm:num_requests_waiting") == 1
        assert tokens_of(claim.result()) == right


@pytest.mark.parametrize("connector", ["nixl", "files", "lmcache"])
def test_smaller_blocks_at_the_prefill_engine_give_wrong_tokens(
    rig: Rig, tiny: Path, single: Engine, connector: str
) -> None:
    if why := lacking(connector):
        pytest.skip(why)
    with Exchange(rig, connector) as exchange:
        decode = exchange.start(Role.DECODE, tiny, ["--block-size", "64"])
        with exchange.start(Role.PREFILL, tiny) as prefill, decode:
            prompts = map(
                varied_prompt, range(30, 35)
            )  # LMCache stores in the background: the first may come too early
            assert any(split_by_hand(exchange, prefill, decode, each) != whole(single, each) for each in prompts)
            assert fetched_tokens(decode) >= 384


def test_parameters_of_another_prompt_give_wrong_tokens_and_poison_the_cache(
    exchange: Exchange, prefill: Engine, decode: Engine, single: Engine
) -> None:
    prompt = varied_prompt(6)
    others = prefill_by_hand(exchange, prefill, varied_prompt(7), "others")
    right = whole(single, prompt)
    assert tokens_of(completion(decode, prompt, others, "others")) != right
    fetched = fetched_tokens(decode)
    assert whole(decode, prompt) != right  # now without any parameters
    assert fetched_tokens(decode) == fetched


def test_parameters_do_not_tell_the_prompts_of_one_request_apart(
    prefill: Engine, decode: Engine, single: Engine
) -> None:
    prompts = [varied_prompt(15, 200), varied_prompt(16, 200)]
    computed = completion(prefill, prompts, PLEASE_PREFILL, "several", max_tokens=1)
    answer = completion(decode, prompts, computed["kv_transfer_params"], "several")
    answered = [choice["token_ids"] for choice in answer["choices"]]
    assert answered != [whole(single, prompt) for prompt in prompts]


def test_parameters_of_a_shorter_prompt_kill_the_engine(exchange: Exchange, prefill: Engine, tiny: Path) -> None:
    shorter = prefill_by_hand(exchange, prefill, varied_prompt(8, 300), "shorter")
    with exchange.start(Role.DECODE, tiny) as decode:
        with pytest.raises(Refused, match="500"):
            completion(decode, varied_prompt(8), shorter, "shorter")
        assert wait_until(lambda: not decode.alive, 20)


def test_without_its_prefill_engine_a_claim_fails_at_once_and_the_decode_engine_lives(
    exchange: Exchange, tiny: Path, decode: Engine, single: Engine
) -> None:
    prompt = varied_prompt(9)
    with exchange.start(Role.PREFILL, tiny) as prefill:
        split_by_hand(exchange, prefill, decode, varied_prompt(13))  # they know each other
        parameters = prefill_by_hand(exchange, prefill, prompt, "orphan")
    with pytest.raises(Refused, match="500"):
        completion(decode, prompt, parameters, "orphan")
    assert whole(decode, prompt) == whole(single, prompt)


def tick(engine: Engine) -> bool:
    """Has the engine take a step, in which it looks at its leases."""
    return bool(completion(engine, [300, 301], max_tokens=1))
