"""Laws of the figures: what is counted, where, and that nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.workload.outcomes import REASONS_MAX, Objectives, Outcome, steady, summarise


def outcome(sent_s: float, first_s: float, end_s: float, tokens: int = 100, error: str = "") -> Outcome:
    times = (Micros(int(at * SECOND)) for at in (sent_s, first_s, end_s))
    return Outcome(RequestId("r"), *times, 10, 0, tokens, tokens, EndpointId(""), bool(error), "", error)


times = st.tuples(st.floats(0, 50), st.floats(0, 20), st.floats(0, 30)).map(lambda t: (t[0], t[0] + t[1], sum(t)))


@given(st.lists(st.tuples(times, st.integers(1, 500)), max_size=20))
def test_the_steady_window_lies_between_the_first_end_and_the_last_send(
    requests: list[tuple[tuple[float, float, float], int]],
) -> None:
    served = [outcome(*at, tokens) for at, tokens in requests]
    seconds, rate = steady(served)
    assert seconds >= 0 and seconds * rate <= sum(one.counted_tokens for one in served) * (1 + 1e-9)
    if seconds:
        assert seconds == pytest.approx((max(o.sent_us for o in served) - min(o.end_us for o in served)) / SECOND)


def test_the_steady_window_sees_the_steady_rate() -> None:
    """A request a second, each for 10 s with 100 tokens: 100 tokens/s once it is steady, less over send + drain."""
    served = [outcome(i, i + 1, i + 11) for i in range(60)]
    seconds, rate = steady(served)
    assert seconds == 48 and rate == pytest.approx(100, rel=0.01)
    whole = summarise(served, Micros(0), 1.0, "Measured", Objectives())
    assert whole.steady_output_per_second == rate and whole.output_per_second == pytest.approx(6000 / 70)


@given(st.lists(st.integers(0, 40), max_size=80))
def test_every_request_that_was_not_served_has_its_reason(kinds: list[int]) -> None:
    outcomes = [outcome(0, 1, 2, error=f"reason {kind}" if kind else "") for kind in kinds]
    summary = summarise(outcomes, Micros(0), 1.0, "Measured", Objectives())
    assert sum(summary.errors.values()) == summary.refused == sum(kind > 0 for kind in kinds)
    assert summary.requests == len(kinds) and len(summary.errors) <= REASONS_MAX + 1
