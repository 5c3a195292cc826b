"""Ejection, return, back-off; what happens to requests on an engine that stopped answering; engines that are full."""

import pytest

from pilothouse.core.commands import RejectReason
from pilothouse.core.events import FailureKind
from pilothouse.core.health import HealthSettings
from pilothouse.core.units import SECOND, Micros
from tests.core.worlds import World, abort, arrived, failed, finished, first_token, given, probed, reject, route

BUSY, CONNECT, ERROR, TIMEOUT = FailureKind.BUSY, FailureKind.CONNECT, FailureKind.ERROR, FailureKind.TIMEOUT


def fail(world: World, request: str, kind: FailureKind) -> World:
    return world.when(arrived(request, 10), failed(request, kind, sent=True))


def test_no_connection_ejects_at_once() -> None:
    world = given("a | b").when(arrived("r", 10)).expect(route("r", "a"))
    world.when(failed("r", CONNECT)).expect(route("r", "b", attempt=2))
    assert world.endpoint("a").ejected


@pytest.mark.parametrize("kind", [ERROR, TIMEOUT, FailureKind.BROKEN, FailureKind.GARBAGE, FailureKind.CLOSED])
def test_failures_in_a_row_eject(kind: FailureKind) -> None:
    world = given("a")
    for i, ejected in enumerate([False, False, True]):
        assert fail(world, f"r{i}", kind).endpoint("a").ejected == ejected


def test_a_success_ends_the_row() -> None:
    world = given("a")
    fail(fail(world, "r0", ERROR), "r1", ERROR).when(arrived("r2", 10), finished("r2"))
    assert not fail(fail(world, "r3", ERROR), "r4", ERROR).endpoint("a").ejected
    assert fail(world, "r5", ERROR).endpoint("a").ejected


def test_failed_checks_in_a_row_eject_and_one_that_succeeds_ends_the_row() -> None:
    world = given("a").when(probed("a", False), probed("a", True), probed("a", False))
    assert not world.endpoint("a").ejected
    assert world.when(probed("a", False)).endpoint("a").ejected


def test_a_check_brings_it_back_but_not_before_the_back_off_is_over() -> None:
    world = given("a ejected").when(arrived("r", 10)).expect()
    world.after(ms=999).when(probed("a", True)).expect()
    world.after(ms=1).when(probed("a", True)).expect(route("r", "a"))


def test_time_alone_brings_nothing_back() -> None:
    world = given("a ejected").after(s=3600).when(arrived("r", 10)).expect()
    assert world.endpoint("a").ejected


def test_the_back_off_doubles_up_to_a_ceiling_and_a_finished_request_forgets_it() -> None:
    world, waits = given("a"), []
    for i in range(8):
        fail(world, f"r{i}", CONNECT)
        waits.append((world.endpoint("a").retry_at_us - world.now_us) // SECOND)
        world.after(s=waits[-1]).when(probed("a", True))
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    fail(world.when(arrived("s", 10), finished("s")), "t", CONNECT)
    assert world.endpoint("a").retry_at_us - world.now_us == SECOND


def test_requests_without_an_answer_leave_an_engine_that_fails_its_checks() -> None:
    world = given("a | b ejected").when(arrived("young", 10), arrived("old", 10), first_token("old"))
    world.when(probed("a", False)).expect()
    world.when(probed("a", False)).expect(abort("young", "a"))
    world.after(s=1).when(probed("b", True)).when(failed("young", TIMEOUT)).expect(route("young", "b", attempt=2))


def test_requests_leave_an_engine_that_was_ejected_before_its_checks_failed() -> None:
    """A machine that vanished: the next connection fails at once, those that are open stay silent."""
    world = given("a | b ejected").when(arrived("hangs", 10), arrived("s", 10)).when(failed("s", CONNECT))
    assert world.endpoint("a").ejected
    world.when(probed("a", False)).expect()
    world.when(probed("a", False)).expect(abort("hangs", "a"))
    world.when(probed("a", False), probed("a", False)).expect()


def test_a_request_whose_prefill_is_only_believed_to_be_over_leaves_too() -> None:
    world = given("a").when(arrived("teacher", 1000)).after(s=1).when(first_token("teacher"), finished("teacher"))
    world.when(arrived("r", 10, stream=False)).after(s=1).when(probed("a", False)).ledger(a=(0, 1))
    world.when(probed("a", False)).expect(abort("r", "a"))


def test_a_failed_check_of_an_unknown_engine_is_nothing() -> None:
    given("a").when(probed("z", False), probed("z", False), probed("z", True)).expect()


# Engines that are full


def test_a_full_engine_gets_no_more_than_it_held() -> None:
    world = given("a streaming=2").when(arrived("r", 10)).expect(route("r", "a"))
    world.when(failed("r", BUSY)).expect()
    world.when(arrived("s", 10)).expect()
    world.when(finished("streaming-a-0")).expect(route("r", "a"))
    assert list(world.dispatcher.waiting.line) == ["s"]


def test_a_full_engine_is_not_ill_and_another_one_serves() -> None:
    world = given("a | b streaming=1", "least_requests")
    for i in range(5):
        world.when(arrived(f"r{i}", 10)).expect(route(f"r{i}", "a")).when(failed(f"r{i}", BUSY))
        world.expect(route(f"r{i}", "b", attempt=2)).when(finished(f"r{i}")).after(s=1)
    assert not world.endpoint("a").ejected and world.endpoint("a").failures == 0


def test_a_limit_is_learned_for_a_while() -> None:
    settings = HealthSettings(busy_us=Micros(200_000))
    world = given("a streaming=1", health=settings).when(arrived("r", 10), failed("r", BUSY)).when().expect()
    assert world.dispatcher.next_wake_us() == 200_000
    world.then_ticks(0.199).expect().then_ticks(0.001).expect(route("r", "a", attempt=2))


def test_a_full_queue_costs_no_attempt() -> None:
    world = given("a streaming=1", attempts_max=2).when(arrived("r", 10))
    for _ in range(5):
        world.when(failed("r", BUSY)).then_ticks(0.5)
        assert world.last_route().endpoint == "a"
    world.when(failed("r", ERROR)).expect(route("r", "a"))
    world.when(failed("r", ERROR)).expect(reject("r", RejectReason.RETRIES_EXHAUSTED))


def test_a_fleet_that_stays_full_is_said_to_be_busy() -> None:
    world = given("a streaming=1", wait_us_max=Micros(2 * SECOND)).when(arrived("r", 10)).when(failed("r", BUSY))
    for _ in range(20):
        world.then_ticks(0.5)
        if any(c.request == "r" for c in world.commands) and "r" not in world.dispatcher.requests:
            break
        world.when(failed("r", BUSY))
    assert world.now_us <= 3 * SECOND
    world.expect(reject("r", RejectReason.BUSY, retry_after_us=SECOND))
