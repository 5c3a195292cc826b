"""Which engines are watched: fixed addresses, DNS answers that change, declared models of engines not yet reached."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pilothouse.config.load import from_data
from pilothouse.core.events import AnyEvent, EndpointGone, EndpointSeen, LoadReported, Probed
from pilothouse.live import discovery
from pilothouse.live.clock import Clock
from pilothouse.live.discovery import Discovery
from pilothouse.live.models import ServedModel
from tests.gateway.scripted import Scripted

FAST = {"signals": {"scrape_every": "50ms"}, "health": {"every": "50ms", "timeout": "500ms", "backoff": "50ms"}}


class Heard:
    """What a discovery tells."""

    def __init__(self, pool: dict[str, Any]) -> None:
        self.events: list[AnyEvent] = []
        self.models: dict[str, ServedModel] = {}
        config = from_data({"pools": [pool], **FAST})
        self.discovery = Discovery(config, {}, Clock(), self.events.append, self._changed)

    def _changed(self, models: dict[str, ServedModel]) -> None:
        self.models = models

    def of(self, kind: type[AnyEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async def __aenter__(self) -> "Heard":
        self._task = asyncio.create_task(self.discovery.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def never(writer: asyncio.StreamWriter) -> None:
    """No completion is asked for here."""


def test_a_fixed_engine_is_seen_probed_scraped_and_gone_at_the_end() -> None:
    async def main() -> None:
        async with Scripted(never) as engine:
            async with Heard({"endpoints": [{"url": engine.url, "name": "one"}]}) as heard:
                await heard.until(lambda: bool(heard.of(LoadReported) and heard.of(Probed)))
                (seen,) = heard.of(EndpointSeen)
                assert (seen.endpoint, seen.url, seen.models, seen.exact) == ("one", engine.url, ["tiny"], False)
                assert heard.models["tiny"].urls == (engine.url,)
            assert [gone.endpoint for gone in heard.of(EndpointGone)] == ["one"]
            assert heard.models == {}

    asyncio.run(main())


def test_engines_come_and_go_with_the_dns_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Scripted(never) as first, Scripted(never) as second:
            answers = [[first.url], OSError("resolver down"), [first.url, second.url], [second.url]]

            async def resolve(dns: object) -> list[str]:
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if isinstance(answer, OSError):
                    raise answer
                assert isinstance(answer, list)
                return answer

            monkeypatch.setattr(discovery, "urls_of", resolve)
            async with Heard({"dns": {"name": "engines.test", "port": 1, "every": "100ms"}}) as heard:
                await heard.until(lambda: len(heard.of(EndpointSeen)) == 2 and len(heard.of(EndpointGone)) == 1)
                assert [seen.url for seen in heard.of(EndpointSeen)] == [first.url, second.url]
                assert heard.of(EndpointGone)[0].endpoint == first.url.removeprefix("http://")

    asyncio.run(main())


def test_a_name_is_resolved_for_real() -> None:
    async def main() -> None:
        async with Scripted(never) as engine:
            port = int(engine.url.rpartition(":")[2])
            async with Heard({"dns": {"name": "127.0.0.1", "port": port}}) as heard:
                await heard.until(lambda: bool(heard.of(EndpointSeen)))
                assert heard.of(EndpointSeen)[0].url == engine.url

    asyncio.run(main())


def test_a_declared_model_is_known_and_down_until_its_engine_is_reached() -> None:
    async def main() -> None:
        async with Scripted(never) as engine:
            pool = {"endpoints": [{"url": engine.url}], "models": ["tiny"], "tokenizer": "somewhere"}
            async with Heard(pool) as heard:
                await heard.until(lambda: bool(heard.of(LoadReported)))
                assert isinstance(heard.events[0], EndpointSeen) and heard.events[0].models == ["tiny"]
                assert [event.ok for event in heard.events[1:3] if isinstance(event, Probed)] == [False, False]
                await heard.until(lambda: any(event.ok for event in heard.of(Probed)))

    asyncio.run(main())
