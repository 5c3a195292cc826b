"""Speculation: laws of the tokens it yields and of what it costs, and speed-ups that others have measured."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.perf.acceptance import Kind, available, draft_model_for, published
from pilothouse.perf.catalog import GPUS, MODELS, Precision
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.speculation import (
    DRAFT_TOKENS_MAX,
    Method,
    Speculation,
    acceptance_counted,
    acceptance_of,
    draft_pass,
    expected_tokens,
    gain,
    memory_bytes,
    speculative,
    vanishes_at,
)
from pilothouse.perf.step_time import StepClock, StepTime, step_us

H100 = GPUS["h100_sxm"]
RATES, DRAFTS = st.floats(0, 1), st.integers(1, DRAFT_TOKENS_MAX)
BENCH_8B = StepTime(
    5886 + 1207, 21.0, 39.3, 21.0
)  # fitted on Llama-3.1-8B on H100 by arXiv 2601.11580, per-step overhead in a
BENCH_EAGLE = StepTime(2135 / 3, 0, 2.4, 0.84)  # theirs for three passes of EAGLE


def with_drafts(name: str, speculation: Speculation, tp: int = 1) -> tuple[StepTime, StepTime]:
    """(without, with) speculation."""
    target = step_time(MODELS[name], H100, tp, Precision.BF16)
    draft = draft_pass(speculation.method, MODELS[name], H100, tp, speculation.draft_tokens)
    return target, speculative(target, draft, speculation)


@given(RATES, RATES, DRAFTS)
def test_better_drafts_and_more_of_them_yield_more(one: float, other: float, drafts: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= expected_tokens(low, drafts) <= expected_tokens(high, drafts) <= drafts + 1
    assert expected_tokens(low, drafts) <= expected_tokens(low, min(DRAFT_TOKENS_MAX, drafts + 1))
    closed = drafts + 1.0 if high > 0.999 else (1 - high ** (drafts + 1)) / (1 - high)
    assert expected_tokens(high, drafts) == pytest.approx(closed, rel=0.02)


@given(st.floats(0, 0.99), st.integers(1, 8))
def test_a_rate_comes_back_from_its_tokens(rate: float, drafts: int) -> None:
    tokens = expected_tokens(rate, drafts)
    assert acceptance_of(tokens, drafts) == pytest.approx(rate, abs=1e-5)
    counted = acceptance_counted(1_000_000 * drafts, round(1_000_000 * (tokens - 1)), drafts)
    assert counted == pytest.approx(rate, abs=1e-4)


@given(RATES, RATES, RATES, DRAFTS)
def test_steps_without_a_draft_yield_one_token(rate: float, constrained: float, drafted: float, drafts: int) -> None:
    speculation = Speculation(Method.NGRAM, drafts, rate, constrained, drafted)
    assert 1 <= speculation.tokens() <= drafts + 1
    assert speculation.tokens() == pytest.approx(1 + drafted * (expected_tokens(rate, drafts) - 1))
    assert (speculation.tokens(constrained=True) <= speculation.tokens()) or constrained >= rate


@given(st.sampled_from(list(MODELS)), st.sampled_from([m for m in Method if m is not Method.DRAFT_MODEL]), DRAFTS)
def test_a_step_with_drafts_is_never_shorter(name: str, method: Method, drafts: int) -> None:
    target, longer = with_drafts(name, Speculation(method, drafts, 0.5), tp=8)
    for batch in (1, 30, 300):
        assert step_us(longer, batch, batch * 2000, batch * 900) >= step_us(target, batch, batch * 2000, batch * 900)
    assert longer.c_ns * longer.rho == pytest.approx(target.c_ns * target.rho)  # what is shared is read once, as before


def test_verified_tokens_touch_more_experts() -> None:
    target = step_time(MODELS["deepseek-ai/DeepSeek-V3"], H100, 8, Precision.FP8)
    four = msgspec.structs.replace(target, sequence_tokens=4.0)
    assert StepClock(four).fixed_ps(5) - StepClock(target).fixed_ps(5) == StepClock(target).experts_ps(20) - StepClock(
        target
    ).experts_ps(5)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-32B", "meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-8B"])
def test_the_gain_shrinks_with_the_batch_and_poor_drafts_cost(name: str) -> None:
    good, poor = (Speculation(Method.EAGLE3, 5, rate, rate / 2) for rate in (0.67, 0.3))
    for speculation, pays_in_the_end in ((good, None), (poor, False)):
        target, longer = with_drafts(name, speculation, 4)
        gains = [gain(target, longer, speculation, batch, 1000) for batch in (1, 4, 16, 64, 256, 1024)]
        assert gains == sorted(gains, reverse=True)
        assert pays_in_the_end is None or (gains[0] > 1 > gains[-1])
    none_at = vanishes_at(lambda batch: gain(target, longer, poor, batch, 1000))
    assert none_at is not None and 2 <= none_at <= 256
    assert gain(target, longer, poor, none_at, 1000) <= 1 < gain(target, longer, poor, none_at * 9 // 10, 1000)
    bound = [gain(target, longer, good, 8, 1000, share) for share in (0.0, 0.3, 1.0)]
    assert bound == sorted(bound, reverse=True)


def test_published_speed_ups_on_step_times_fitted_there() -> None:
    """EAGLE, chain of 3, Llama-3.1-8B on H100, throughput of whole runs (arXiv 2601.11580): ShareGPT loses 4.3 % from
    batch 1 to 32; 1.21 times as fast at batch 128 on GSM8K."""
    eagle = Speculation(Method.EAGLE3, 3, 0.667)
    longer = speculative(BENCH_8B, BENCH_EAGLE, eagle)
    assert gain(BENCH_8B, longer, eagle, 128, 300) == pytest.approx(1.21, rel=0.15)


def test_published_speed_ups_on_priors() -> None:
    """Qwen3-8B on H100, EAGLE on GSM8K (SGLang, arXiv 2601.11580): a chain of 3 gives 1.65 at batch 1 and still pays at
    64; a tree of 21 gives 2.92 tokens per step and is below 1 at 64. And as above, 1.21 at 128: here overrated."""
    target = step_time(MODELS["Qwen/Qwen3-8B"], H100, 1, Precision.BF16)
    chain = Speculation(Method.EAGLE3, 3, acceptance_of(2.25, 3))
    longer = speculative(target, BENCH_EAGLE, chain)
    assert gain(target, longer, chain, 1, 300) == pytest.approx(1.65, rel=0.15)
    assert 1 < gain(target, longer, chain, 64, 300) < gain(target, longer, chain, 1, 300)
    assert gain(target, longer, chain, 128, 300) == pytest.approx(1.21, rel=0.25)
    tree = Speculation(Method.MEDUSA, 21, acceptance_of(2.92, 21))
    assert gain(target, speculative(target, BENCH_EAGLE, tree), tree, 64, 300) < 1


def test_what_there_is_to_draft_with() -> None:
    qwen, deepseek = MODELS["Qwen/Qwen3-32B"], MODELS["deepseek-ai/DeepSeek-V3"]
    assert available(Method.EAGLE3, qwen)[1] and not available(Method.MTP, qwen)[1]
    assert available(Method.MTP, deepseek)[1] and not available(Method.DRAFT_MODEL, deepseek)[1]
    assert available(Method.MEDUSA, qwen) == ("unknown: check", False)
    small = draft_model_for(qwen)
    assert small is not None and small.vocab == qwen.vocab and small.active_b * 8 <= qwen.active_b
    assert memory_bytes(Method.NGRAM, qwen, 2, 3, None) == (0.0, 0.0)
    weights, kv = memory_bytes(Method.EAGLE3, qwen, 2, 3, None)
    assert 0 < weights < 0.1 * 2e9 * qwen.parameters_b / 2 and 0 < kv < 5_000  # under a tenth: arXiv 2601.11580


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("kind", list(Kind))
def test_what_was_published_is_a_speculation(method: Method, kind: Kind) -> None:
    speculation = published(method, kind, 2)
    assert 1 < speculation.tokens() <= 3
    assert speculation.tokens(constrained=True) < speculation.tokens()
    assert published(method, kind, 2, 0.11).acceptance == 0.11


@pytest.mark.parametrize("wrong", [{"draft_tokens": 0}, {"draft_tokens": 99}, {"acceptance": 1.1}, {"drafted": -0.1}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    right = msgspec.structs.asdict(Speculation(Method.MTP, 2, 0.5))
    with pytest.raises(ValueError):
        Speculation(**(right | wrong))  # type: ignore[arg-type]
