"""Learned speeds: planted coefficients are found, scale means nothing, absurd answers are survived."""

from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.core.random_stream import Random, stream
from pilothouse.core.speed import SURPRISE_MAX, SURPRISES_MAX, TYPICAL, Lengths, Speed

Features = tuple[float, ...]
ENGINES = {  # µs a step, a request, a context token, a prompt token, a token squared
    "32B on two H100": TYPICAL,
    "8B on an L4": (33_000.0, 150.0, 0.26, 110.0, 2e-3),
    "a CPU": tuple(100 * t for t in TYPICAL),
    "half of each but steps": (14_000.0, 32.0, 0.024, 22.0, 4.5e-4),
}


def features(luck: Random) -> Features:
    """Of a first token, or of a mean step of a decode."""
    requests, context = luck.uniform(1, 60), luck.uniform(100, 200_000)
    if luck.random() < 0.5:
        tokens = luck.randint(1, 9000)
        return 1.5, 1.5 * requests, 1.5 * context, float(tokens), float(tokens * luck.randint(tokens // 2, 12_000))
    steps = luck.randint(4, 600)
    return 1.0, requests, context, luck.uniform(0, 30_000) / steps, luck.uniform(0, 1.5e8) / steps


def true_us(theta: tuple[float, ...], asked: Features) -> float:
    return sum(t * x for t, x in zip(theta, asked, strict=True))


def taught(
    theta: tuple[float, ...], answers: int, seed: int = 0, scale: float = 1.0, speed: Speed | None = None
) -> Speed:
    luck, speed = stream(seed, "speed"), speed or Speed()
    for _ in range(answers):
        asked = features(luck)
        speed.learn(asked, scale * true_us(theta, asked))
    return speed


def worst_error(speed: Speed, theta: tuple[float, ...], scale: float = 1.0) -> float:
    luck = stream(99, "speed/judge")
    asked = [features(luck) for _ in range(100)]
    return max(abs(speed.expected_us(x) / (scale * true_us(theta, x)) - 1) for x in asked)


@pytest.mark.parametrize("engine", ENGINES)
def test_planted_coefficients_are_found(engine: str) -> None:
    """To within a fifth in every prediction: the pull towards the typical ratios costs as much at the most."""
    theta = ENGINES[engine]
    assert worst_error(taught(theta, 300), theta) < 0.2


@pytest.mark.parametrize("engine", ["32B on two H100", "a CPU"])
def test_typical_ratios_at_any_scale_are_found_at_once(engine: str) -> None:
    theta = ENGINES[engine]
    assert worst_error(taught(theta, 10), theta) < 0.01


@settings(max_examples=20)
@given(st.sampled_from(sorted(ENGINES)), st.floats(1e-3, 1e3), st.integers(0, 5))
def test_scale_means_nothing(engine: str, scale: float, seed: int) -> None:
    plain, scaled = taught(ENGINES[engine], 60, seed), taught(ENGINES[engine], 60, seed, scale)
    assert scaled.theta == pytest.approx([scale * t for t in plain.theta], rel=1e-6)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(1, 1e12)), min_size=1, max_size=60))
def test_whatever_it_hears_it_expects_something_and_nothing_negative(heard: list[tuple[int, float]]) -> None:
    speed = Speed()
    for seed, took_us in heard:
        ratio = speed.learn(features(stream(seed, "speed/any")), took_us)
        assert all(t >= 0 and isfinite(t) for t in speed.theta)
        assert isfinite(ratio) and ratio > 0
        for asked in ((1.5, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0, 100.0, 0.0, 0.0)):
            assert 0 < speed.expected_us(asked) < float("inf")


@settings(max_examples=30)
@given(st.sampled_from(sorted(ENGINES)), st.sampled_from([1e-9, 1e-3, 1e3, 1e9]), st.integers(20, 100))
def test_one_absurd_answer_among_good_ones_moves_little(engine: str, factor: float, after: int) -> None:
    theta = ENGINES[engine]
    speed, asked = taught(theta, after), features(stream(7, "speed/absurd"))
    before = list(speed.theta)
    ratio = speed.learn(asked, factor * true_us(theta, asked))
    assert 1 / SURPRISE_MAX <= ratio <= SURPRISE_MAX
    taught(theta, 8, 5, speed=speed)
    moved = speed.expected_us(asked) / sum(b * x for b, x in zip(before, asked, strict=True))
    assert 0.5 < moved < 2.0


@settings(max_examples=30)
@given(st.sampled_from(sorted(ENGINES)), st.sampled_from([1e-9, 1e-4, 1e-2, 1e2, 1e4, 1e9]), st.integers(0, 9))
def test_an_absurd_first_answer_is_soon_forgotten(engine: str, factor: float, seed: int) -> None:
    theta = ENGINES[engine]
    asked, speed = features(stream(seed, "speed/first")), Speed()
    speed.learn(asked, factor * true_us(theta, asked))
    taught(theta, 4 * SURPRISES_MAX, seed, speed=speed)
    assert worst_error(speed, theta) < 0.5


def test_another_engine_in_its_place_is_noticed() -> None:
    speed = taught(TYPICAL, 500)
    taught(TYPICAL, SURPRISES_MAX + 8, 1, 50.0, speed)
    assert worst_error(speed, TYPICAL, 50.0) < 0.01


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=100))
def test_the_mean_length_lies_between_the_lengths(answers: list[int]) -> None:
    lengths = Lengths()
    for tokens in answers:
        lengths.learn("m", tokens)
    assert min(answers) - 1e-6 <= lengths.expected("m") <= max(answers) + 1e-6


def test_an_engine_that_decodes_fast_and_prefills_slowly_is_understood() -> None:
    """As small models on CPUs do: steps of 2 ms, and 240 us for each token of a prompt, which is 40 times the usual ratio."""
    speed = Speed()
    prompt, step = (1.5, 6.0, 3000.0, 5000.0, 5000.0**2 / 2), (1.0, 4.0, 2000.0, 0.0, 0.0)
    for i in range(60):
        speed.learn(step, 2_000.0)
        if i % 5 == 0:
            speed.learn(prompt, 3_000.0 + 5000 * 240)
    assert 0.8 < speed.expected_us(prompt) / (3_000 + 5000 * 240) < 1.25
    assert 0.8 < speed.expected_us(step) / 2_000 < 1.25
