"""Asynchronous scheduling: the next step's batch is fixed while one runs, so who comes now waits for both."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.units import Micros, RequestId
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.engine import Engine, EngineSpec, Job
from pilothouse.workload.requests import block_keys

TIME = StepTime(a_us=10_000, b_us=60, c_ns=50, p_us=40, q_ps=800, rho=0.6)
AHEAD = EngineSpec(TIME, 400, steps_ahead=1)


def job(number: int, tokens: int, output: int) -> Job:
    return Job(RequestId(f"r{number}"), block_keys(number % 3, tokens // 16), tokens, output)


def times(spec: EngineSpec, sent: list[tuple[int, Job]]) -> dict[str, tuple[int, int]]:
    """Request -> (first token, end), when each is submitted at its time."""
    engine, left = Engine(spec), sorted(sent, key=lambda pair: pair[0])
    first: dict[str, int] = {}
    ends: dict[str, tuple[int, int]] = {}
    while left or engine.next_step_us() is not None:
        due = engine.next_step_us()
        if left and (due is None or left[0][0] <= due):
            at_us, what = left.pop(0)
            engine.submit(what, Micros(at_us))
            continue
        assert due is not None
        done = engine.step(due)
        engine.store.check()
        first |= dict.fromkeys(done.first, due)
        ends |= {j.request: (first[j.request], due) for j, _ in done.finished}
    assert engine.store.available == spec.kv_blocks
    return ends


def test_who_comes_while_a_step_runs_waits_for_one_step_more() -> None:
    sent = [(0, job(0, 64, 100)), (200_000, job(1, 64, 2))]
    now, ahead = (times(msgspec.structs.replace(AHEAD, steps_ahead=n), sent)["r1"][0] for n in (0, 1))
    assert 10_000 < ahead - now < 10_200  # one decode step of the other request


def test_nothing_runs_ahead_of_an_idle_engine() -> None:
    sent = [(0, job(0, 64, 5))]
    assert times(AHEAD, sent) == times(msgspec.structs.replace(AHEAD, steps_ahead=0), sent)


arrivals = st.tuples(st.integers(0, 400_000), st.integers(16, 900), st.integers(1, 60))


@given(st.lists(arrivals, min_size=1, max_size=12))
@settings(max_examples=60)
def test_macro_steps_change_nothing(sent: list[tuple[int, int, int]]) -> None:
    jobs = [(at_us, job(i, tokens, output)) for i, (at_us, tokens, output) in enumerate(sent)]
    assert times(AHEAD, jobs) == times(msgspec.structs.replace(AHEAD, macro_steps=False), jobs)
