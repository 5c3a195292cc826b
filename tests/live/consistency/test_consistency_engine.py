"""Real engines: what they tell of themselves, who is paired with whom, and what `fleet check` says of them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.cli.checking import check
from pilothouse.config.load import from_data
from pilothouse.live.consistency.asking import ask_fleet
from pilothouse.live.consistency.facts import Breaks
from rig.engines import Engine, Rig, wait_until
from rig.gateways import QUICK, Gateway

pytestmark = pytest.mark.engine
OTHER = ("--block-size", "64", "--prefix-caching-hash-algo", "sha256")
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 1}


def transfer(role: str, folder: Path) -> list[str]:
    extra = {"shared_storage_path": str(folder)}
    config = {"kv_connector": "ExampleConnector", "kv_role": role, "kv_connector_extra_config": extra}
    return ["--kv-transfer-config", json.dumps(config)]


@pytest.fixture(scope="module")
def trio(rig: Rig, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine, Engine]]:
    """A prefill engine, a decode engine like it, and one with other blocks and hashes, which also speculates."""
    folder = tmp_path_factory.mktemp("kv")
    tells = {"VLLM_SERVER_DEV_MODE": "1"}
    a = rig.start(tiny, args=transfer("kv_producer", folder), env=tells)
    b = rig.start(tiny, args=transfer("kv_consumer", folder), env=tells)
    speculates = ("--speculative-config", json.dumps(NGRAM))
    c = rig.start(tiny, args=[*transfer("kv_consumer", folder), *OTHER, *speculates], env=tells)
    with a, b, c:
        yield a, b, c


def fleet(a: Engine, b: Engine, c: Engine) -> dict[str, Any]:
    shared = {"connector": {"type": "files"}}
    decode = [{"name": "b", "url": b.url}, {"name": "c", "url": c.url}]
    return QUICK | {
        "pools": [
            {"name": "p", "role": "prefill", "endpoints": [{"name": "a", "url": a.url}]} | shared,
            {"name": "d", "role": "decode", "endpoints": decode} | shared,
        ]
    }


def test_the_check_names_blocks_and_hashes_that_differ(trio: tuple[Engine, Engine, Engine]) -> None:
    config = from_data(fleet(*trio))
    report = check(config, asyncio.run(ask_fleet(config, {})), [])
    assert {d.about for d in report.differences if d.breaks is Breaks.EXCHANGE} == {"block_size", "hash_algorithm"}
    assert {d.about for d in report.differences if d.breaks is Breaks.COMPARABILITY} == {"speculation"}
    a, b, c = (engine.facts for engine in report.engines)
    assert (a.block_size, a.dtype, a.connector, a.role) == ("32", "bfloat16", "files", "kv_producer")
    assert (b.speculation, c.speculation, c.hash_algorithm) == ("", "ngram 3 tokens", "sha256")


def test_the_gateway_pairs_engines_that_are_alike_and_says_why_not_others(
    trio: tuple[Engine, Engine, Engine], tmp_path: Path
) -> None:
    sentence = "prefill endpoint a has block size 32, hash algorithm sha256_cbor, decode endpoint c 64, sha256"
    with Gateway.start(tmp_path, fleet(*trio)) as gateway:
        assert wait_until(lambda: any(line.startswith(sentence) for line in gateway.status()["degraded"]), 20)
        a, b, c = (gateway.endpoint(name) for name in "abc")
        assert a["exchange"] == b["exchange"] != c["exchange"] and '"dtype":"bfloat16"' in a["exchange"]
        assert (a["role"], b["role"], c["connector"], c["speculation"]) == ("prefill", "decode", "files", "ngram")
        assert a["version"] and c["acceptance"] is None
        assert gateway.stop() == 0
    assert gateway.verified().differences == 0
