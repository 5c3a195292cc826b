"""What gives wrong tokens on engines alone (test_engine_alone.py), with the gateway in between: late claims, all over NIXL."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilothouse.core.events import Role
from rig.engines import Engine, Rig, wait_until
from rig.exchange import Exchange, lacking
from tests.disaggregation.by_hand import Address, completion, metric, varied_prompt, whole
from tests.disaggregation.test_engine_alone import CLAIMED_LATE, EXPIRED, SMALL, tick
from tests.disaggregation.test_gateway_split import serving, streamed

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(lacking("nixl")), reason=lacking("nixl"))]

LOCAL = {"policy": {"like": "marginal_cost", "decider": {"type": "always"}}}
PATIENT = {"health": {"every": "1s", "timeout": "20s"}}  # nobody is ejected for standing still


@pytest.fixture(scope="module")
def pair(rig: Rig, tiny: Path) -> Iterator[tuple[Exchange, Engine, Engine]]:
    with Exchange(rig, "nixl", lease_s=2) as exchange:
        prefill, decode = exchange.start(Role.PREFILL, tiny, SMALL), exchange.start(Role.DECODE, tiny)
        prefill.wait_ready(), decode.wait_ready()
        yield exchange, prefill, decode


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def reuse_blocks(prefill: Engine, expired: float) -> None:
    """Waits until the prefill engine has given up a prompt's KV, and has it write over the blocks."""
    assert wait_until(lambda: tick(prefill) and metric(prefill, EXPIRED) > expired, 10)
    for seed in range(100, 104):
        completion(prefill, varied_prompt(seed), max_tokens=1)


def test_a_gateway_that_stood_still_claims_nothing_late(
    pair: tuple[Exchange, Engine, Engine], single: Engine, tmp_path: Path
) -> None:
    exchange, prefill, decode = pair
    prompt = varied_prompt(1)
    right = whole(single, prompt)
    with serving(tmp_path, exchange, prefill, decode, **LOCAL, **PATIENT) as gateway, ThreadPoolExecutor() as clients:
        streamed(gateway, varied_prompt(2))
        expired, late = metric(prefill, EXPIRED), metric(prefill, CLAIMED_LATE)
        with stopped(prefill.pid):
            answer = clients.submit(streamed, gateway, prompt)
            assert wait_until(lambda: gateway.endpoint("prefill-0")["in_flight"] == 1, 10)
            os.kill(gateway.process.pid, signal.SIGSTOP)
        try:
            reuse_blocks(prefill, expired)
        finally:
            os.kill(gateway.process.pid, signal.SIGCONT)
        assert answer.result()[0] == right
        assert metric(prefill, CLAIMED_LATE) == late
        assert whole(Address(gateway.url), prompt) == right


@pytest.mark.parametrize("stream", [True, False])
def test_a_decode_engine_that_stands_still_with_a_claim_gives_no_wrong_token(
    pair: tuple[Exchange, Engine, Engine], single: Engine, tmp_path: Path, stream: bool
) -> None:
    exchange, prefill, decode = pair
    prompt = varied_prompt(3 + stream)
    right = whole(single, prompt)
    with serving(tmp_path, exchange, prefill, decode, **LOCAL, **PATIENT) as gateway, ThreadPoolExecutor() as clients:
        streamed(gateway, varied_prompt(5 + stream))
        expired = metric(prefill, EXPIRED)
        with stopped(decode.pid):
            ask = (lambda: streamed(gateway, prompt)[0]) if stream else (lambda: whole(Address(gateway.url), prompt))
            answer = clients.submit(ask)
            reuse_blocks(prefill, expired)
            reuse_blocks(prefill, expired + 1)  # of the second attempt; the third is whole
        assert answer.result() == right
        assert whole(decode, prompt) == right  # nor is its cache poisoned
