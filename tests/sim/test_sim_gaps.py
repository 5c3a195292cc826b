"""The time between tokens: every gap of every answer is counted once, in the right bucket."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.units import Micros
from pilothouse.perf.step_time import StepClock, StepTime
from pilothouse.sim.admission import FirstChunk
from pilothouse.sim.engine import Engine
from pilothouse.sim.gaps import Gaps
from pilothouse.sim.jump import Jump
from pilothouse.workload.outcomes import Histogram, Outcome
from tests.sim.simulated import ENGINE, ask, job_of, many, small


@given(
    gains=st.lists(st.integers(0, 9), min_size=16, max_size=16),
    context=st.integers(1, 50_000),
    steps=st.integers(1, 600),
    decoding=st.integers(3, 9),
    c_ns=st.sampled_from([0, 50, 5_000, 400_000]),
)
@settings(max_examples=60, deadline=None)
def test_a_jump_counts_as_its_steps(gains: list[int], context: int, steps: int, decoding: int, c_ns: int) -> None:
    time = StepTime(a_us=100, b_us=1, c_ns=c_ns, p_us=40, rho=0.5)
    jump = Jump(StepClock(time), decoding, decoding, context, 100, gains, 16)
    at_once, one_by_one = Gaps(), Gaps()
    at_once.begin(3)
    one_by_one.begin(3)
    of = {1: 2, 2: 0}
    at_once.decoded(jump, steps, jump.span_ps(steps), decoding, of)
    for i in range(1, steps + 1):
        one_by_one.decoded(None, 1, jump.span_ps(i) - jump.span_ps(i - 1), decoding, of)
    for one, other in zip(at_once.of, one_by_one.of, strict=True):
        assert (one.counts, one.count) == (other.counts, other.count)
        assert one.total_us == pytest.approx(other.total_us)
    assert [h.count for h in at_once.of] == [(decoding - 2) * steps, 2 * steps, 0]


def gaps_of(outcomes: list[Outcome]) -> tuple[int, float]:
    """(how many, how long together), from the ends of each answer."""
    return sum(o.output_tokens - 1 for o in outcomes), sum(o.end_us - o.first_us for o in outcomes)


@pytest.mark.parametrize("blocks", [120, 3000])
@pytest.mark.parametrize("seed", [1, 2])
def test_gaps_add_up_to_the_answers(blocks: int, seed: int) -> None:
    """By tenant, preempted ones included; and walking through every step changes nothing."""
    engine = msgspec.structs.replace(ENGINE, kv_blocks=blocks, admission=FirstChunk())
    fast, fast_told = small(many(50, seed, tenants=3, stages=2), engine=engine)
    slow, slow_told = small(many(50, seed, tenants=3, stages=2), engine=engine, macro_steps=False)
    fast.run()
    slow.run()
    assert fast_told.digest() == slow_told.digest()
    assert bool(sum(e.preemptions for e in fast.engines.values())) == (blocks < 3000)
    for one, other in zip(fast.results, slow.results, strict=True):
        assert list(one.gaps) and one.gaps.keys() == other.gaps.keys()
        for tenant, gaps in one.gaps.items():
            assert gaps.counts == other.gaps[tenant].counts and gaps.count == sum(gaps.counts.values())
            count, total_us = gaps_of([o for o in one.outcomes if o.tenant == tenant and not o.refused])
            assert gaps.count == count and abs(gaps.total_us - total_us) <= len(one.outcomes)


def test_a_preempted_sequence_has_one_long_gap() -> None:
    """As long as it waits and starts over: from its last token to the next one."""
    engine = Engine(msgspec.structs.replace(ENGINE, kv_blocks=46, admission=FirstChunk()))
    engine.gaps = Gaps()
    for name in ("first", "second"):
        engine.submit(job_of(ask(name, output=100, content=ord(name[0]))), Micros(0))
    first_us: dict[str, int] = {}
    ends: list[int] = []
    while (due_us := engine.next_step_us()) is not None:
        done = engine.step(due_us)
        first_us |= dict.fromkeys(done.first, due_us)
        ends += [due_us] * len(done.finished)
    assert engine.preemptions == 1
    (histogram,) = engine.gaps.of
    assert histogram.count == 2 * 99
    assert abs(histogram.total_us - (sum(ends) - sum(first_us.values()))) <= 2
    long_us = histogram.percentile_us(1.0)
    assert long_us > 20 * histogram.percentile_us(0.99)
    assert long_us == pytest.approx(ends[1] - ends[0], rel=0.9)


def test_a_histogram_is_true_to_one_percent() -> None:
    histogram, values = Histogram(), [1.0, 3.0, 100.0, 101.0, 5_000.0]
    for value in values:
        histogram.add(value, 2)
    assert histogram.spread().mean == pytest.approx(sum(values) / 5 / 1e6)
    for share, value in zip((0.2, 0.4, 0.6, 0.8, 1.0), values, strict=True):
        assert histogram.percentile_us(share) == pytest.approx(value, rel=0.011)
    assert Counter(histogram.counts).total() == 10
