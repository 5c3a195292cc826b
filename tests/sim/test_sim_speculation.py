"""Speculation in a simulated engine: as many tokens as are accepted, and never more, fewer or others."""

from math import ceil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.events import EndpointSeen, LoadReported
from pilothouse.core.units import Micros, RequestId
from pilothouse.perf.speculation import Method, Speculation
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.admission import FirstChunk
from pilothouse.sim.engine import Engine, EngineSpec
from pilothouse.sim.invariants import run_checked
from pilothouse.sim.jobs import Job, Load, Sequence
from pilothouse.sim.strides import PARTS, Strides
from pilothouse.workload.requests import block_keys, constrained
from tests.sim.simulated import ENGINE, SIZE, fault, many, small

EAGLE = Speculation(Method.EAGLE3, 3, 0.67, 0.3)
SPECULATIONS = st.builds(
    Speculation, st.just(Method.NGRAM), st.integers(1, 14), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)
)


def alone(speculation: Speculation | None, output: int, *, bound: bool = False) -> Engine:
    """An engine that has served one request; a step takes a millisecond."""
    engine = Engine(EngineSpec(StepTime(1000, 0, 0, 0), 200, speculation=speculation))
    keys = block_keys(1, 20)
    engine.submit(Job(RequestId("a"), keys, 320, output, constrained=bound), Micros(0))
    while (due_us := engine.next_step_us()) is not None:
        engine.step(due_us)
    return engine


@given(SPECULATIONS, st.integers(1, 3), st.integers(1, 900), st.integers(0, 5000))
def test_a_stride_gives_blocks_when_tokens_need_them(
    speculation: Speculation, blocks: int, target: int, since: int
) -> None:
    """Step by step: a sequence holds blocks for the tokens it has, neither more nor fewer, and needs repeat."""
    size = 4 * blocks
    strides = Strides(speculation, size)
    for bound in (False, True):
        sequence = Sequence(Job(RequestId("r"), [], target, 1), target, since=since, stride=strides.of(bound))
        needs = [0] * strides.period
        strides.count(needs, sequence, 1)
        held = ceil(target / size)
        for step in range(2 * strides.period):
            held += needs[(since + step) % strides.period]
            assert held == ceil((target + strides.tokens(sequence.stride, step + 1)) / size)
        strides.count(needs, sequence, -1)
        assert not any(needs)


@given(SPECULATIONS, st.integers(1, 500))
def test_steps_are_the_fewest_that_give_the_tokens(speculation: Speculation, tokens: int) -> None:
    strides = Strides(speculation, SIZE)
    for bound in (False, True):
        stride = strides.of(bound)
        steps = strides.steps(stride, tokens)
        assert strides.tokens(stride, steps) >= tokens > strides.tokens(stride, steps - 1)
        assert strides.tokens(stride, steps) - tokens <= strides.overshoot
        assert stride / PARTS == pytest.approx(max(1, speculation.tokens(constrained=bound)), abs=0.5 / PARTS)


def test_an_answer_takes_fewer_steps_by_what_is_accepted() -> None:
    plain, fast, bound = alone(None, 401), alone(EAGLE, 401), alone(EAGLE, 401, bound=True)
    assert plain.steps == 401
    assert fast.steps - 1 == pytest.approx(400 / EAGLE.tokens(), rel=0.015)
    assert bound.steps - 1 == pytest.approx(400 / EAGLE.tokens(constrained=True), rel=0.02)
    assert alone(EAGLE, 1).steps == 1


def test_counters_tell_what_was_drafted_and_accepted() -> None:
    engine = alone(EAGLE, 401)
    load = engine.load(Micros(10**9))
    assert load.drafted_tokens == 3 * (engine.steps - 1)
    assert load.accepted_tokens == pytest.approx(400 - (engine.steps - 1), abs=3)
    before = Load(0, 0, 0.0, 30, 20)
    assert load.since(before) == (load.drafted_tokens - 30, load.accepted_tokens - 20)
    assert Load(0, 0, 0.0, 7, 5).since(before) == (7, 5), "an engine that was restarted counts from 0"


def test_each_gateway_hears_all_counts_once() -> None:
    engine = msgspec.structs.replace(ENGINE, speculation=EAGLE)
    driver, told = small(constrained(many(40, 2), 0.5, 1), engine=engine, gateways=2)
    assert [seen.speculation for seen in told.events(EndpointSeen)] == ["eagle3"] * 4
    driver.run()
    reports = told.events(LoadReported)
    for name, each in driver.engines.items():
        heard = sum(r.drafted_tokens for r in reports if r.endpoint == name)
        assert 0 < heard <= 2 * each.load(driver.now_us).drafted_tokens
        accepted = sum(r.accepted_tokens for r in reports if r.endpoint == name)
        assert heard * 0.1 < accepted < heard


@given(
    seed=st.integers(0, 1000),
    blocks=st.sampled_from([110, 300, 3000]),
    speculation=SPECULATIONS,
    crash=st.booleans(),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=15, deadline=None)
def test_the_laws_hold_and_macro_steps_change_nothing(
    seed: int, blocks: int, speculation: Speculation, crash: bool, share: float
) -> None:
    engine = EngineSpec(ENGINE.step_time, blocks, 16, 512, 32, FirstChunk(), speculation=speculation)
    faults = [fault("crash", "e-0", 0.7), fault("slow", "e-1", 0.4, 2.1, 2.5)] if crash else []
    load = constrained(many(25, seed, tenants=2), share, seed)
    runs = [small(load, engine=engine, faults=faults, macro_steps=macro, start_up_s=0.5) for macro in (True, False)]
    for driver, _ in runs:
        run_checked(driver)
    (fast, fast_told), (slow, slow_told) = runs
    assert fast_told.digest() == slow_told.digest()
    assert [r.outcomes for r in fast.results] == [r.outcomes for r in slow.results]
    gaps = [[g.counts for r in driver.results for g in r.gaps.values()] for driver in (fast, slow)]
    assert gaps[0] == gaps[1]


def test_drafts_count_against_the_step() -> None:
    with pytest.raises(ValueError, match="sequences_max x 4"):
        EngineSpec(ENGINE.step_time, 100, batched_tokens_max=200, sequences_max=64, speculation=EAGLE)


@given(st.floats(0, 1), st.integers(0, 5))
@settings(max_examples=20)
def test_a_share_is_bound_whoever_else_is_there(share: float, seed: int) -> None:
    load = many(60, 3)
    bound = constrained(load, share, seed)
    marks = [planned.constrained for planned in bound.stages[0].requests]
    assert abs(sum(marks) - 60 * share) <= 25 and constrained(load, share, seed) == bound
    fewer = msgspec.structs.replace(load.stages[0], requests=load.stages[0].requests[:20])
    shorter = constrained(msgspec.structs.replace(load, stages=[fewer]), share, seed)
    assert [planned.constrained for planned in shorter.stages[0].requests] == marks[:20]
