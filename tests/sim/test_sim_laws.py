"""Whatever happens in a simulated world, its laws hold; and a queue that theory knows behaves as theory says."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, EndpointId, Micros
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.admission import FirstChunk, WholePrompt
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.faults import Fault
from pilothouse.sim.invariants import check_blind, check_ends, check_engines, check_ledgers, run_checked
from pilothouse.workload.outcomes import Outcome
from tests.sim.simulated import TIME, ask, digest_of_a_rough_day, dispatcher, fault, many, small, workload

ROOT = Path(__file__).parent.parent.parent
KINDS = ["crash", "slow", "lost_kv_events", "stale_metrics", "partition"]
TIMES = st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.8])


@st.composite
def trouble(draw: st.DrawFn) -> Fault:
    at_s, lasts_s = draw(TIMES), draw(st.sampled_from([0.0, 0.4, 1.1, 6.0, None]))
    until_s = None if lasts_s is None else at_s + lasts_s
    return fault(
        draw(st.sampled_from(KINDS)), f"e-{draw(st.integers(0, 1))}", at_s, until_s, draw(st.sampled_from([0.5, 4.0]))
    )


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    engines=st.integers(2, 3),
    gateways=st.integers(1, 3),
    exact=st.booleans(),
    cache=st.booleans(),
    blocks=st.sampled_from([110, 300, 3000]),
    admission=st.sampled_from([WholePrompt(), FirstChunk()]),
    start_up_s=st.sampled_from([0.0, 0.5, 3.0]),
    faults=st.lists(trouble(), max_size=5),
)
@settings(max_examples=25, deadline=None)
def test_everybody_ends_and_the_laws_hold(
    seed: int,
    count: int,
    engines: int,
    gateways: int,
    exact: bool,
    cache: bool,
    blocks: int,
    admission: WholePrompt,
    start_up_s: float,
    faults: list[Fault],
) -> None:
    engine = EngineSpec(TIME, blocks, 16, 512, 32, admission, prefix_cache=cache)
    load = many(count, seed, tenants=2, stages=2)
    delays = Delays(Micros(1000), Micros(500), scrape_us=Micros(200_000), tokenise_us=Micros(300))
    driver, _ = small(
        load, engines=engines, gateways=gateways, exact=exact, engine=engine, delays=delays, faults=faults,
        start_up_s=start_up_s, samples_max=10,
    )  # fmt: skip
    run_checked(driver)


@pytest.mark.parametrize("seed", range(4))
def test_macro_steps_change_nothing_whatever_goes_wrong(seed: int) -> None:
    """Faults cut jumps short: what is told, commanded and counted is the same as when every step is walked through."""
    faults = [
        fault("crash", "e-0", 0.9),
        fault("slow", "e-1", 0.4, 2.1, 2.5),
        fault("partition", "e-1", 1.3, 1.9),
        fault("lost_kv_events", "e-1", 2.0, 2.4),
    ]
    runs = [small(many(50, seed), faults=faults, macro_steps=macro, start_up_s=0.5) for macro in (True, False)]
    for driver, _ in runs:
        run_checked(driver)
    (fast, fast_told), (slow, slow_told) = runs
    assert fast_told.digest() == slow_told.digest()
    assert [r.outcomes for r in fast.results] == [r.outcomes for r in slow.results]
    assert [g.counts for r in fast.results for g in r.gaps.values()] == [
        g.counts for r in slow.results for g in r.gaps.values()
    ]


def test_one_seed_gives_the_same_bytes_in_every_process() -> None:
    code = "from tests.sim.simulated import digest_of_a_rough_day as day; print(day())"
    digests = [digest_of_a_rough_day()]
    for salt in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(done.stdout.strip())
    assert len(dict.fromkeys(digests)) == 1, digests


# Theory


STEP_US = 10_000


def single_server(busy: float, mean_steps: float, count: int) -> list[tuple[float, Outcome]]:
    """(when it was sent, what came of it) of Poisson arrivals at one engine that takes one request at a time. Service
    is one step, or as many as a geometric draw says."""
    luck, at_us, times, requests = stream(11, "laws/queue"), 0.0, [], []
    for i in range(count):
        at_us += luck.expovariate(busy / (mean_steps * STEP_US))
        steps = 1 + int(log(1.0 - luck.random()) / log(1.0 - 1.0 / mean_steps)) if mean_steps > 1 else 1
        requests.append(ask(f"r{i}", at_us / SECOND, 1, steps))
        times.append(requests[-1].arrival_us)
    server = EngineSpec(StepTime(STEP_US, 0, 0, 0), 100, sequences_max=1)
    driver, _ = small(workload(requests), engines=1, engine=server, exact=False, delays=Delays(network_us=Micros(0)))
    return list(zip(times, driver.run()[0].outcomes, strict=True))


@pytest.mark.parametrize("mean_steps", [1, 6])
def test_one_server_waits_as_lindley_says(mean_steps: float) -> None:
    """Each waits for what the one before had waited and taken, less the time between them. To the microsecond."""
    waits_us = free_us = 0
    for at_us, outcome in single_server(0.8, mean_steps, 1_000):
        begins_us = max(at_us, free_us)
        free_us = begins_us + outcome.output_tokens * STEP_US
        waits_us += begins_us - at_us
        assert outcome.ttft_us == begins_us - at_us + STEP_US and outcome.end_us == free_us
    assert waits_us > 0


@pytest.mark.parametrize(("mean_steps", "busy"), [(1, 0.5), (1, 0.7), (6, 0.5)])
def test_one_server_waits_as_pollaczek_and_khinchine_say(mean_steps: float, busy: float) -> None:
    """M/D/1, and nearly M/M/1: mean wait = rate x E[S^2] / (2 (1 - rate x E[S]))."""
    served = [outcome for _, outcome in single_server(busy, mean_steps, 4_000)]
    waited_us = sum(outcome.ttft_us - STEP_US for outcome in served) / len(served)
    services = [outcome.output_tokens * STEP_US for outcome in served]
    first, second = sum(services) / len(services), sum(s * s for s in services) / len(services)
    rate = len(served) / served[-1].sent_us
    assert waited_us == pytest.approx(rate * second / (2 * (1 - rate * first)), rel=0.1)


def test_little_s_law() -> None:
    """Requests in the system, averaged over time, are the rate times the time that each spends in it."""
    driver, _ = small(many(60, 9), samples_max=4000, delays=Delays(network_us=Micros(0)))
    (result,) = driver.run()
    lasts_us = max(o.end_us for o in result.outcomes)
    inside = len(driver.hosts) * sum(s.running + s.waiting for s in result.samples) / len(result.samples)
    assert inside == pytest.approx(sum(o.e2e_us for o in result.outcomes) / lasts_us, rel=0.02)


# The laws can be broken


def broken_after(steps: int, breach: Callable[[Driver], None]) -> None:
    """Runs for a while, then breaks a law, then looks."""
    driver, _ = small(many(30, 4))
    for _ in range(steps):
        driver.advance()
    check_ledgers(driver)
    check_engines(driver)
    breach(driver)
    check_ledgers(driver)
    check_engines(driver)
    check_ends(driver, Counter(), [len(driver.results), 0])


def _charge_twice(driver: Driver) -> None:
    next(iter(driver.gateways[0].dispatcher.fleet.endpoints.values())).in_flight += 1


def _forget_a_flight(driver: Driver) -> None:
    driver.flights.popitem()


def _leak_a_block(driver: Driver) -> None:
    next(iter(driver.engines.values())).store.cached += 1


def _lose_a_step(driver: Driver) -> None:
    next(host for host in driver.hosts.values() if host.due_us is not None).due_us = None


def _end_twice(driver: Driver) -> None:
    driver.results[-1].outcomes.append(driver.results[-1].outcomes[0])


@pytest.mark.parametrize("breach", [_charge_twice, _forget_a_flight, _leak_a_block, _lose_a_step, _end_twice])
def test_a_breach_is_seen(breach: Callable[[Driver], None]) -> None:
    with pytest.raises(AssertionError):
        broken_after(150, breach)


def test_a_look_at_the_engines_is_seen() -> None:
    """Wherever a policy hides it: in an attribute, in a closure, in a bound method."""
    driver, _ = small(workload([ask("a")]))
    engine = driver.engines[EndpointId("e-0")]
    check_blind(driver.gateways[0].dispatcher)
    for hidden in (engine, [{"x": (engine,)}], lambda: engine, engine.load, engine.store):
        peeking = dispatcher()
        peeking.turns = hidden  # type: ignore[assignment]
        with pytest.raises(AssertionError, match="can reach"):
            check_blind(peeking)
