"""The front door's own two steps on real engines: the tokens of one engine alone, and the KV came from the other."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from pilothouse.core.commands import PrefillStep, Route
from pilothouse.core.events import Failed, FailureKind, Role
from pilothouse.core.units import EndpointId, RequestId
from pilothouse.serving.settings import ConnectorSettings
from rig.engines import Engine, Rig
from rig.exchange import Exchange, bootstrap_port
from tests.disaggregation.by_hand import NO_PARAMETERS, fetched_tokens, occupied, varied_prompt, whole
from tests.serving.fakes import WHY, World, post, run

pytestmark = pytest.mark.engine

PROMPTS = 3
TOKENS = 400
CONNECTORS = ("nixl", "nixl_push", "mooncake", "files", "multi", "mooncake_store", "lmcache")


def front_door(exchange: Exchange, prefill: Engine, decode: Engine) -> World:
    """Splits every request at its first attempt."""
    connector = exchange.connector
    adapter = "nixl" if connector == "multi" else connector
    port = bootstrap_port(prefill) if connector == "mooncake" else None
    settings = ConnectorSettings(kind=adapter, lease_us=exchange.lease_s * 1_000_000, port=port)
    world = World(connectors={connector: settings}, engine_key="none")
    steering, step = world.steering, PrefillStep(EndpointId("prefill"), prefill.url, connector, 0, WHY)

    def route(request: str) -> None:
        failed = sum(isinstance(event, Failed) for event in steering.events)
        split = None if failed else step
        name = RequestId(request)
        steering.answers[request](Route(name, EndpointId("decode"), decode.url, failed + 1, 0, WHY, split))

    steering.route = route  # type: ignore[method-assign]
    return world


async def tokens(world: World, prompt: list[int], *, stream: bool) -> list[int]:
    body: dict[str, Any] = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0}
    reply = await world.ask(post(json.dumps(body | {"return_token_ids": True, "stream": stream}).encode()))
    assert reply.status == 200, reply.body
    if not stream:
        found: list[int] = json.loads(reply.body)["choices"][0]["token_ids"]
        return found
    parts = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n\n") if line]
    return [each for part in parts[:-1] for each in json.loads(part)["choices"][0]["token_ids"] or []]


@pytest.mark.parametrize("connector", CONNECTORS)
def test_the_tokens_of_one_engine(connector: str, pair: tuple[Exchange, Engine, Engine], single: Engine) -> None:
    exchange, prefill, decode = pair

    async def main() -> None:
        async with front_door(exchange, prefill, decode) as world:
            for number in range(PROMPTS):
                for stream in (True, False):
                    prompt = varied_prompt(1000 + 2 * number + stream, TOKENS)
                    wanted = await asyncio.to_thread(whole, single, prompt)
                    assert await tokens(world, prompt, stream=stream) == wanted
            assert not any(isinstance(event, Failed) for event in world.steering.events)
            assert world.steering.kinds().count("PrefillDone") == 2 * PROMPTS

    run(main())
    if connector not in ("mooncake_store", "lmcache"):  # which may not have stored it yet, and then it is computed
        full_blocks = TOKENS - TOKENS % 64
        assert fetched_tokens(decode) >= 2 * PROMPTS * (full_blocks if connector in NO_PARAMETERS else TOKENS)


@pytest.mark.parametrize("connector", ["nixl"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_chats(path: str, connector: str, pair: tuple[Exchange, Engine, Engine], single: Engine) -> None:
    exchange, prefill, decode = pair
    words = " ".join(f"{path}{number}" for number in range(60))
    asked = {"model": "tiny", "max_tokens": 12, "temperature": 0, "messages": [{"role": "user", "content": words}]}

    async def main() -> None:
        async with front_door(exchange, prefill, decode) as world:
            for stream in (True, False):
                body = json.dumps(asked | {"stream": stream}).encode()
                right = await asyncio.to_thread(said, single, path, body)
                assert text(right)
                reply = await world.ask(post(body, path))
                assert reply.status == 200 and text(reply.body) == text(right)
            assert not any(isinstance(event, Failed) for event in world.steering.events)

    run(main())
    assert fetched_tokens(decode) > 0


def said(engine: Engine, path: str, body: bytes) -> bytes:
    with urlopen(Request(engine.url + path, body, {"content-type": "application/json"}), timeout=60) as answer:
        found: bytes = answer.read()
        return found


def text(answer: bytes) -> str:
    """What an answer says, in one piece or as a stream, whose parts hold one token or several."""
    return "".join(re.findall(r'"(?:content|text)": ?"((?:[^"\\]|\\.)*)"', answer.decode()))


def test_a_late_claim_is_withdrawn_and_the_tokens_are_right(rig: Rig, tiny: Path, single: Engine) -> None:
    """The decode engine is busy for longer than half the lease: the request is served again, whole."""
    with Exchange(rig, "nixl", lease_s=2) as exchange:
        prefill, decode = (
            exchange.start(Role.PREFILL, tiny),
            exchange.start(Role.DECODE, tiny, args=["--max-num-seqs", "1"]),
        )
        prefill.wait_ready(), decode.wait_ready()
        prompt = varied_prompt(77)

        async def main() -> list[int]:
            async with front_door(exchange, prefill, decode) as world:
                asked = asyncio.create_task(tokens(world, prompt, stream=True))
                while not any(isinstance(event, Failed) for event in world.steering.events):
                    world.steering.changed.clear()
                    await asyncio.wait_for(world.steering.changed.wait(), 10)
                (failed,) = (event for event in world.steering.events if isinstance(event, Failed))
                assert failed.kind is FailureKind.EXPIRED and not failed.sent
                busy.close()
                return await asked

        busy = Busy(decode)
        try:
            got = run(main())
        finally:
            busy.close()
        assert got == whole(single, prompt)


class Busy:
    """`occupied` until it is closed, from wherever that is."""

    def __init__(self, engine: Engine) -> None:
        self._block = occupied(engine)
        self._block.__enter__()
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._block.__exit__(None, None, None)
