"""Split requests in the simulated world: who computes, what moves, when it arrives, and what goes wrong."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.config.policy import profile
from pilothouse.core.commands import Route
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import Failed, FailureKind, FirstToken, PrefillDone, Role
from pilothouse.core.units import SECOND, Micros
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.faults import Fault
from pilothouse.sim.invariants import run_checked
from pilothouse.sim.world import Fleet, Pool, world
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.requests import Planned, Workload
from tests.sim.simulated import ENGINE, TIME, Told, ask, fault, linked, many, workload

ALWAYS = {"like": "cache_and_load", "decider": "always"}
KV_BYTES, RATE = 100_000, 10_000.0  # of a token, per microsecond: 10 us a token


def pair(
    load: Workload,
    *,
    prefill: int = 1,
    decode: int = 1,
    policy: object = ALWAYS,
    engine: EngineSpec = ENGINE,
    faults: Sequence[Fault] = (),
    macro_steps: bool = True,
    gateways: int = 1,
    **late: Any,
) -> tuple[Driver, Told]:
    """Prefill engines p-0 ... and decode engines d-0 ..., not yet run."""
    delays = Delays(**({"scrape_us": Micros(200_000)} | late))
    alike = linked(KV_BYTES, RATE)
    pools = [
        Pool("p", prefill, engine, True, start_up_us=Micros(SECOND), role=Role.PREFILL, **alike),
        Pool("d", decode, engine, True, start_up_us=Micros(SECOND), role=Role.DECODE, **alike),
    ]
    told = Told()
    several = [Dispatcher(DispatcherSettings(seed=1, strict=True), profile(policy)) for _ in range(gateways)]
    return world(Fleet(pools, delays), several, load, told, faults=faults, macro_steps=macro_steps), told


def outcomes(driver: Driver) -> dict[str, Outcome]:
    return {o.request: o for result in driver.results for o in result.outcomes}


def time_of(told: Told, kind: type[PrefillDone] | type[FirstToken], request: str) -> int:
    (event,) = (e for e in told.events(kind) if e.request == request)
    return event.at_us


def test_an_idle_pair_takes_the_sum_of_its_parts() -> None:
    tokens = 3200
    driver, told = pair(workload([ask("r", 0.0, tokens, 20)]))
    run_checked(driver)
    computed_us = time_of(told, PrefillDone, "r")
    steps = [min(1024, tokens - at) for at in range(0, tokens, 1024)]
    assert computed_us > sum(10_000 + 40 * n for n in steps), "the prefill engine computes all of it"
    handover_us = time_of(told, FirstToken, "r") - computed_us
    moved_us = (tokens - 1) * KV_BYTES / RATE
    last_token_us = 10_000 + 40 + 50 * tokens / 1000
    assert handover_us == pytest.approx(2 * 500 + moved_us + last_token_us, rel=0.1)
    assert driver.transfers.bytes_moved == (tokens - 1) * KV_BYTES and driver.transfers.fetched == 1
    assert outcomes(driver)["r"].cached_tokens == 0


def test_what_the_decode_engine_has_does_not_move() -> None:
    driver, _ = pair(workload([ask("r", 0.0, 1600, 5)], [ask("s", 0.0, 3200, 5)]))
    run_checked(driver)
    assert driver.transfers.bytes_moved == (1599 + 3199 - 1600) * KV_BYTES
    assert outcomes(driver)["s"].cached_tokens == 1600


def test_transfers_share_the_links() -> None:
    """Two of one source cannot arrive in less than the time of both."""
    several = [ask(f"r{i}", 0.0, 800, 5, content=i) for i in range(6)]
    driver, told = pair(workload(several), decode=3, engine=msgspec.structs.replace(ENGINE, batched_tokens_max=8192))
    run_checked(driver)
    first_us = [time_of(told, FirstToken, f"r{i}") for i in range(6)]
    assert max(first_us) - time_of(told, PrefillDone, "r0") >= 6 * 799 * KV_BYTES / RATE
    assert driver.transfers.fetched == 6


def test_a_decode_engine_without_room_lets_them_wait() -> None:
    """And the prefill engine keeps what is not fetched, and stands still when that fills it."""
    tight = msgspec.structs.replace(ENGINE, kv_blocks=130)
    driver, told = pair(workload([ask(f"r{i}", 0.0, 960, 60, content=i) for i in range(6)]), engine=tight)
    run_checked(driver)
    assert all(not o.refused for o in outcomes(driver).values())
    assert len(told.events(PrefillDone)) == 6


@pytest.mark.parametrize("policy", [ALWAYS, "marginal_cost", {"like": "marginal_cost", "decider": "threshold"}])
def test_unsplit_and_split_end_alike(policy: object) -> None:
    driver, _ = pair(many(60, 3), prefill=2, decode=2, policy=policy, gateways=2)
    run_checked(driver)
    assert all(not o.refused for o in outcomes(driver).values())


# What goes wrong


def ended(driver: Driver) -> Outcome:
    run_checked(driver)
    (outcome,) = outcomes(driver).values()
    return outcome


ONE: list[Planned] = [ask("r", 0.0, 6400, 40)]  # computed after about 0.4 s, moved after 64 ms more


@pytest.mark.parametrize(
    ("at_s", "kind", "prefill"), [(0.1, FailureKind.CLOSED, True), (0.39, FailureKind.ERROR, False)]
)
def test_a_prefill_engine_that_dies_is_replaced(at_s: float, kind: FailureKind, prefill: bool) -> None:
    """Before it has computed, and while it is sending."""
    driver, told = pair(workload(ONE), prefill=2, faults=[fault("crash", "p-0", at_s)])
    assert not ended(driver).refused
    failure = told.events(Failed)[0]
    assert (failure.kind, failure.prefill) == (kind, prefill)
    assert len(told.events(Failed)) <= 2, "an engine that dies while it sends is found to be dead at the next attempt"


def test_after_the_transfer_nobody_misses_the_prefill_engine() -> None:
    driver, told = pair(workload(ONE), faults=[fault("crash", "p-0", 0.5)])
    assert not ended(driver).refused and not told.events(Failed)


def test_with_no_prefill_engine_left_it_is_served_whole() -> None:
    driver, told = pair(workload(ONE), faults=[fault("crash", "p-0", 0.1)])
    assert not ended(driver).refused
    assert told.commands(Route)[-1].prefill is None


@pytest.mark.parametrize("at_s", [0.39, 0.5])
def test_a_decode_engine_that_dies_with_pulled_blocks(at_s: float) -> None:
    driver, told = pair(workload(ONE), decode=2, faults=[fault("crash", "d-0", at_s)])
    outcome = ended(driver)
    assert outcome.refused == bool(at_s > 0.48), "a client that has seen tokens cannot be helped"
    assert [e.kind for e in told.events(Failed)] == [FailureKind.BROKEN if outcome.refused else FailureKind.CLOSED]


def test_a_handover_that_takes_too_long_is_given_up() -> None:
    """The decode engine is full for longer than the gateway waits, which is less than the lease."""
    tight = msgspec.structs.replace(ENGINE, kv_blocks=130)
    load = workload([ask("long", 0.0, 1280, 700), ask("r", 0.1, 960, 5, content=2)])
    driver, told = pair(load, engine=tight, handover_us_max=Micros(3 * SECOND), lease_us=Micros(6 * SECOND))
    run_checked(driver)
    assert FailureKind.EXPIRED in [e.kind for e in told.events(Failed) if e.request == "r"]
    assert all(not o.refused for o in outcomes(driver).values())


@pytest.mark.parametrize("end", ["p-0", "d-0"])
def test_an_end_that_cannot_be_reached(end: str) -> None:
    driver, _ = pair(workload(ONE), prefill=2, decode=2, faults=[fault("partition", end, 0.39, 3.0)])
    assert not ended(driver).refused


KINDS = st.sampled_from(["crash", "slow", "lost_kv_events", "stale_metrics", "partition"])
troubles = st.lists(
    st.builds(
        lambda kind, end, at_s, lasts_s: fault(kind, end, at_s, at_s + lasts_s),
        KINDS, st.sampled_from(["p-0", "p-1", "d-0", "d-1"]), st.sampled_from([0.0, 0.3, 0.7, 1.3]),
        st.sampled_from([0.2, 1.1, 4.0]),
    ),
    max_size=4,
)  # fmt: skip
POLICIES = [ALWAYS, {"like": "marginal_cost", "decider": "always"}, {"like": "marginal_cost", "decider": "threshold"}]


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    policy=st.sampled_from(POLICIES),
    blocks=st.sampled_from([110, 300, 3000]),
    deadline_s=st.sampled_from([0.3, 2.0]),
    faults=troubles,
)
@settings(max_examples=25, deadline=None)
def test_everybody_ends_and_the_laws_hold(
    seed: int, count: int, policy: object, blocks: int, deadline_s: float, faults: list[Fault]
) -> None:
    late = {"handover_us_max": Micros(round(deadline_s * SECOND)), "lease_us": Micros(round(2 * deadline_s * SECOND))}
    engine = EngineSpec(TIME, blocks, 16, 512, 32)
    driver, _ = pair(many(count, seed), prefill=2, decode=2, policy=policy, engine=engine, faults=faults, **late)
    run_checked(driver)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("seed", range(2))
def test_macro_steps_change_nothing(seed: int, ahead: int) -> None:
    engine = msgspec.structs.replace(ENGINE, steps_ahead=ahead)
    faults = [fault("crash", "p-0", 0.9), fault("slow", "d-1", 0.4, 2.1, 2.5), fault("partition", "d-0", 1.3, 1.9)]
    made: dict[str, Any] = {"engine": engine, "faults": faults, "handover_us_max": Micros(SECOND)}
    runs = [pair(many(50, seed), prefill=2, decode=2, macro_steps=macro, **made) for macro in (True, False)]
    for driver, _ in runs:
        run_checked(driver)
    (_, fast), (_, slow) = runs
    assert fast.digest() == slow.digest()
