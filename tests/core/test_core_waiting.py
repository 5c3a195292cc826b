"""Second attempts and their budget, requests that kill engines, and the waiting room: its bounds, its order, its ends."""

import pytest

from pilothouse.core.commands import RejectReason
from pilothouse.core.events import FailureKind
from pilothouse.core.units import SECOND, Micros
from tests.core.worlds import arrived, cancelled, failed, finished, given, probed, reject, route, seen, tick

BUSY, CLOSED, CONNECT, ERROR = FailureKind.BUSY, FailureKind.CLOSED, FailureKind.CONNECT, FailureKind.ERROR
EXHAUSTED = RejectReason.RETRIES_EXHAUSTED


# Second attempts


def test_an_attempt_that_sent_nothing_is_repeated_elsewhere() -> None:
    world = given("a | b | c").when(arrived("r", 10)).expect(route("r", "a", attempt=1))
    world.when(failed("r")).expect(route("r", "c", attempt=2)).when(failed("r")).expect(route("r", "b", attempt=3))
    world.when(failed("r"))
    assert world.last_route().attempt == 4, "when all have failed it once, any may try again"
    world.when(failed("r")).expect(reject("r", EXHAUSTED))


def test_an_attempt_that_sent_a_byte_is_the_last() -> None:
    given("a | b").when(arrived("r", 10)).when(failed("r", sent=True)).expect()


def test_attempts_are_bounded() -> None:
    world = given("a | b", attempts_max=1).when(arrived("r", 10))
    world.when(failed("r")).expect(reject("r", EXHAUSTED))


def test_a_request_that_kills_engines_is_stopped() -> None:
    world = given("a | b | c | d", attempts_max=9).when(arrived("r", 10)).expect(route("r", "a"))
    world.when(failed("r", CLOSED)).expect(route("r", "c"))
    world.when(failed("r", CLOSED)).expect(route("r", "b"))
    world.when(failed("r", CLOSED)).expect(reject("r", EXHAUSTED))
    assert not any(world.endpoint(name).ejected for name in "abcd")


def test_retries_come_out_of_a_budget() -> None:
    world = given("a | b | c", retries_burst=2.0, retry_ratio=0.0, retries_per_second=0.0, attempts_max=9)
    world.when(arrived("r", 10)).when(failed("r")).expect(route("r", "c"))
    world.when(failed("r")).expect(route("r", "b"))
    world.when(failed("r")).expect()
    assert list(world.dispatcher.waiting.line) == ["r"]
    world.when(arrived("s", 10)).when(finished("s")).expect()
    world.then_ticks(31).expect(reject("r", EXHAUSTED))


def test_time_refills_the_budget() -> None:
    world = given("a | b", retries_burst=1.0, retry_ratio=0.0, retries_per_second=0.5)
    world.when(arrived("r", 10)).when(failed("r")).expect(route("r", "b"))
    world.when(failed("r")).expect()
    world.then_ticks(1.9).expect().then_ticks(0.2)
    assert world.last_route().attempt == 3


def test_arrivals_refill_the_budget() -> None:
    world = given("a | b", retries_burst=1.0, retry_ratio=0.5, retries_per_second=0.0)
    world.when(arrived("r", 10)).when(failed("r")).expect(route("r", "b")).when(failed("r")).expect()
    world.when(arrived("s", 10), arrived("t", 10)).when(finished("s"))
    assert world.last_route().request == "r"


def test_a_retry_storm_cannot_form() -> None:
    """Every attempt fails: with a budget of b and a ratio of 0.2 there are at most b + 0.2 n retries of n requests."""
    world = given("a | b | c", retries_burst=10.0, retry_ratio=0.2, retries_per_second=0.0, attempts_max=4)
    attempts = 0
    for i in range(200):
        world.when(arrived(f"r{i}", 10))
        while world.commands:
            happened = [c for c in world.commands if type(c).__name__ == "Route"]
            attempts += len(happened)
            world.when(*(failed(c.request, ERROR) for c in happened))
        for name in "abc":  # failures eject; this is about the budget
            world.after(s=60).when(probed(name, True))
            attempts += len([c for c in world.commands if type(c).__name__ == "Route"])
            world.when(*(failed(c.request, ERROR) for c in world.commands if type(c).__name__ == "Route"))
    assert attempts <= 200 + 10 + 0.2 * 200


def test_a_full_queue_needs_no_budget() -> None:
    world = given("a | b", retries_burst=1.0, retry_ratio=0.0, retries_per_second=0.0)
    for i in range(3):
        world.when(arrived(f"r{i}", 10)).when(failed(f"r{i}", BUSY))
        assert world.last_route().attempt == 2
        world.when(finished(f"r{i}")).after(s=1)


# The waiting room


def test_who_finds_nobody_waits_and_is_served_in_order() -> None:
    world = given("a ejected").when(arrived("r1", 10), arrived("r2", 10), arrived("r3", 10)).expect()
    world.when(cancelled("r2")).expect()
    world.after(s=1).when(probed("a", True)).expect(route("r1", "a"), route("r3", "a"))


def test_a_new_engine_empties_the_room() -> None:
    given("").when(arrived("r", 10)).expect().when(seen("a")).expect(route("r", "a", attempt=1))


@pytest.mark.parametrize("room", [0, 1, 3])
def test_the_room_is_bounded(room: int) -> None:
    world = given("a ejected", waiting_max=room)
    for i in range(room):
        world.when(arrived(f"r{i}", 10)).expect()
    world.when(arrived("late", 10)).expect(reject("late", RejectReason.TOO_MANY_WAITING, retry_after_us=SECOND))
    assert len(world.dispatcher.waiting.line) == room


def test_waiting_has_an_end() -> None:
    world = given("a ejected", wait_us_max=Micros(5 * SECOND)).when(arrived("r", 10))
    world.then_ticks(4.9).expect().then_ticks(0.1).expect(reject("r", RejectReason.NO_ENDPOINT))
    assert world.dispatcher.next_wake_us() is None


def test_who_waits_again_keeps_the_first_deadline() -> None:
    world = given("a ejected", wait_us_max=Micros(5 * SECOND)).when(arrived("r", 10))
    world.after(s=3).when(probed("a", True)).expect(route("r", "a")).when(failed("r", CONNECT)).expect()
    world.then_ticks(2).expect(reject("r", RejectReason.NO_ENDPOINT))


def test_no_time_to_wait_means_no_waiting() -> None:
    world = given("a ejected", wait_us_max=Micros(0)).when(arrived("r", 10))
    world.expect(reject("r", RejectReason.TOO_MANY_WAITING))


def test_a_filter_can_make_requests_wait() -> None:
    policy = {"filters": [{"type": "in_flight_limit", "requests_max": 1}], "scorers": ["least_requests"]}
    world = given("a | b", policy).when(arrived("r1", 10), arrived("r2", 10), arrived("r3", 10))
    world.expect(route("r1", "a"), route("r2", "b"))
    world.when(finished("r2")).expect(route("r3", "b"))


def test_a_tick_with_nothing_due_does_nothing() -> None:
    world = given("a ejected").when(arrived("r", 10)).when(tick(), tick()).expect()
    assert list(world.dispatcher.waiting.line) == ["r"]


def test_nothing_pending_asks_for_no_tick() -> None:
    world = given("a | b").when(arrived("r", 10))
    assert world.dispatcher.next_wake_us() is None
