"""Journals written by the simulator: a day of which everything is known."""

from pathlib import Path

import msgspec

from pilothouse.core.commands import AnyCommand
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import AnyEvent
from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, Micros, RequestId
from pilothouse.journal.log import Writer
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.profiles import PROFILES
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Fleet, Pool, world
from pilothouse.workload.requests import Planned, Stage, Workload, block_keys

TIME = StepTime(a_us=10_000, b_us=60, c_ns=50, p_us=40, q_ps=800, rho=1.0)
SIZE = 16
DELAYS = Delays(network_us=Micros(0), scrape_us=Micros(200_000))
RULES = DispatcherSettings(seed=3, index_blocks_max=100_000)


def conversations(count: int, turns: int = 3, seed: int = 1, session: bool = True) -> Workload:
    """Each turn begins with all that was said before, answers included, a second after the answer."""
    luck, requests = stream(seed, "days"), list[Planned]()
    for i in range(count):
        at_us, context, before = Micros(int(luck.random() * 10 * SECOND) if i else 0), 0, None
        keys = block_keys(1000 * seed + i, 600)
        for turn in range(turns):
            prompt, output = context + luck.randint(40, 900), luck.choice([1, 5, 60, 200])
            blocks, context = keys[: prompt // SIZE], prompt + output
            name = RequestId(f"{i}-{turn}")
            added = keys[prompt // SIZE : context // SIZE]
            arrival = at_us if before is None else SECOND
            number = i + 1 if session else 0
            requests.append(Planned(name, arrival, blocks, prompt, output, output, number, added, before))
            before = name
    return Workload("m", SIZE, [Stage("day", 1.0, 10.0, requests)])


def record(
    directory: Path,
    load: Workload,
    *,
    pools: list[Pool] | None = None,
    policy: str = "cache_and_load",
    segment: int = 1 << 20,
    rules: DispatcherSettings = RULES,
    delays: Delays = DELAYS,
) -> Driver:
    """Simulates, and keeps a journal as the live driver does."""
    dispatcher = Dispatcher(rules, PROFILES[policy])
    journal = Writer(directory, segment, 1 << 30, msgspec.to_builtins(rules), policy)

    def watch(event: AnyEvent, commands: list[AnyCommand]) -> None:
        if journal.full:  # the state after this event: good enough for a reader that decides nothing
            journal.rotate(dispatcher.snapshot() if journal.begun else b"")
        journal.append(event, commands)

    fleet = Fleet(pools or [Pool("e", 3, EngineSpec(TIME, 900), exact=True)], delays)
    driver = world(fleet, dispatcher, load, watch)
    driver.run()
    journal.close()
    return driver
