"""What an endpoint's reports teach about its speculation."""

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import LoadReported
from pilothouse.core.units import EndpointId, Micros
from pilothouse.policies.profiles import DEFAULT, PROFILES
from tests.core.worlds import seen

A = EndpointId("a")


def heard(*reports: tuple[int, int]) -> Dispatcher:
    dispatcher = Dispatcher(DispatcherSettings(), PROFILES[DEFAULT])
    dispatcher.handle(seen("a"))
    now_us = dispatcher.now_us
    for i, (drafted, accepted) in enumerate(reports):
        dispatcher.handle(LoadReported(Micros(now_us + i), A, 0, 0, 0.0, drafted, accepted))
    return dispatcher


def acceptance(*reports: tuple[int, int]) -> float | None:
    return heard(*reports).fleet.endpoints[A].acceptance


def test_without_drafts_nothing_is_known() -> None:
    assert acceptance() is None and acceptance((0, 0)) is None
    assert acceptance((100, 60)) == acceptance((100, 60), (0, 0)) == pytest.approx(0.6)


@drawn(st.lists(st.tuples(st.integers(1, 50_000), st.floats(0, 1)), min_size=1, max_size=30))
def test_it_lies_among_what_was_told(told: list[tuple[int, float]]) -> None:
    reports = [(drafted, int(drafted * share)) for drafted, share in told]
    shares = [accepted / drafted for drafted, accepted in reports]
    found = acceptance(*reports)
    assert found is not None and min(shares) - 1e-9 <= found <= max(shares) + 1e-9


def test_what_is_new_counts_more_and_few_tokens_count_little() -> None:
    long_ago = [(5_000, 4_000)] * 10
    changed = acceptance(*long_ago, *[(5_000, 1_000)] * 10)
    assert changed is not None and 0.2 < changed < 0.35
    one_request = acceptance(*long_ago, (30, 0))
    assert one_request == pytest.approx(0.8, abs=0.01)


def test_a_snapshot_keeps_it() -> None:
    before = heard((1_000, 700), (10, 3))
    after = Dispatcher(DispatcherSettings(), PROFILES[DEFAULT])
    after.restore(before.snapshot())
    assert after.fleet.endpoints[A].acceptance == before.fleet.endpoints[A].acceptance is not None
