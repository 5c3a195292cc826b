"""Each fault has the consequences that it has live, and no others."""

from collections import Counter

import msgspec
import pytest

from pilothouse.core.commands import Abort, Route
from pilothouse.core.events import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EndpointSeen,
    Failed,
    FailureKind,
    LoadReported,
    Probed,
)
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import Engine
from pilothouse.sim.faults import Fault, FaultKind
from pilothouse.sim.invariants import run_checked
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.requests import Planned
from tests.sim.simulated import ENGINE, Told, ask, fault, job_of, small, workload


def steady(count: int = 40, every_s: float = 0.25, output: int = 20) -> list[Planned]:
    """Different prompts at equal distances, each done before the second next comes."""
    return [ask(f"r{i}", i * every_s, 320, output, content=i) for i in range(count)]


def outcomes(driver: Driver) -> dict[str, Outcome]:
    return {o.request: o for result in driver.results for o in result.outcomes}


def routed(told: Told, endpoint: str) -> list[int]:
    """When requests were sent there."""
    pairs = [(event.at_us, c) for event, commands in told.pairs for c in commands if isinstance(c, Route)]
    return [at_us for at_us, route in pairs if route.endpoint == endpoint]


def failures(told: Told, request: str) -> list[FailureKind]:
    return [event.kind for event in told.events(Failed) if event.request == request]


def test_a_crash_breaks_what_has_begun_and_delays_what_has_not() -> None:
    """One engine, three requests: one has shown tokens, one prefills, one is on its way."""
    requests = [
        ask("begun", 0.0, 320, 100),
        ask("prefills", 0.5, 8_000, 5, content=2),
        ask("on its way", 0.8, 320, 5, content=3),
    ]
    driver, told = small(workload(requests), engines=1, faults=[fault("crash", "e-0", 0.8002)])
    run_checked(driver)
    found = outcomes(driver)
    assert found["begun"].refused and found["begun"].error == "broken" and found["begun"].end_us == 800_700
    assert failures(told, "begun") == [FailureKind.BROKEN]
    assert failures(told, "prefills") == [FailureKind.CLOSED, FailureKind.CONNECT]
    assert failures(told, "on its way") == [FailureKind.CONNECT]
    for name in ("prefills", "on its way"):
        assert not found[name].refused and found[name].first_us > 2_800_200  # when it serves again
        assert found[name].cached_tokens == 0


def test_a_crashed_engine_is_left_alone_until_it_has_started_and_answered_a_check() -> None:
    driver, told = small(workload(steady()), faults=[fault("crash", "e-0", 2.1)], start_up_s=3.0)
    run_checked(driver)
    back_us = next(e.at_us for e in told.events(Probed) if e.ok and e.at_us > 2 * SECOND)
    assert 5.1 * SECOND < back_us < 6.2 * SECOND
    refused_us = next(e.at_us for e in told.events(Failed) if e.kind is FailureKind.CONNECT)
    assert not [at_us for at_us in routed(told, "e-0") if refused_us < at_us < back_us]
    assert [at_us for at_us in routed(told, "e-0") if at_us >= back_us]
    assert [(e.endpoint, e.at_us) for e in told.events(BlocksCleared)] == [("e-0", back_us)]
    reports = [e.at_us for e in told.events(LoadReported) if e.endpoint == "e-0"]
    assert not [at_us for at_us in reports if 2.11 * SECOND < at_us < 5.1 * SECOND]
    assert all(not outcome.refused for outcome in outcomes(driver).values() if outcome.request != "r8")


def test_blocks_of_an_engine_that_only_assumes_are_forgotten_after_its_crash() -> None:
    driver, told = small(workload(steady()), faults=[fault("crash", "e-0", 2.1)], start_up_s=1.0, exact=False)
    run_checked(driver)
    assert [e.endpoint for e in told.events(BlocksCleared)] == ["e-0"]


def test_behind_a_partition_an_engine_finishes_and_nobody_hears() -> None:
    requests = [ask("cut", 0.0, 320, 200), *(ask(f"r{i}", 1.2 + i * 0.3, 320, 5, content=i + 2) for i in range(20))]
    driver, told = small(
        workload(requests), faults=[fault("partition", "e-0", 1.0, 4.5), fault("partition", "e-1", 0, 0.5)]
    )
    run_checked(driver)
    cut = outcomes(driver)["cut"]
    assert cut.endpoint == "" or cut.refused
    assert cut.error == "broken" and cut.end_us == SECOND
    assert driver.engines[EndpointId("e-0")].steps >= 200
    timed_out = [e for e in told.events(Failed) if e.kind is FailureKind.CONNECT and e.at_us > SECOND]
    assert timed_out and all(not e.sent for e in timed_out)
    arrived = {
        c.request: e.at_us for e, commands in told.pairs for c in commands if isinstance(c, Route) and c.attempt == 1
    }
    assert {e.at_us - arrived[e.request] for e in timed_out} == {2 * SECOND + 500}
    assert not [e for e in told.events(LoadReported) if e.endpoint == "e-0" and 1.01 * SECOND < e.at_us < 4.5 * SECOND]
    assert not [e for e in told.events(BlocksStored) if e.endpoint == "e-0" and 1.01 * SECOND < e.at_us < 4.5 * SECOND]
    assert sum(part.count for part in driver.results[0].gaps.values()) < 200 + 20 * 4  # only what clients have seen


def test_checks_that_fail_make_the_gateway_give_up_what_hangs() -> None:
    """A connection that takes for ever, and checks that fail first: the request goes elsewhere."""
    delays = Delays(probe_us=Micros(200_000), probe_timeout_us=Micros(200_000), connect_timeout_us=Micros(20 * SECOND))
    requests = [ask("waits", 0.1, 320, 5)]
    driver, told = small(workload(requests), engines=1, delays=delays, faults=[fault("partition", "e-0", 0.0, 3.0)])
    run_checked(driver)
    assert [c.request for c in told.commands(Abort)] == ["waits"]
    assert failures(told, "waits") == [FailureKind.TIMEOUT]
    assert not outcomes(driver)["waits"].refused


def test_a_given_up_attempt_leaves_the_engine() -> None:
    """The partition ends before the checks made in it have failed: the engine has the request when it is given up."""
    delays = Delays(probe_us=Micros(200_000), probe_timeout_us=Micros(500_000))
    long = ask("long", 1.06, 12_000, 5)
    driver, told = small(workload([long]), engines=1, delays=delays, faults=[fault("partition", "e-0", 0.0, 1.05)])
    run_checked(driver)
    assert [c.request for c in told.commands(Abort)] == ["long"] and not outcomes(driver)["long"].refused
    assert failures(told, "long") == [FailureKind.TIMEOUT]


def test_an_aborted_request_frees_its_place_and_its_blocks() -> None:
    engine = Engine(msgspec.structs.replace(ENGINE, sequences_max=2))
    for i in range(3):
        planned = ask(f"r{i}", content=i, output=50)
        engine.submit(job_of(planned), Micros(0))
    due_us = engine.next_step_us()
    assert due_us is not None
    engine.step(due_us)
    assert len(engine.running) == 2 and len(engine.waiting) == 1
    engine.abort(RequestId("r2"), due_us)
    assert not engine.waiting
    engine.abort(RequestId("r0"), due_us)
    engine.abort(RequestId("nobody"), due_us)
    ended = []
    while (due_us := engine.next_step_us()) is not None:
        ended += [job.request for job, _ in engine.step(due_us).finished]
        engine.store.check()
    assert ended == ["r1"] and engine.store.available == ENGINE.kv_blocks


def test_load_reports_stop_and_come_back() -> None:
    driver, told = small(workload(steady(20)), faults=[fault("stale_metrics", "e-1", 1.0, 3.0)])
    run_checked(driver)
    at = [e.at_us / SECOND for e in told.events(LoadReported) if e.endpoint == "e-1"]
    assert not [t for t in at if 1.0 < t < 3.0] and [t for t in at if t < 1.0] and [t for t in at if t > 3.0]
    assert len([e for e in told.events(LoadReported) if e.endpoint == "e-0" and SECOND < e.at_us < 3 * SECOND]) == 10


@pytest.mark.parametrize("gateways", [1, 2])
def test_after_lost_kv_events_nothing_known_is_trusted(gateways: int) -> None:
    driver, told = small(
        workload(steady(30)), engines=1, gateways=gateways, faults=[fault("lost_kv_events", "e-0", 2.0, 4.0)]
    )
    run_checked(driver)
    stored = [e.at_us for e in told.events(BlocksStored)]
    assert not [at_us for at_us in stored if 2.01 * SECOND < at_us <= 4 * SECOND]
    assert [at_us for at_us in stored if at_us <= 2 * SECOND]
    cleared = [e.at_us for e in told.events(BlocksCleared)]
    assert cleared == [min(at_us for at_us in stored if at_us > 4 * SECOND)] * gateways


def test_loss_without_a_later_event_stays_unnoticed() -> None:
    driver, told = small(workload(steady(30)), engines=1, faults=[fault("lost_kv_events", "e-0", 2.0)])
    run_checked(driver)
    assert not told.events(BlocksCleared) and not [e for e in told.events(BlocksRemoved) if e.at_us > 2.01 * SECOND]


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_slow_engine_takes_so_many_times_as_long(factor: float) -> None:
    plain, _ = small(workload([ask("r", 0.0, 320, 101)]), engines=1)
    slowed, _ = small(workload([ask("r", 0.0, 320, 101)]), engines=1, faults=[fault("slow", "e-0", 0.0, None, factor)])
    run_checked(plain)
    run_checked(slowed)
    assert outcomes(slowed)["r"].tpot_us == pytest.approx(factor * outcomes(plain)["r"].tpot_us, rel=1e-4)


def test_spells_of_slowness_multiply_and_end() -> None:
    faults = [fault("slow", "e-0", 0.5, 1.5, 2.0), fault("slow", "e-0", 1.0, 2.0, 3.0), fault("crash", "e-0", 1.1)]
    driver, _ = small(workload(steady(20)), engines=1, faults=faults, start_up_s=0.1)
    assert driver.hosts[EndpointId("e-0")].paces == []
    run_checked(driver)
    assert driver.hosts[EndpointId("e-0")].paces == []
    base = outcomes(driver)["r0"].tpot_us
    assert outcomes(driver)["r19"].tpot_us == pytest.approx(base, rel=0.01)


def test_an_engine_that_starts_later_is_not_known_before() -> None:
    driver, told = small(workload(steady(4)), engines=1, ready_s=1.6)
    run_checked(driver)
    assert [e.at_us for e in told.events(EndpointSeen)] == [1.6 * SECOND]
    assert min(o.first_us for o in outcomes(driver).values()) > 1.6 * SECOND
    assert not any(o.refused for o in outcomes(driver).values())


def test_a_crash_of_what_does_not_run_changes_nothing() -> None:
    faults = [fault("crash", "e-0", 0.5), fault("crash", "e-0", 1.2)]
    once, _ = small(workload(steady()), faults=faults[:1], start_up_s=1.0)
    twice, _ = small(workload(steady()), faults=faults, start_up_s=1.0)
    assert once.run()[0].outcomes == twice.run()[0].outcomes


@pytest.mark.parametrize("wrong", [{"at_us": -1}, {"at_us": 5, "until_us": 4}, {"factor": 0.0}])
def test_faults_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"fault|factor"):
        Fault(FaultKind.SLOW, EndpointId("e-0"), **wrong)  # type: ignore[arg-type]


def test_a_fault_of_nobody_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="e-7"):
        small(workload(steady(1)), faults=[fault("slow", "e-7")])


def test_troubles_cost_what_they_cost_and_no_more() -> None:
    """Everybody who had seen nothing of an answer is served in the end."""
    faults = [fault("crash", "e-0", 2.1), fault("partition", "e-1", 6.1, 7.0)]
    driver, _ = small(workload(steady(60)), engines=3, faults=faults)
    run_checked(driver)
    errors = Counter(o.error for o in outcomes(driver).values() if o.refused)
    assert set(errors) <= {"broken"} and errors.total() <= 4
