"""The sweep stays within the engine's limits, and its readings give back the coefficients that made them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.random_stream import stream
from pilothouse.perf.fit import fit_readings, predicted_us
from pilothouse.perf.step_time import StepTime
from pilothouse.perf.sweep import Kind, Limits, Reading, Trial, affordable, plan

TRUE = StepTime(12_000, 150, 60, 45, 900, rho=0.6, request_us=4_000)
LIMITS = Limits(8192, 300_000, 2048)


def reading(trial: Trial, true: StepTime, noise: float = 1.0) -> Reading:
    own = trial.prompt - trial.shared + trial.output / 2
    context = trial.sequences * (trial.shared + own)
    asked = Reading(trial, 1.0, context, trial.shared + trial.sequences * own)
    return msgspec.structs.replace(asked, us=predicted_us(true, asked, LIMITS.batched_tokens) * noise)


def readings(true: StepTime, spread: float = 0.0) -> list[Reading]:
    luck = stream(1, "noise")
    return [reading(trial, true, luck.uniform(1 - spread, 1 + spread)) for trial in plan(LIMITS)]


def test_a_sweep_gives_back_what_made_it() -> None:
    found = fit_readings(readings(TRUE), LIMITS.batched_tokens)
    for term in ("a_us", "b_us", "c_ns", "p_us", "q_ps", "rho", "request_us"):
        assert getattr(found, term) == pytest.approx(getattr(TRUE, term), rel=0.01), term
    assert found.label == "Measured" and found.error == pytest.approx(0, abs=1e-6)


def test_noise_shows_in_the_errors_and_a_spoiled_reading_spoils_no_more_than_itself() -> None:
    noisy = readings(TRUE, 0.05)
    noisy[7] = msgspec.structs.replace(noisy[7], us=noisy[7].us * 3)
    found = fit_readings(noisy, LIMITS.batched_tokens)
    assert found.a_us == pytest.approx(TRUE.a_us, rel=0.1) and found.p_us == pytest.approx(TRUE.p_us, rel=0.15)
    assert found.error and found.error_left_out and 0.02 < found.error < found.error_left_out < 0.25
    assert all(deviation > 0 for deviation in found.deviations.values())


def test_sharing_that_is_not_told_is_not_claimed() -> None:
    without = [r for r in readings(TRUE) if r.trial.kind is not Kind.SHARED]
    found = fit_readings(without, LIMITS.batched_tokens)
    assert found.rho == 0 and "rho" not in found.deviations and "rho is not told" in found.source


def test_too_few_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="decode"):
        fit_readings([r for r in readings(TRUE) if r.trial.kind is Kind.PREFILL], LIMITS.batched_tokens)


engines = st.builds(
    Limits, st.integers(300, 200_000), st.integers(2_000, 2_000_000), st.sampled_from([512, 2048, 8192])
)


@given(engines, st.booleans(), st.floats(0.0, 2_000.0))
def test_no_trial_asks_for_more_than_there_is(limits: Limits, quick: bool, token_us: float) -> None:
    for trial in plan(affordable(limits, quick, token_us, 45.0), quick):
        assert trial.prompt >= 1 and trial.prompt + trial.output <= limits.context
        own = trial.prompt - trial.shared + trial.output
        assert trial.shared + trial.sequences * own <= limits.kv_tokens
        assert 0 <= trial.shared < trial.prompt


def test_a_slow_engine_is_asked_for_less() -> None:
    fast, slow = affordable(LIMITS, False, 10.0, 180.0), affordable(LIMITS, False, 500.0, 180.0)
    assert fast == LIMITS and slow.context < LIMITS.context / 2
