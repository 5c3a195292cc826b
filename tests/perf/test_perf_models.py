"""Step time, memory and fits against figures worked out by hand or published."""

import msgspec
import pytest

from pilothouse.perf.catalog import GPUS, MODELS, model_named
from pilothouse.perf.fit import Row, fit, fit_constants, held_out, mean_error, tpot_us
from pilothouse.perf.memory import Precision, activation_bytes, kv_bytes_per_token, kv_gib, kv_tokens, weight_bytes
from pilothouse.perf.priors import EXPECTED, estimate
from pilothouse.perf.step_time import StepTime, step_us

QWEN, H100 = MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"]
LADDER = StepTime(14_110, 66.9, 48.36, 42.5, q_ps=886, rho=0.8)


@pytest.mark.parametrize(
    "decoding, context, distinct, chunks, expected",
    [
        (0, 0, None, [], 14_110),
        (1, 1000, None, [], 14_110 + 67 + 48),
        (118, 908_000, 307_000, [], 14_110 + 7_894 + 8_782 + 11_877),
        (0, 0, None, [(7200, 0)], 14_110 + 67 + 306_000 + 22_965),
    ],
)
def test_step_time(
    decoding: int, context: int, distinct: int | None, chunks: list[tuple[int, int]], expected: int
) -> None:
    assert step_us(LADDER, decoding, context, distinct, chunks) == pytest.approx(expected, abs=2)


def test_chunks_cost_what_the_whole_costs_but_for_the_steps() -> None:
    whole = step_us(LADDER, 0, 0, 0, [(7200, 0)])
    parts = step_us(LADDER, 0, 0, 0, [(3600, 0)]) + step_us(LADDER, 0, 0, 0, [(3600, 3600)])
    assert parts - whole == pytest.approx(14_110 + 67, abs=2)


def test_experts_are_counted_once() -> None:
    moe = StepTime(1000, 0, 0, 0, expert_us=10, experts=128, experts_per_token=4)
    assert step_us(moe, 1, 0) == pytest.approx(1040, abs=1) and step_us(moe, 10_000, 0) == pytest.approx(2280, abs=1)


@pytest.mark.parametrize("wrong", [{"a_us": -1.0}, {"rho": 1.1}, {"expert_us": 1.0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        StepTime(**{"a_us": 1.0, "b_us": 1.0, "c_ns": 1.0, "p_us": 1.0} | wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name, tp, expected",
    [
        ("Qwen/Qwen3-32B", 1, 262_144),
        ("meta-llama/Llama-3.3-70B-Instruct", 8, 40_960),
        ("openai/gpt-oss-120b", 1, 36_864),
        ("deepseek-ai/DeepSeek-V3", 8, 70_272),
        ("Qwen/Qwen3.6-27B", 1, 65_536),
        ("Qwen/Qwen3.6-27B", 8, 16_384),  # four heads on eight GPUs: replicated
    ],
)
def test_kv_per_token(name: str, tp: int, expected: int) -> None:
    assert kv_bytes_per_token(model_named(name), tp) == expected


def test_memory_of_published_replicas() -> None:
    gib = 1 << 30
    assert activation_bytes(QWEN) / gib == pytest.approx(5.640, abs=0.03)
    assert weight_bytes(QWEN, Precision.BF16) / gib == pytest.approx(61.02, abs=0.02)
    assert weight_bytes(MODELS["meta-llama/Llama-3.1-70B"], Precision.FP8) / gib == pytest.approx(67.66, abs=0.02)
    assert weight_bytes(MODELS["openai/gpt-oss-120b"], Precision.FP4, padded=True) / gib == pytest.approx(64.5, abs=0.1)
    assert kv_gib(QWEN, H100, 2, Precision.BF16) == pytest.approx(34.49, rel=0.03)
    assert kv_tokens(QWEN, H100, 2, Precision.BF16, 0.95) == pytest.approx(307_328, rel=0.03)
    assert kv_tokens(MODELS["meta-llama/Llama-3.1-70B"], H100, 1, Precision.BF16) == 0  # does not fit


def loop(tp: int, isl: int, osl: int, concurrency: int, of: StepTime) -> Row:
    return Row(QWEN, H100, Precision.BF16, tp, isl, osl, concurrency, tpot_us(of, isl, osl, concurrency) / 1000)


LOOPS = [(isl, osl, n) for isl in (100, 8000) for osl in (200, 1000) for n in (1, 8, 64)]


def test_a_fit_finds_the_coefficients_that_made_the_rows() -> None:
    true = msgspec.structs.replace(estimate(QWEN, H100, 2, Precision.BF16), a_us=15_500, b_us=80, c_ns=55, p_us=42)
    found = fit([loop(2, *shape, true) for shape in LOOPS])
    assert (found.a_us, found.b_us, found.c_ns, found.p_us) == pytest.approx((15_500, 80, 55, 42), rel=0.05)
    assert found.error < 0.005


def test_what_rows_do_not_tell_is_held_to_physics() -> None:
    prior = estimate(QWEN, H100, 2, Precision.BF16)
    found = fit([loop(2, 1, 1000, n, prior) for n in (1, 2, 4, 8, 16, 32)])  # no prefill to speak of
    assert (found.p_us, found.q_ps) == pytest.approx((prior.p_us, prior.q_ps), rel=0.01)


def test_other_degrees_of_parallelism_tell_the_one_left_out() -> None:
    def rows(tp: int) -> list[Row]:
        prior = estimate(QWEN, H100, tp, Precision.BF16)
        true = msgspec.structs.replace(prior, a_us=prior.a_us * 1.2, c_ns=prior.c_ns * 1.3, p_us=prior.p_us * 1.25)
        return [loop(tp, *shape, true) for shape in LOOPS]

    every = rows(1) + rows(2) + rows(4) + rows(8)
    out = held_out(every, lambda row: row.tp)
    assert len(out) == len(every) and {of.label for _, of in out} == {"Estimated (scaled)"}
    assert (
        mean_error([row for row, _ in out], [tpot_us(of, row.isl, row.osl, row.concurrency) for row, of in out]) < 0.03
    )


def test_constants_of_physics_are_found_in_rows_that_they_made() -> None:
    true = msgspec.structs.replace(EXPECTED, weights=1.25, layer_us=55, prefill=1.8, kv=1.1)
    rows = [
        loop(tp, *shape, estimate(QWEN, H100, tp, Precision.BF16, by=true)) for tp in (1, 2, 4, 8) for shape in LOOPS
    ]
    found = fit_constants(rows)
    assert (found.weights, found.layer_us, found.prefill) == pytest.approx((1.25, 55, 1.8), rel=0.05)
    assert found.experts == EXPECTED.experts  # of which dense models tell nothing


def test_a_prior_is_near_what_was_fitted() -> None:
    prior = estimate(QWEN, H100, 2, Precision.BF16)
    assert (prior.a_us, prior.c_ns, prior.p_us) == pytest.approx((14_110, 48.4, 47.5), rel=0.15)
