"""What a watcher tells the core of an engine: what it is, and what its speculation came to."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pilothouse.config.load import from_data
from pilothouse.core.errors import UpstreamError
from pilothouse.core.events import AnyEvent, EndpointSeen, LoadReported, Role
from pilothouse.live.clock import Clock
from pilothouse.live.inspect import EngineClient, Listed, Metrics, parse_metrics
from pilothouse.live.watch import LAUNCH_TRIES, Watch

POOL = {
    "name": "d", "role": "decode", "connector": {"type": "nixl"}, "labels": {"rack": "r1"}, "models": ["m"],
    "endpoints": [{"name": "e", "url": "http://127.0.0.1:1"}],
}  # fmt: skip
CONFIG = from_data({"pools": [POOL], "signals": {"scrape_every": "1ms"}, "health": {"every": "1ms"}})


class FakeEngine(EngineClient):
    """Answers at once what the test says."""

    def __init__(self, root: str) -> None:
        self.root, self.drafted, self.started_s, self.block_size = root, 0, 1.0, 32
        self.info_fails, self.info_asked = 0, 0

    async def healthy(self) -> bool:
        return True

    async def metrics(self) -> Metrics:
        self.drafted += 10
        text = f"""vllm:num_requests_running 1.0
vllm:spec_decode_num_draft_tokens_total {self.drafted}
vllm:spec_decode_num_accepted_tokens_total {self.drafted / 2}
vllm:cache_config_info{{block_size="{self.block_size}",num_gpu_blocks="11",cache_dtype="auto"}} 1.0
process_start_time_seconds {self.started_s}
"""
        return parse_metrics(text, "vllm")

    async def models(self) -> list[Listed]:
        return [Listed("m", self.root)]

    async def kv_sources(self) -> list[Any]:
        return []

    async def version(self) -> str:
        return "0.32.0"

    async def server_info(self) -> dict[str, Any]:
        self.info_asked += 1
        if self.info_asked <= self.info_fails:
            raise UpstreamError("e", "takes its time")
        speculation = {"method": "ngram", "num_speculative_tokens": 3}
        transfer = {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}
        return {"vllm_config": {"speculative_config": speculation, "kv_transfer_config": transfer}}


async def told(engine: FakeEngine, *until: Callable[[AnyEvent], bool]) -> tuple[list[AnyEvent], Watch]:
    """Watches until events were seen that fit, one after the other; a restart is simulated after each but the last."""
    events: list[AnyEvent] = []
    left, done = list(until), asyncio.Event()

    def post(event: AnyEvent) -> None:
        events.append(event)
        if left and left[0](event):
            del left[0]
            if not left:
                done.set()
            else:
                engine.started_s, engine.drafted, engine.block_size = engine.started_s + 1, 0, 64

    watch = Watch(
        CONFIG.pools[0].endpoints[0], CONFIG.pools[0], CONFIG, engine, Clock(), post, lambda name, models: None
    )
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(done.wait(), 10)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return events, watch


def seen(event: AnyEvent, block_size: int) -> bool:
    return isinstance(event, EndpointSeen) and event.block_size == block_size


def test_an_engine_is_described_whole_and_anew_after_a_restart(tiny: Path) -> None:
    events, _ = asyncio.run(told(FakeEngine(str(tiny)), lambda e: seen(e, 32), lambda e: seen(e, 64)))
    declared, first, *_, last = [e for e in events if isinstance(e, EndpointSeen)]
    assert (declared.role, declared.connector, declared.labels) == (Role.DECODE, "nixl", {"rack": "r1"})
    assert '"only":"e"' in declared.exchange  # nobody's partner before it was reached
    assert (first.role, first.connector, first.speculation) == (Role.DECODE, "nixl", "ngram")
    assert first.kv_token_bytes == 512 and '"block_size":"32"' in first.exchange and '"only"' not in first.exchange
    assert last.exchange == first.exchange.replace('"32"', '"64"')


def test_drafts_are_reported_as_they_come_and_again_after_a_restart(tiny: Path) -> None:
    def reported(event: AnyEvent) -> bool:
        return isinstance(event, LoadReported) and event.drafted_tokens > 0

    events, _ = asyncio.run(told(FakeEngine(str(tiny)), reported, reported))
    reports = [(e.drafted_tokens, e.accepted_tokens) for e in events if isinstance(e, LoadReported)]
    assert reports[0] == (0, 0) and all(accepted * 2 == drafted >= 0 for drafted, accepted in reports)


def test_an_engine_that_takes_its_time_to_say_how_it_was_launched_is_asked_again_but_not_for_ever(tiny: Path) -> None:
    slow, never = FakeEngine(str(tiny)), FakeEngine(str(tiny))
    slow.info_fails, never.info_fails = 2, 1_000_000
    events, _ = asyncio.run(told(slow, lambda e: isinstance(e, EndpointSeen) and e.speculation == "ngram"))
    assert slow.info_asked == 3
    assert [e.speculation for e in events if isinstance(e, EndpointSeen)] == ["", "unnamed", "ngram"]
    reports = iter(range(10 * LAUNCH_TRIES))
    asyncio.run(told(never, lambda e: isinstance(e, LoadReported) and next(reports) == 8 * LAUNCH_TRIES))
    assert never.info_asked == LAUNCH_TRIES
