"""The engine: laws after every step, and macro-steps that change nothing but the time it takes."""

from hashlib import blake2b

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse import policies
from pilothouse.core.commands import AnyCommand
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import AnyEvent, BlocksRemoved, BlocksStored, LoadReported
from pilothouse.core.units import BlockKey, Micros, RequestId
from pilothouse.perf.speculation import Method, Speculation
from pilothouse.perf.step_time import StepClock, StepTime, step_us
from pilothouse.policies.rivals import RIVALS
from pilothouse.sim.admission import Admission, FirstChunk, WholePrompt
from pilothouse.sim.blocks import BlockStore, Node
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import Engine, EngineSpec
from pilothouse.sim.jobs import Job
from pilothouse.sim.jump import Jump
from pilothouse.sim.world import Fleet, Pool, summaries, world
from pilothouse.workload import open_loop
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import block_keys, constrained

assert policies
TIME = StepTime(a_us=10_000, b_us=60, c_ns=50, p_us=40, q_ps=800, rho=0.8)


def job(name: str, tokens: int = 320, output: int = 10, content: int = 1, size: int = 16) -> Job:
    return Job(RequestId(name), block_keys(content, tokens // size), tokens, output)


def drained(engine: Engine) -> dict[str, tuple[int, int]]:
    """Request -> (first token, end) [microseconds], walking until the engine is idle."""
    first: dict[str, int] = {}
    ends: dict[str, tuple[int, int]] = {}
    while (at_us := engine.next_step_us()) is not None:
        done = engine.step(at_us)
        engine.store.check()
        first |= dict.fromkeys(done.first, at_us)
        ends |= {j.request: (first[j.request], at_us) for j, _ in done.finished}
    return ends


def test_one_request_takes_its_prefill_and_its_decodes() -> None:
    engine = Engine(EngineSpec(TIME, 100))
    engine.submit(job("a", 320, 3), Micros(0))
    prefill = step_us(TIME, 0, 0, 320, [(320, 0)])  # its blocks are resident while it prefills
    assert drained(engine)["a"][0] == prefill
    assert engine.store.available == 100 and engine.steps == 3


def test_a_prompt_is_reused_but_for_its_last_block() -> None:
    engine = Engine(EngineSpec(TIME, 100))
    engine.submit(job("a"), Micros(0))
    drained(engine)
    engine.submit(job("b"), Micros(10**9))
    due_us = engine.next_step_us()
    assert due_us is not None and due_us - 10**9 < 12_000  # 16 tokens instead of 320
    while (due_us := engine.next_step_us()) is not None:
        done = engine.step(due_us)
    assert done.finished[0][1] == 304


def test_a_request_that_can_never_fit_is_known() -> None:
    engine = Engine(EngineSpec(TIME, 100))
    assert engine.fits(job("a", 1000)) and not engine.fits(job("a", 1600))


@pytest.mark.parametrize("admission", [WholePrompt(), FirstChunk()])
def test_overload_preempts_and_everybody_ends(admission: Admission) -> None:
    engine = Engine(EngineSpec(TIME, 60, batched_tokens_max=256, sequences_max=64, admission=admission))
    for i in range(12):
        engine.submit(job(f"r{i}", 300, 200, content=i), Micros(0))
    assert len(drained(engine)) == 12
    assert engine.preemptions and engine.store.available == 60


def test_an_engine_that_reserves_shows_waiting_as_ttft() -> None:
    """The other one as slower tokens and preemptions."""
    preemptions = []
    for admission in (WholePrompt(), FirstChunk()):
        engine = Engine(EngineSpec(TIME, 60, batched_tokens_max=256, sequences_max=64, admission=admission))
        for i in range(12):
            engine.submit(job(f"r{i}", 300, 200, content=i), Micros(0))
        drained(engine)
        preemptions.append(engine.preemptions)
    assert preemptions[0] <= preemptions[1]


@given(st.lists(st.integers(0, 9), min_size=16, max_size=16), st.integers(1, 99), st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_a_jump_is_the_sum_of_its_steps(gains: list[int], context: int, steps: int) -> None:
    clock, held, decoding = StepClock(TIME), 1000, 7
    jump = Jump(clock, decoding, decoding, context, held, gains, 16)
    time_ps, blocks = 0, held
    for i in range(steps):
        blocks += gains[i % 16]
        time_ps += clock.fixed_ps(decoding) + clock.context_ps(context + decoding * i, blocks * 16)
        assert jump.steps_lasting(time_ps, steps) == i + 1
    assert (jump.span_ps(steps), jump.blocks(steps)) == (time_ps, blocks - held)
    within = jump.steps_within(blocks - held, steps + 50)
    assert jump.blocks(within) <= blocks - held < jump.blocks(within + 1) or within == steps + 50


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 20), st.booleans()), max_size=60))
@settings(max_examples=60, deadline=None)
def test_blocks_are_conserved(script: list[tuple[int, int, int, bool]]) -> None:
    """Chains that fork, held and released in any order, in a store that is always short."""
    store = BlockStore(60, reporting=True)
    held: list[tuple[Node, int]] = []
    named: set[BlockKey] = set()
    for family, fork, length, release in script:
        if release and held:
            store.release(*held.pop(0))
            continue
        keys = (block_keys(family, 8) + block_keys(10 + family * 4 + fork, 20))[:length]
        hits, idle = store.match(keys, len(keys))
        if len(keys) - hits + 2 > store.available - idle:
            continue
        node = store.hold(keys, hits)
        store.take(len(keys) - hits + 2)
        held.append((store.name(node, keys, len(keys)), 2))
        store.check()
        assert store.match(keys, len(keys)) == (len(keys), 0)
        stored, removed = store.collect()
        named = named - set(removed) | set(stored)
        assert len(named) <= 60
    for pair in held:
        store.release(*pair)
    store.check()
    assert store.available == 60 and store.referenced == store.private == 0


def run(
    macro_steps: bool, *, exact: bool, seed: int = 3, blocks: int = 900, speculation: Speculation | None = None
) -> tuple[str, Driver]:
    """Digest of all that the dispatcher was told and answered, in a small fleet under pressure."""
    spec = OpenLoop(12, 6, prompt_tokens=(30, 900), output_tokens=(1, 300), prefixes=5, prefix_tokens=1000)
    engine = EngineSpec(TIME, blocks, batched_tokens_max=1024, sequences_max=64, speculation=speculation)
    digest = blake2b()

    def watch(event: AnyEvent, commands: list[AnyCommand]) -> None:
        digest.update(msgspec.json.encode((event, commands)))

    fleet = Fleet([Pool("p", 3, engine, exact)], Delays(scrape_us=Micros(50_000)))
    dispatcher = Dispatcher(DispatcherSettings(seed=seed, strict=True), RIVALS["llmd_default"])
    load = constrained(open_loop.generate(spec, seed), 0.4, seed)
    driver = world(fleet, dispatcher, load, watch, macro_steps=macro_steps)
    while driver.advance():
        assert sum(len(e.running) + len(e.waiting) for e in driver.engines.values()) <= len(driver.flights)
        for each in driver.engines.values():
            assert each.store.free >= 0
    for each in driver.engines.values():
        each.store.check()
        assert each.store.available == blocks
    assert not driver.flights and len(driver.results[0].outcomes) == len(driver.workload.stages[0].requests)
    assert all(e.in_flight == e.prefill_tokens == 0 for e in dispatcher.fleet.endpoints.values())
    return digest.hexdigest(), driver


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("blocks", [300, 900, 6000])
def test_macro_steps_change_nothing(exact: bool, blocks: int) -> None:
    fast, driver = run(True, exact=exact, blocks=blocks)
    slow, _ = run(False, exact=exact, blocks=blocks)
    assert fast == slow
    if blocks == 300:
        assert sum(e.preemptions for e in driver.engines.values())


@pytest.mark.parametrize("blocks", [300, 6000])
@pytest.mark.parametrize("drafts", [1, 4, 15])
def test_macro_steps_change_nothing_where_engines_speculate(drafts: int, blocks: int) -> None:
    speculation = Speculation(Method.EAGLE3, drafts, 0.77, 0.31)
    fast, driver = run(True, exact=True, blocks=blocks, speculation=speculation)
    slow, _ = run(False, exact=True, blocks=blocks, speculation=speculation)
    assert fast == slow
    if blocks == 300:
        assert sum(e.preemptions for e in driver.engines.values())


def test_one_seed_gives_the_same_bytes_and_another_others() -> None:
    assert run(True, exact=True)[0] == run(True, exact=True)[0] != run(True, exact=True, seed=4)[0]


def test_signals_come_late_and_are_the_engines_own() -> None:
    told: list[AnyEvent] = []
    spec = OpenLoop(5, 2, output_tokens=(20, 20), prefixes=1, prefix_tokens=320, prompt_tokens=(100, 100))
    delays = Delays(scrape_us=Micros(100_000), scraped_us=Micros(7_000), kv_event_us=Micros(3_000))
    fleet = Fleet([Pool("p", 1, EngineSpec(TIME, 500), True)], delays)
    dispatcher = Dispatcher(DispatcherSettings(strict=True), RIVALS["least_prefill"])
    driver = world(fleet, dispatcher, open_loop.generate(spec, 1), lambda event, _: told.append(event))
    results = driver.run()
    loads = [event for event in told if isinstance(event, LoadReported)]
    assert loads and all(load.at_us % 100_000 == 7_000 for load in loads)
    stored = [event for event in told if isinstance(event, BlocksStored)]
    assert stored and len({key for event in stored for key in event.blocks}) == 20 + 10 * 6
    assert not any(isinstance(event, BlocksRemoved) for event in told)
    summary = summaries(results)[0]
    assert summary.label == "Simulated" and summary.requests == 10 and 0.6 < summary.hit_ratio < 0.8
