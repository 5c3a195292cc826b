"""Sequences of varied lengths: laws, and the chance of an overflow against a simulated steady state."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.random_stream import stream
from pilothouse.plan.occupancy import occupancy, of_pairs, overflow_probability, sequences_that_fit
from pilothouse.workload.lengths import Length, Listed, Lognormal, draw

SKEWED = (Lognormal(mean=800, p99=4000, most=8000), Lognormal(mean=200, p99=1000, most=2000))
EVEN = ((500, 1500), (100, 900))
HORIZON, EVERY, WARM = 30_000, 97, 5_000  # steps

lengths = st.one_of(
    st.integers(1, 5000),
    st.tuples(st.integers(1, 500), st.integers(500, 4000)),
    st.lists(st.integers(1, 3000), min_size=1, max_size=5).map(Listed),
    st.integers(50, 500).map(lambda mean: Lognormal(mean=mean, p99=4.0 * mean, most=20 * mean)),
)


@settings(max_examples=25)
@given(lengths, lengths, st.floats(0.001, 0.4), st.integers(10_000, 1_000_000))
def test_more_space_or_more_risk_never_fits_fewer(prompt: Length, output: Length, risk: float, space: int) -> None:
    of = occupancy(prompt, output)
    fit = sequences_that_fit(of, space, risk)
    assert fit <= sequences_that_fit(of, space * 1.5, risk) and fit <= sequences_that_fit(of, space, risk * 2)
    assert fit * min(of.sizes) <= space
    assert overflow_probability(of, space, max(1, fit)) <= risk or not fit
    assert overflow_probability(of, space, fit + 1) > risk


@settings(max_examples=25)
@given(lengths, lengths)
def test_what_runs_is_within_what_arrives(prompt: Length, output: Length) -> None:
    of = occupancy(prompt, output)
    assert sum(of.weights) == pytest.approx(1)
    shifted = occupancy(prompt, output, lambda tokens: tokens + 1000)
    assert shifted.mean - of.mean == pytest.approx(1000) and shifted.deviation == pytest.approx(of.deviation, rel=1e-3)


def test_fixed_lengths_by_hand() -> None:
    """Between the prompt and prompt + answer, evenly."""
    of = occupancy(1000, 300)
    assert of.mean == pytest.approx(1150) and of.deviation == pytest.approx(300 / 12**0.5, rel=0.01)
    assert occupancy(1000, 300, lambda tokens: tokens - 800).mean == pytest.approx(350)


def test_long_answers_are_more_frequent_among_those_that_run() -> None:
    """One of ten answers is 100 times longer: it runs 92 % of the time, which means hide."""
    of = occupancy(100, Listed([10] * 9 + [1000]))
    assert of.mean == pytest.approx(100 + (90 * 5 + 1000 * 500) / 1090, rel=0.01)
    assert of.mean > 100 + 109 / 2


def test_pairs_keep_what_belongs_together() -> None:
    """Long prompts with long answers vary more than the same lengths shuffled."""
    together = of_pairs([(100, 100, 0.5), (2000, 1000, 0.5)])
    shuffled = occupancy(Listed([100, 2000]), Listed([100, 1000]))
    assert together.mean > shuffled.mean


def steady_state(prompt: Length, output: Length, sequences: int, space: int) -> float:
    """How often so many slots, each running one sequence after the other, hold more than there is."""
    luck = stream(1, f"slots {sequences} {space}")
    held = [0] * len(range(0, HORIZON, EVERY))
    for _ in range(sequences):
        at = -luck.randrange(WARM) - WARM
        while at < HORIZON:
            tokens, answer = draw(prompt, luck), draw(output, luck)
            for look in range(-(-max(at, 0) // EVERY), min(len(held), -(-(at + answer) // EVERY))):
                held[look] += tokens + look * EVERY - at
            at += answer
    return sum(tokens > space for tokens in held) / len(held)


@pytest.mark.parametrize(
    ("lengths", "sequences", "space"),
    [(SKEWED, 40, 50_000), (SKEWED, 80, 92_000), (SKEWED, 10, 14_000), (EVEN, 20, 28_500), (EVEN, 100, 136_000)],
)
def test_the_chance_is_the_simulated_one(lengths: tuple[Length, Length], sequences: int, space: int) -> None:
    told = overflow_probability(occupancy(*lengths), space, sequences)
    assert 0.02 < told < 0.3
    assert told == pytest.approx(steady_state(*lengths, sequences, space), abs=0.03)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        sequences_that_fit(occupancy(1, 1), 100, 0.0)
    with pytest.raises(ValueError, match="zero"):
        of_pairs([(100, 0, 1.0)])


def test_the_published_formula_forgets_that_long_answers_run_longer() -> None:
    """llm-d's sizing guide: mean and variance of arriving requests, z = 2. In a steady state its number overflows often."""
    prompt, output, space = 1000, (100, 1900), 200_000
    mean, variance = 1000 + 1000 / 2, (1800**2 / 12) / 3 + 1000**2 / 12
    root = (-2 * variance**0.5 + (4 * variance + 4 * mean * space) ** 0.5) / (2 * mean)
    published, promised = int(root * root), 0.023
    seen = steady_state(prompt, output, published, space)
    assert seen > 10 * promised
    assert seen == pytest.approx(overflow_probability(occupancy(prompt, output), space, published), abs=0.05)
    ours = sequences_that_fit(occupancy(prompt, output), space, promised)
    assert ours < published and steady_state(prompt, output, ours, space) <= 2 * promised
