"""Our gateway in front of emulated engines: it takes them for exact, and sends a repeated prompt to who holds it."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from emulating import CHAT, Api, chat, emulated

from rig.engines import wait_until
from rig.gateways import Gateway, fleet

WAIT_S = 20.0


@pytest.mark.parametrize("hashing", ["sha256_cbor", "sha256"])
def test_the_gateway_follows_them_exactly_and_routes_to_the_holder(tmp_path: Path, cache: Path, hashing: str) -> None:
    with (
        emulated(cache, 2, hashing=hashing, loras=("ad1",)) as (a, b),
        Gateway.start(tmp_path, fleet(a.url, b.url)) as gateway,
    ):
        assert wait_until(gateway.is_steering, WAIT_S)
        assert wait_until(lambda: all(e["kv"] == "exact" for e in gateway.status()["endpoints"]), WAIT_S)
        assert [(line["mode"], line["note"]) for line in gateway.status()["models"]] == [("exact", "")] * 2
        door = Api(gateway.url)
        for model in ("tiny", "ad1"):
            body = json.dumps(chat(f"A long story for {model}. " * 40, model=model)).encode()
            prompt = json.loads(door.ask("POST", CHAT, body)[1])["usage"]["prompt_tokens"]
            for _ in range(4):
                status, raw, headers = door.ask("POST", CHAT, body)
                cached = json.loads(raw)["usage"]["prompt_tokens_details"]["cached_tokens"]
                assert status == 200 and cached == (prompt - 1) // 16 * 16
                assert int(headers["x-pilothouse-cached-tokens"]) == cached and headers["x-emulated"] == "pilothouse"
        assert gateway.stop() == 0
    assert gateway.verified().differences == 0


def test_an_engine_that_comes_back_with_other_kv_addresses_is_followed_there(tmp_path: Path, cache: Path) -> None:
    with ExitStack() as first_life:
        (engine,) = first_life.enter_context(emulated(cache))
        before = published_at(engine)
        with Gateway.start(tmp_path, fleet(engine.url)) as gateway:
            follows(gateway)
            with first_life.pop_all():
                pass
            with emulated(cache, port=engine.port) as (engine,):
                assert published_at(engine) != before
                assert wait_until(lambda: gateway.endpoint("a")["kv_feed"]["events"] == 0, WAIT_S)
                follows(gateway)
                assert gateway.status()["degraded"] == []


def published_at(engine: Api) -> str:
    return str(engine.get("/kv_event_sources")["0"]["endpoint"])


def follows(gateway: Gateway) -> None:
    """What the gateway says of a repeated prompt's cache is what its events told."""
    assert wait_until(gateway.is_steering, WAIT_S)
    body = json.dumps(chat("A long story. " * 40)).encode()
    for _ in range(2):
        status, raw, headers = Api(gateway.url).ask("POST", CHAT, body)
        cached = json.loads(raw)["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert status == 200 and int(headers["x-pilothouse-cached-tokens"]) == cached
    assert wait_until(lambda: gateway.endpoint("a")["kv_feed"]["events"] > 0, WAIT_S)


def test_an_emulated_pair_serves_split_requests(tmp_path: Path, cache: Path) -> None:
    with emulated(cache) as (prefill,), emulated(cache) as (decode,):
        pools = [
            {
                "name": role,
                "role": role,
                "connector": {"type": "nixl"},
                "endpoints": [{"name": role, "url": engine.url}],
            }
            for role, engine in (("prefill", prefill), ("decode", decode))
        ]
        policy = {"like": "marginal_cost", "decider": {"type": "always", "fallback": "error"}}
        config = fleet() | {"pools": pools, "policy": policy}
        with Gateway.start(tmp_path, config) as gateway:
            assert wait_until(gateway.is_steering, WAIT_S)
            assert wait_until(lambda: all(e["exchange"] for e in gateway.status()["endpoints"]), WAIT_S)
            door = Api(gateway.url)
            for number in range(4):
                body = chat(f"{number} long stories. " * 40) | {"stream": number % 2 == 1}
                name = f"split-{number}"
                status, _, headers = door.ask("POST", CHAT, json.dumps(body).encode(), **{"x-request-id": name})
                assert (status, headers["x-pilothouse-prefill"]) == (200, "prefill")
                assert wait_until(lambda name=name: gateway.get(f"/explain/{name}")[0] == 200, WAIT_S)  # type: ignore[misc]
            assert wait_until(lambda: len(gateway.requests()) == 4, WAIT_S)
            for line in gateway.requests():
                assert (line["prefill"], line["endpoint"], line["outcome"]) == ("prefill", "decode", "finished")
                assert line["prefill_us"] > 0 and line["transfer_us"] > 0 and not line["failures"]
            assert gateway.stop() == 0
        assert gateway.verified().differences == 0
