"""KV below HBM in the simulated world: what is found there, how long it takes to load, and who shares it."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.build import fleet as built
from pilothouse.build import pool_note
from pilothouse.config.scenario_load import load_scenario
from pilothouse.core.commands import Route
from pilothouse.core.events import BlocksRemoved, BlocksStored, Tier
from pilothouse.core.units import SECOND, BlockKey, Micros, RequestId
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import Engine, EngineSpec
from pilothouse.sim.faults import Fault
from pilothouse.sim.invariants import run_checked
from pilothouse.sim.tiers import Tiers, TierSpec
from pilothouse.sim.world import Fleet, Pool, world
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.requests import Planned, Workload
from tests.sim.simulated import ENGINE, SIZE, Told, ask, dispatcher, fault, job_of, many, workload

KV_BYTES = 100_000  # of a token
DRAM, DISK = TierSpec(Tier.DRAM, 400, 10.0), TierSpec(Tier.DISK, 4000, 2.0)
TINY = TierSpec(Tier.DRAM, 20, 10.0)  # less than many a prompt
REMOTE = TierSpec(Tier.REMOTE, 4000, 5.0)
SMALL = msgspec.structs.replace(ENGINE, kv_blocks=120)


def tiered(
    load: Workload,
    *tiers: TierSpec,
    engines: int = 1,
    engine: EngineSpec = SMALL,
    faults: Sequence[Fault] = (),
    macro_steps: bool = True,
    exact: bool = True,
    policy: str = "marginal_cost",
) -> tuple[Driver, Told]:
    """Engines e-0 ... of one pool, not yet run."""
    spec = msgspec.structs.replace(engine, tiers=list(tiers))
    pool = Pool("e", engines, spec, exact, start_up_us=Micros(SECOND), kv_token_bytes=KV_BYTES)
    told, delays = Told(), Delays(scrape_us=Micros(200_000))
    several = dispatcher(policy=policy)
    return world(Fleet([pool], delays), several, load, told, faults=faults, macro_steps=macro_steps), told


def outcomes(driver: Driver) -> dict[str, Outcome]:
    return {o.request: o for result in driver.results for o in result.outcomes}


def ttft_us(driver: Driver, request: str) -> int:
    outcome = outcomes(driver)[request]
    return outcome.first_us - outcome.sent_us


# What is found


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 90)), min_size=1, max_size=25),
    st.sampled_from([30, 100, 200]),
    st.sampled_from([(), (60,), (400,)]),
)
@settings(max_examples=25, deadline=None)
def test_hits_are_those_of_a_naive_lru(asked: list[tuple[int, int]], dram: int, disk: tuple[int, ...]) -> None:
    """One request after the other: HBM as far as it goes without tiers, and from there on what the tiers still have."""
    planned = [ask(f"r{i}", i * 20.0, n * SIZE + 1, 2, content=content) for i, (content, n) in enumerate(asked)]
    plain, _ = tiered(workload(planned))
    tiers = [TierSpec(Tier.DRAM, dram, 10.0), *(TierSpec(Tier.DISK, blocks, 2.0) for blocks in disk)]
    driver, _ = tiered(workload(planned), *tiers)
    plain.run()
    run_checked(driver)
    shelves: list[list[int]] = [[] for _ in tiers]
    loaded = [0] * len(tiers)
    for request in planned:
        at = outcomes(plain)[request.request].cached_tokens // SIZE
        while at < len(request.blocks) and any(request.blocks[at] in shelf for shelf in shelves):
            loaded[next(i for i, shelf in enumerate(shelves) if request.blocks[at] in shelf)] += 1
            at += 1
        assert outcomes(driver)[request.request].cached_tokens == at * SIZE
        for shelf, tier in zip(shelves, tiers, strict=True):
            for key in reversed(request.blocks):
                if key in shelf:
                    shelf.remove(key)
                shelf.append(key)
            del shelf[: max(0, len(shelf) - tier.blocks)]
    assert driver.loads.blocks == {tier.tier: n for tier, n in zip(tiers, loaded, strict=True) if n}


@given(st.integers(1, 1000), st.sampled_from([(DRAM, DISK), (TINY,)]))
@settings(max_examples=6, deadline=None)
def test_what_is_told_is_what_lies_there(seed: int, tiers: tuple[TierSpec, ...]) -> None:
    driver, told = tiered(many(40, seed), *tiers, engines=2)
    run_checked(driver)
    for host in driver.hosts.values():
        engine = host.engine
        assert engine.tiers is not None
        evicted = engine.store.collect()[1]  # and told with the next step that ends
        assert sorted(_told(told, host.id, Tier.HBM) - set(evicted)) == sorted(_hbm(engine))
        for shelf in engine.tiers._shelves:
            assert sorted(_told(told, host.id, shelf.spec.tier)) == sorted(shelf.used.keys())


def _told(told: Told, endpoint: str, tier: Tier) -> set[BlockKey]:
    held: set[BlockKey] = set()
    for event, _ in told.pairs:
        if isinstance(event, BlocksStored | BlocksRemoved) and (event.endpoint, event.tier) == (endpoint, tier):
            held = held | set(event.blocks) if isinstance(event, BlocksStored) else held - set(event.blocks)
    return held


def _hbm(engine: Engine) -> list[BlockKey]:
    found, stack = list[BlockKey](), list(engine.store._root.children.values())
    while stack:
        node = stack.pop()
        found += node.keys[node.start : node.end]
        stack += node.children.values()
    return found


# How long it takes


def evicted(*more: Planned) -> Workload:
    """`first` has gone to lower tiers when `again` asks for it."""
    other = [ask(f"other{i}", 10.0 + 10 * i, 1600, 2, content=10 + i) for i in range(3)]
    return workload([ask("first", 0.0, 1601, 2), *other, ask("again", 60.0, 1601, 2), *more])


@pytest.mark.parametrize(("tier", "gb_per_s"), [(Tier.DRAM, 10.0), (Tier.DISK, 2.0), (Tier.REMOTE, 5.0)])
def test_a_load_takes_its_bytes_at_the_rate_of_the_tier(tier: Tier, gb_per_s: float) -> None:
    driver, told = tiered(evicted(), TierSpec(tier, 4000, gb_per_s))
    run_checked(driver)
    assert driver.loads.blocks == {tier: 100} and outcomes(driver)["again"].cached_tokens == 1600
    last_token_us = 10_000 + 40 + 50 * 1601 / 1000
    assert ttft_us(driver, "again") == pytest.approx(
        100 * SIZE * KV_BYTES / gb_per_s / 1e3 + last_token_us + 1000, rel=0.05
    )
    (route,) = (r for r in told.commands(Route) if r.request == "again")
    assert route.cached_tokens == 1600 and sum(route.why.candidates[0].lower_tokens) == 1600


def test_loads_of_one_tier_wait_for_each_other() -> None:
    big = msgspec.structs.replace(ENGINE, kv_blocks=250)
    other = [ask(f"other{i}", 20.0 + 10 * i, 1600, 2, content=10 + i) for i in range(6)]
    firsts = [ask("x", 0.0, 1601, 2), ask("y", 10.0, 1601, 2, content=2)]
    agains = [ask("x2", 90.0, 1601, 2), ask("y2", 90.0, 1601, 2, content=2)]
    driver, _ = tiered(workload([*firsts, *other, *agains]), DISK, engine=big)
    run_checked(driver)
    assert driver.loads.blocks == {Tier.DISK: 200}
    apart = ttft_us(driver, "y2") - ttft_us(driver, "x2")
    assert apart == pytest.approx(100 * SIZE * KV_BYTES / DISK.gb_per_s / 1e3, rel=0.1)


def test_nobody_waits_for_a_load() -> None:
    """Who decodes meanwhile goes on step by step; and so does who is behind it in the queue."""
    slow = TierSpec(Tier.DRAM, 4000, 0.1)  # 1.6 s for a prompt
    driver, _ = tiered(evicted(ask("decodes", 59.9, 16, 200, content=77), ask("behind", 60.1, 16, 2, content=78)), slow)
    run_checked(driver)
    assert ttft_us(driver, "again") > 1_500_000 and driver.loads.blocks == {Tier.DRAM: 100}
    assert ttft_us(driver, "behind") < 50_000
    assert outcomes(driver)["decodes"].end_us - outcomes(driver)["decodes"].first_us < 199 * 10_500


def test_a_load_nobody_wants_any_more_gives_its_blocks_back() -> None:
    engine = Engine(SMALL, tiers=Tiers([DISK], float(SIZE * KV_BYTES), None))
    for planned in [ask("first", tokens=1601), ask("other", tokens=1600, content=2), ask("again", tokens=1601)]:
        engine.submit(job_of(planned), Micros(0))
        while (due_us := engine.next_step_us()) is not None:
            engine.step(due_us)
    assert list(engine.handed.fetching) == ["again"] and engine.store.available < SMALL.kv_blocks
    assert engine.load(Micros(0)).waiting == 1
    engine.abort(RequestId("again"), Micros(0))
    assert engine.store.available == SMALL.kv_blocks and engine.next_step_us() is None


# Who shares it


def test_a_store_is_the_pools_and_outlives_its_engines() -> None:
    load = workload([ask("first", 0.0, 1601, 2), ask("again", 60.0, 1601, 2)])
    for tier, loaded in ((REMOTE, {Tier.REMOTE: 100}), (DISK, {})):
        driver, _ = tiered(load, tier, engines=2, faults=[fault("crash", "e-0", 10.0), fault("crash", "e-1", 20.0)])
        run_checked(driver)
        assert driver.loads.blocks == loaded
        assert outcomes(driver)["again"].cached_tokens == sum(loaded.values()) * SIZE


# What does not change


@given(st.integers(1, 1000), st.sampled_from([(DRAM,), (DRAM, DISK), (REMOTE,)]))
@settings(max_examples=6, deadline=None)
def test_macro_steps_change_nothing(seed: int, tiers: tuple[TierSpec, ...]) -> None:
    faults = [fault("crash", "e-0", 0.7), fault("slow", "e-1", 0.2, 2.0, 3.0), fault("partition", "e-1", 1.0, 1.5)]
    runs = [tiered(many(50, seed), *tiers, engines=2, faults=faults, macro_steps=macro) for macro in (True, False)]
    for driver, _ in runs:
        driver.run()
    assert runs[0][0].loads.blocks == runs[1][0].loads.blocks
    assert runs[0][1].digest() == runs[1][1].digest()


def test_tiers_that_are_never_hit_change_no_answer() -> None:
    planned = [ask(f"r{i}", i * 0.2, 500 + 30 * i, 20, content=i) for i in range(20)]

    def answers(*tiers: TierSpec) -> Any:
        driver, _ = tiered(workload(planned), *tiers, engines=2)
        driver.run()
        return outcomes(driver)

    assert answers(DRAM, REMOTE) == answers()


# As people write it


def test_a_scenario_says_what_there_is() -> None:
    text = """
pools: [{replicas: 2, kv_blocks: 1000, tiers: {dram: {gb: 100, gb_per_s: 40}, remote: {gb: 1000, gb_per_s: 10}}}]
workload: {kind: chat, stages: [{users: 2, count: 4}]}
"""
    scenario = load_scenario(text).scenario
    (pool,) = built(scenario).pools
    dram, remote = pool.engine.tiers
    assert (dram.tier, dram.gb_per_s, remote.tier) == (Tier.DRAM, 40.0, Tier.REMOTE)
    assert dram.blocks == int(100e9 / pool.kv_token_bytes / pool.engine.block_size) and pool.kv_token_bytes > 0
    assert "blocks in dram at 40 GB/s" in pool_note(scenario.pools[0])
