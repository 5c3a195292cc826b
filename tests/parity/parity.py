"""The words of these tests: one day of a fleet, lived by the deployed stack on virtual time, and by the simulator."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from pilothouse import build
from pilothouse.config.load import from_data
from pilothouse.config.policy import profile
from pilothouse.config.schema import Config
from pilothouse.core.commands import AnyCommand, Route
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import (
    AnyEvent,
    Arrived,
    BlocksRemoved,
    EndpointSeen,
    Finished,
    LoadReported,
    Probed,
    Role,
    Tick,
)
from pilothouse.core.random_stream import stream
from pilothouse.core.units import Micros
from pilothouse.emulate.faults import Faults
from pilothouse.emulate.settings import Wanted
from pilothouse.sim.delays import Delays
from pilothouse.sim.world import Fleet as SimulatedFleet
from pilothouse.sim.world import Pool, world
from pilothouse.workload.requests import Stage, Workload
from rig.virtual.clients import SERVED, Ask, Got, asks, planned, send
from rig.virtual.fleet import Fleet, Model, fleet, model, pool, steady_scrapes
from rig.virtual.loop import VirtualLoop
from rig.virtual.world import run
from rig.virtual.zeromq import Hub

NETWORK_US, KV_EVENT_US = 500, 5_000
ENGINES = 3
TIGHT = Wanted(  # little room: queues, evictions, waiting at the gateway
    model="qwen3-32b", gpu="h100", tp=2, served_name=SERVED, max_model_len=6000, kv_blocks=400, sequences_max=8
)
LLMD = [("llmd_queue", 2.0), ("kv_free", 2.0), ("prefix_cache", 3.0), ("llmd_no_hit_lru", 2.0)]
POLICIES: dict[str, Any] = {
    "marginal_cost": "marginal_cost",
    "cache_and_load": "cache_and_load",
    "random": "random",
    "llmd_default": {
        "scorers": [{"type": name, "weight": weight} for name, weight in LLMD],
        "picker": "best_random_tie",
    },
    "session_affinity": "session_affinity",
}
SCRAPES = {"scrape_every": "300ms"}
QUICK = {"every": "200ms", "timeout": "500ms", "backoff": "200ms", "backoff_max": "1s"}

Pairs = list[tuple[AnyEvent, list[AnyCommand]]]
Trouble = tuple[int, int, Faults]  # microseconds after the beginning, which engine, what


@cache
def engines() -> Model:
    return model(TIGHT, Path(tempfile.mkdtemp(prefix="parity-")))


def config(policy: Any = "marginal_cost", **more: Any) -> Config:
    return from_data({"pools": [pool(ENGINES)], "policy": policy, **more})


def split_config(decider: Any, prefill: int = 2, **more: Any) -> Config:
    """Engines that compute prompts, and one that answers: it alone fetches, so its network interface is the narrow one."""
    nixl = {"connector": {"type": "nixl"}}
    pools = [pool(prefill, "p", role="prefill", **nixl), pool(1, "d", prefill, role="decode", **nixl)]
    return from_data({"pools": pools, "policy": {"like": "marginal_cost", "decider": decider}, **more})


@dataclass(frozen=True)
class Day:
    """What the live stack did, from the first request on."""

    pairs: Pairs
    got: dict[str, Got]
    start_us: int
    scrape_us: int


# The deployed stack


def rough_asks(count: int, seed: int) -> list[Ask]:
    """Some clients leave, some want their answer in one piece."""
    luck = stream(seed, "parity/rough")
    return [
        replace(
            ask,
            leaves_us=luck.randint(1, 400_000) if luck.random() < 0.15 else None,
            stream=luck.random() < 0.8,
        )
        for ask in asks(engines(), count, seed, seconds=3)
    ]


def rough_day(made_with: Config, seed: int, count: int = 60) -> Day:
    """Everything goes wrong: an engine dies and comes back empty, one hangs, one is slow and refuses or cuts off what
    it is asked, KV events are lost, clients leave."""
    troubles: list[Trouble] = [
        (400_000, 0, Faults(crash=True, seconds=0.7)),
        (300_000, 1, Faults(slow=4, seconds=0.6)),
        (1_200_000, 1, Faults(hang=True, seconds=1.5)),
        (900_000, 2, Faults(error_rate=0.3, error_status=503, disconnect_rate=0.3, disconnect_after=2, seconds=1)),
        (2_200_000, 2, Faults(refuse=True, seconds=0.4)),
    ]

    async def main(loop: VirtualLoop, hub: Hub) -> Day:
        async with fleet(loop, hub, made_with, engines(), NETWORK_US) as running:
            await running.until_seen()
            start_us = loop.now_us
            for at_us, which, faults in troubles:
                loop.call_later(at_us / 1e6, running.engines[which].inject, faults)
            loop.call_later(0.6, setattr, hub, "lost", 3)
            got = await send(running, rough_asks(count, seed))
        return Day(running.told, got, start_us, 0)

    return run(main, network_us=NETWORK_US, kv_event_us=KV_EVENT_US)


def lived(made_with: Config, day: Sequence[Ask]) -> Day:
    """A day without trouble, on a fleet whose delays are those of the simulator, none besides.

    Four things of the deployed stack have no counterpart in a simulated fleet, and are left out: engines are scraped
    less often while they are idle, they are inspected now and then, emulated steps may end half a millisecond early,
    since the timers of a real event loop count whole milliseconds, and a kept connection is faster than a new one, so
    that of two requests sent in one microsecond the second may be there first.
    """

    async def main(loop: VirtualLoop, hub: Hub) -> Day:
        async with fleet(loop, hub, made_with, engines(), NETWORK_US) as running:
            await running.until_seen()
            start_us, scrape_us = await _scrapes(running)
            mark = len(running.told)
            got = await send(running, day)
            return Day(running.told[mark:], got, start_us, scrape_us)

    with (
        steady_scrapes(),
        patch("pilothouse.emulate.replica.EARLY_US", 0),
        patch("pilothouse.live.upstream.Pool.give_back", lambda pool, connection: connection.close()),
    ):
        return run(main, network_us=NETWORK_US, kv_event_us=KV_EVENT_US)


async def _scrapes(running: Fleet) -> tuple[int, int]:
    """Waits until engines read their metrics for a scrape, as at the beginning of a simulated stage; returns when that
    is, and how long it is until the next time."""
    await asyncio.sleep(3 * running.picker.config.signals.scrape_every.seconds)
    told_us = [event.at_us for event, _ in running.told if isinstance(event, LoadReported)]
    scrape_us = told_us[-1] - told_us[-1 - len(running.engines)]
    start_us = told_us[-1] - NETWORK_US + scrape_us
    await asyncio.sleep((start_us - running.loop.now_us) / 1e6)
    return start_us, scrape_us


# The simulator


class Limited(Dispatcher):
    """Knows the limits that clients set on their answers; simulated clients do not tell them."""

    limits: dict[str, int]

    def handle(self, event: AnyEvent) -> list[AnyCommand]:
        if isinstance(event, Arrived):
            event = msgspec.structs.replace(event, output_tokens_max=self.limits[event.request])
        return super().handle(event)


def simulated(
    made_with: Config, day: Sequence[Ask], scrape_us: int, network_us: int = NETWORK_US, gb_per_s: float | None = None
) -> Day:
    """The same requests through `sim/driver.py`. `gb_per_s`: of transfers; default: as the deployed stack has it."""
    dispatcher = Limited(build.settings(made_with), profile(made_with.policy))
    dispatcher.limits = {ask.name: ask.output for ask in day}
    spec = engines().settings.spec
    stage = Stage("day", 1.0, 1.0, [planned(engines(), ask) for ask in day])
    delays = Delays(
        network_us=Micros(network_us),
        kv_event_us=Micros(KV_EVENT_US),
        scrape_us=Micros(scrape_us),
        scraped_us=Micros(NETWORK_US),
    )
    pairs: Pairs = []
    rate = (gb_per_s or engines().settings.wanted.transfer_gb_per_s) * 1e3
    pools = [_pool(each.name, len(each.endpoints), Role(each.role), rate) for each in made_with.pools]
    driver = world(
        SimulatedFleet(pools, delays),
        dispatcher,
        Workload(SERVED, spec.block_size, [stage]),
        lambda event, commands: pairs.append((event, commands)),
    )
    (result,) = driver.run()
    got = {
        outcome.request: Got(200, outcome.sent_us, outcome.first_us, outcome.end_us, not outcome.error)
        for outcome in result.outcomes
    }
    return Day(pairs, got, 0, scrape_us)


def _pool(name: str, replicas: int, role: Role, bytes_per_us: float) -> Pool:
    made = Pool(name, replicas, engines().settings.spec, exact=True)
    if role is Role.BOTH:
        return made
    return msgspec.structs.replace(
        made,
        role=role,
        connector="nixl",
        exchange="alike",
        kv_token_bytes=int(engines().settings.kv_bytes),
        link_bytes_per_us=bytes_per_us,
    )


def decisions(day: Day) -> list[tuple[int, Route]]:
    """Every route with its receipt, and when it was decided after the beginning; addresses aside."""
    return [
        (event.at_us - day.start_us, _without_addresses(command))
        for event, commands in day.pairs
        for command in commands
        if isinstance(command, Route)
    ]


def _without_addresses(route: Route) -> Route:
    step = route.prefill and msgspec.structs.replace(route.prefill, url="")
    return msgspec.structs.replace(route, url="", prefill=step)


def history(day: Day) -> list[AnyEvent]:
    """What the dispatcher was told, to the last answer.

    Left out: checks of engines that are well, which the simulator skips, and ticks, which may be a millisecond late
    live. Engines remove blocks of one moment in no order that matters.
    """
    told: list[AnyEvent] = []
    for event, _ in day.pairs:
        event = msgspec.structs.replace(event, at_us=event.at_us - day.start_us)
        if isinstance(event, Arrived):
            event = msgspec.structs.replace(event, output_tokens_max=None)
        elif isinstance(event, BlocksRemoved):
            event = msgspec.structs.replace(event, blocks=sorted(event.blocks))
        if not isinstance(event, Probed | Tick | EndpointSeen):
            told.append(event)
    last = max(i for i, event in enumerate(told) if isinstance(event, Finished))
    return told[: last + 1]


def digest_of_rough_days() -> str:
    """One line that must be the same everywhere."""
    days = [rough_day(config(POLICIES[name], health=QUICK), 7, 30) for name in ("marginal_cost", "llmd_default")]
    return blake2b(msgspec.json.encode([day.pairs for day in days])).hexdigest()
