"""The line at the gateway: its order, its bounds, its memory; and that nothing of it is lost in a snapshot."""

from functools import cache
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.request import Place, Request
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.core.waiting import SPARE, Waiting
from tests.core.worlds import arrived
from tests.sim.simulated import ENGINE, Told, dispatcher, many, small

WAIT, HELD = Micros(30 * SECOND), Micros(600 * SECOND)
E = EndpointId("e")
Standing = tuple[int, int | None, int]  # order, late_us, late_order

places = st.tuples(st.integers(0, 20), st.none() | st.integers(0, 40), st.integers(0, 20))


def room(requests_max: int = 1000) -> Waiting:
    return Waiting(requests_max, WAIT, HELD)


def standing(waiting: Waiting, name: str, place: Standing, now_us: int = 0, model: str = "m") -> Request:
    request = Request(arrived(name, 1, model=model), place=Place(*place))
    assert waiting.add(request, Micros(now_us))
    return request


def drained(waiting: Waiting, now_us: int) -> list[str]:
    names = []
    while (request := waiting.first("m", Micros(now_us))) is not None:
        names.append(request.arrived.request)
    return names


@given(st.lists(places, max_size=40), st.integers(0, 50))
def test_first_who_is_on_time_by_order_then_who_is_late_by_late_order(line: list[Standing], now_us: int) -> None:
    waiting = room()
    for i, place in enumerate(line):
        standing(waiting, f"r{i}", place)

    def rank(i: int) -> tuple[Any, ...]:
        order, late_us, late_order = line[i]
        is_late = late_us is not None and now_us > late_us
        return (is_late, late_order if is_late else order, i)

    assert drained(waiting, now_us) == [f"r{i}" for i in sorted(range(len(line)), key=rank)]


@given(st.lists(places, min_size=1, max_size=20), st.lists(st.integers(0, 5), max_size=30))
def test_who_stands_again_keeps_the_place(line: list[Standing], steps: list[int]) -> None:
    """However often it was looked at on the way: the order at one moment does not depend on earlier looks."""
    waiting, fresh, now_us = room(), room(), 0
    for i, place in enumerate(line):
        standing(waiting, f"r{i}", place)
        standing(fresh, f"r{i}", place)
    for step in steps:
        now_us += step
        taken = [request for _ in range(step) if (request := waiting.first("m", Micros(now_us))) is not None]
        for request in taken:
            waiting.stand_again(request)
    assert drained(waiting, now_us) == drained(fresh, now_us)


@given(st.lists(st.tuples(st.sampled_from("ajr"), st.integers(0, 30), st.integers(0, 3)), max_size=120))
def test_the_room_is_bounded_and_nobody_outstays_the_deadline(steps: list[tuple[str, int, int]]) -> None:
    """Also when everybody who comes later may overtake: a deadline does not ask for the order."""
    waiting, now_us, there = room(5), 0, dict[str, int]()
    for number, (what, which, seconds) in enumerate(steps):
        now_us += seconds * SECOND
        for request in waiting.expired(Micros(now_us)):
            assert there.pop(request.arrived.request) <= now_us
        assert all(until_us > now_us for until_us in there.values())
        if what == "r" and there:
            name = list(there)[which % len(there)]
            waiting.remove(RequestId(name))
            del there[name]
        elif what != "r":
            request = Request(arrived(f"r{number}", 1), held_for=E if what == "a" else None, place=Place(-number))
            if waiting.add(request, Micros(now_us)):
                there[f"r{number}"] = request.waiting_until_us
                assert request.waiting_until_us == now_us + (HELD if what == "a" else WAIT)
            else:
                assert len(there) == 5
        assert list(waiting.line) == list(there) and len(there) <= 5
        assert waiting.next_deadline_us() == min(there.values(), default=None)


def test_the_dead_are_buried() -> None:
    """Requests that come and go, or stand again and again, leave no more entries than the living and some to spare."""
    waiting = room()
    standing(waiting, "stays", (-1, 0, 0))
    for i in range(2000):
        standing(waiting, f"r{i}", (i, i, i))
        request = waiting.first("m", Micros(i))
        assert request is not None
        waiting.stand_again(request)
        waiting.remove(RequestId(f"r{i}"))
        line = waiting.lines["m"]
        for heap in (line.on_time, line.late, waiting._deadlines):
            assert len(heap) <= 2 * 2 + SPARE + 1


# Snapshots


@cache
def history(seed: int) -> Told:
    """A simulated day with a line at the gateway, engines that die, and speeds to be learned."""
    tight = msgspec.structs.replace(ENGINE, kv_blocks=112)
    driver, told = small(many(70, seed, sessions=8), engine=tight)
    driver.run()
    return told


@settings(max_examples=8)
@given(st.integers(1, 3), st.floats(0, 1))
def test_a_dispatcher_restored_in_the_middle_goes_on_the_same(seed: int, where: float) -> None:
    pairs = history(seed).pairs
    cut, first, second = int(where * len(pairs)), dispatcher(), dispatcher()
    for event, _ in pairs[:cut]:
        first.handle(event)
    second.restore(first.snapshot())
    assert _memory(second) == _memory(first)
    for event, commands in pairs[cut:]:
        assert second.handle(event) == first.handle(event) == commands
    assert _memory(second) == _memory(first)


def _memory(one: Dispatcher) -> tuple[Any, ...]:
    fleet = one.fleet
    return fleet.speeds, fleet.lengths, fleet.endpoints, fleet.releases, one.retries, one.sessions.last, one.requests


def test_such_a_day_has_a_line_and_learned_speeds() -> None:
    """Otherwise the law above would prove little."""
    for seed in (1, 2, 3):
        waiting = [len(one.waiting.line) for one in _states(seed)]
        assert max(waiting) > 3 and sum(count > 0 for count in waiting) > 20


def _states(seed: int) -> Any:
    one = dispatcher()
    for event, _ in history(seed).pairs:
        one.handle(event)
        yield one
    assert one.fleet.speeds["e"].answers > 50
    assert all(e.held_tokens == e.held == 0 for e in one.fleet.endpoints.values()), "nobody waits for it any more"


def test_a_number_given_once_is_not_given_again_after_a_snapshot() -> None:
    """One that waited, was sent and failed stands in line with its old number: behind nobody who came after it."""
    before, after = room(), room()
    sent = standing(before, "sent", (0, None, 0))
    standing(before, "other", (0, None, 0))
    before.remove(sent.arrived.request)
    last = before.line[RequestId("other")]
    last.place, sent.place = sent.place, last.place  # the one on its way has the highest number
    after.count_from([sent, last])
    after.join(last)
    standing(after, "new", (0, None, 0))
    after.join(sent)
    assert drained(after, 0) == ["other", "sent", "new"]
