"""Laws of what is learned about handovers."""

from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.handover import SHARE_MIN, Handover, token_us

answers = st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 100_000_000)), max_size=60)
rates = st.floats(0.05, 100)


@given(answers, rates)
def test_nothing_is_free_whatever_was_seen(seen: list[tuple[int, int]], rate: float) -> None:
    handover = Handover(rate)
    for tokens, took_us in seen:
        handover.learn(tokens, took_us)
    assert handover.fixed >= 0 and handover.per_token >= SHARE_MIN * rate * 0.99
    assert handover.expected_us(1000) <= handover.expected_us(2000)


@given(st.floats(1000, 1e6), st.floats(0.5, 200), st.floats(0.05, 20), st.integers(0, 5))
def test_a_line_is_found(fixed: float, per_token: float, wrong: float, start: int) -> None:
    handover = Handover(wrong * per_token)
    for i in range(600):
        tokens = 100 + 1000 * ((start + 7 * i) % 32)
        handover.learn(tokens, round(fixed + per_token * tokens))
    for tokens in (500, 8_000, 30_000):
        expected = fixed + per_token * tokens
        assert abs(handover.expected_us(tokens) - expected) < 0.25 * expected


def test_before_any_answer_it_is_the_size_that_counts() -> None:
    assert token_us(320_000) > token_us(0) > token_us(32_000) > 0
    assert Handover(token_us(32_000)).expected_us(1000) < Handover(token_us(320_000)).expected_us(1000)
