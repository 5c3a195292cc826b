"""Real engines, one of which drafts by n-gram: the same tokens, what they say of drafts, and who is sent where."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import aiohttp
import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.journal.day import read_day
from pilothouse.live.inspect import Metrics, parse_metrics
from rig.engines import Engine, Rig, wait_until
from rig.gateways import Gateway, fleet

pytestmark = pytest.mark.engine
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 1}
WORDS = [100 + number * 37 % 3000 for number in range(20)]
PROMPT = WORDS * 6  # says everything again: there is always something to draft
POLICY = {"filters": ["without_speculation"], "scorers": ["least_requests"]}


@pytest.fixture(scope="module")
def pair(rig: Rig, tiny: Path) -> Iterator[tuple[Engine, Engine]]:
    plain = rig.start(tiny)
    drafts = rig.start(tiny, args=["--speculative-config", json.dumps(NGRAM)], env={"VLLM_SERVER_DEV_MODE": "1"})
    with plain, drafts:
        yield plain, drafts


def complete(url: str, prompt: list[int], tokens: int = 48, **more: Any) -> list[int]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "return_token_ids": True}
    request = Request(f"{url}/v1/completions", json.dumps(body | more).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        found: list[int] = json.load(answer)["choices"][0]["token_ids"]
        return found


def metrics(engine: Engine) -> Metrics:
    with urlopen(f"{engine.url}/metrics", timeout=10) as answer:
        return parse_metrics(answer.read().decode(), "vllm")


def test_tokens_are_the_same_and_drafts_are_counted(pair: tuple[Engine, Engine]) -> None:
    plain, drafts = pair
    before = metrics(drafts)
    for shift in range(3):
        prompt = PROMPT[shift:]
        assert complete(drafts.url, prompt, ignore_eos=True) == complete(plain.url, prompt, ignore_eos=True)
    after = metrics(drafts)
    drafted = after.drafted_tokens - before.drafted_tokens
    assert drafted > 0 and 0 <= after.accepted_tokens - before.accepted_tokens <= drafted
    assert after.speculates and not metrics(plain).speculates


def test_bound_requests_go_to_the_engine_that_does_not_draft(pair: tuple[Engine, Engine], tmp_path: Path) -> None:
    config = fleet(*(engine.url for engine in pair), policy=POLICY)
    with Gateway.start(tmp_path, config) as gateway:
        assert wait_until(lambda: gateway.status()["ready"] and gateway.endpoint("b")["speculation"] == "ngram", 20)

        def sent(**more: Any) -> list[str]:
            before = len(gateway.lines())

            async def together() -> None:
                body = {
                    "model": "tiny",
                    "prompt": PROMPT,
                    "max_tokens": 24,
                    "temperature": 0,
                    "ignore_eos": True,
                } | more
                async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
                    for _ in range(6):
                        tasks.create_task(ask(session, f"{gateway.url}/v1/completions", body))

            asyncio.run(together())
            assert wait_until(lambda: len(gateway.lines()) == before + 6, 10)
            return [line["endpoint"] for line in gateway.lines()[before:]]

        assert set(sent()) == {"a", "b"}, "whoever is free goes anywhere"
        assert sent(structured_outputs={"choice": ["yes", "no"]}) == ["a"] * 6
        assert wait_until(lambda: gateway.endpoint("b")["acceptance"] is not None, 20)
        assert gateway.endpoint("a")["acceptance"] is None
        advice = json.loads(advised(tmp_path, "--gateway", gateway.control))
        assert [o["method"] for o in advice["options"] if o["label"] == "Measured"] == ["ngram"]
        assert gateway.stop() == 0
    assert gateway.verified().differences == 0
    day = read_day(gateway.journal)
    assert day.engines["b"].drafted_tokens > 0 == day.engines["a"].drafted_tokens  # type: ignore[index]
    assert [ask.arrived.constrained for ask in day.asks] == [False] * 6 + [True] * 6


def advised(directory: Path, *more: str) -> str:
    path = directory / "workload.yaml"
    path.write_text("{kind: open_loop, stages: [{users: 2, count: 4}], output_tokens: 50}")
    hardware = ["--model", "qwen3-8b", "--gpu", "h100"]
    done = CliRunner().invoke(app, ["advise", "speculative", str(path), *hardware, "--json", *more])
    assert done.exit_code == 0, done.output
    return done.output


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    async with session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
