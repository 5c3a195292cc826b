"""Names that people use, numbers that agree with each other, and one lookup that always answers."""

import pytest

from pilothouse.perf.catalog import GPUS, MODELS, Model, gpu_named, model_named, precision_named
from pilothouse.perf.coefficients import lookup, step_time
from pilothouse.perf.fitted import FITTED
from pilothouse.perf.memory import Precision, kv_tokens, sequence_bytes


@pytest.mark.parametrize(
    "asked, found",
    [
        ("h100", "h100_sxm"),
        ("16x H100 SXM 80GB", "h100_sxm"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("A100-SXM4-40GB", "a100_40gb"),
        ("A100 80GB", "a100_sxm"),
        ("8 x B200", "b200_sxm"),
        ("TPU v6e", "tpu_v6e"),
        ("MI300X", "mi300x"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
        ("Intel Gaudi 3 OAM", "gaudi3"),
        ("2x RTX 4090", "rtx_4090"),
        ("L40", "l40"),
    ],
)
def test_gpus_by_the_names_that_people_use(asked: str, found: str) -> None:
    assert gpu_named(asked).name == found


@pytest.mark.parametrize(
    "asked, found",
    [
        ("qwen3-32b", "Qwen/Qwen3-32B"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "meta-llama/Llama-3.1-70B"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("deepseek-v3.2", "deepseek-ai/DeepSeek-V3.2"),
        ("Qwen3-30B-A3B-Instruct-2507", "Qwen/Qwen3-30B-A3B"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", "Qwen/Qwen3-235B-A22B"),
        ("llama3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("DEEPSEEK-V3.1", "deepseek-ai/DeepSeek-V3"),
        ("glm_4_6", "zai-org/GLM-4.5"),
    ],
)
def test_models_by_the_names_that_people_use(asked: str, found: str) -> None:
    assert model_named(asked).name == found


def test_every_name_finds_its_own() -> None:
    assert all(model_named(name).name == name for name in MODELS) and all(gpu_named(n).name == n for n in GPUS)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    for ask, near in (("qwen3-23b", "qwen3-32b"), ("llama-3.1-7b", "llama-3.1-")):
        with pytest.raises(KeyError, match=near):
            model_named(ask)
    with pytest.raises(KeyError, match="h200"):
        gpu_named("h2000")
    with pytest.raises(KeyError, match="fp8"):
        precision_named("f8")


@pytest.mark.parametrize("model", [m for m in MODELS.values() if not m.experts and m.full_layers is None])
def test_parameters_follow_from_the_shape(model: Model) -> None:
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    layer = attention + 3 * model.hidden * model.intermediate
    ends = (1 if model.tied_embeddings else 2) * model.vocab * model.hidden
    assert (model.layers * layer + ends) / 1e9 == pytest.approx(model.parameters_b, rel=0.01)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_there_is_a_step_time_for_every_model_and_gpu(model: Model) -> None:
    for gpu in GPUS.values():
        for tp in (1, 2, 4, 8):
            for precision in (Precision.BF16, Precision.FP8):
                found = step_time(model, gpu, tp, precision)
                assert found.label.startswith("Estimated (") and "rho" in found.source and 0 < found.rho < 1
                assert min(found.a_us, found.b_us, found.c_ns, found.p_us, found.q_ps) > 0
                assert bool(model.experts) == (found.expert_us > 0)


def test_the_label_says_how_it_is_known() -> None:
    qwen, llama, h100 = model_named("qwen3-32b"), model_named("llama-3.1-8b"), gpu_named("h100")
    labels = [step_time(m, h100, tp, Precision.BF16).label for m, tp in ((qwen, 2), (qwen, 4), (llama, 1))]
    assert labels == ["Estimated (fitted)", "Estimated (scaled)", "Estimated (prior)"]


def test_more_gpus_make_a_step_shorter_measured_or_not() -> None:
    qwen, h100 = model_named("qwen3-32b"), gpu_named("h100")
    times = [step_time(qwen, h100, tp, Precision.BF16) for tp in (1, 2, 4, 8)]
    for term in ("a_us", "c_ns", "p_us"):
        values = [getattr(t, term) for t in times]
        assert values == sorted(values, reverse=True)


def test_a_configuration_is_found_again_in_a_table_without_others() -> None:
    for fitted in FITTED:
        args = model_named(fitted.model), gpu_named(fitted.gpu), fitted.tp, Precision(fitted.precision)
        assert lookup([fitted], *args) == step_time(*args)


def test_windows_and_states_are_paid_per_sequence() -> None:
    h100, gpt, qwen = gpu_named("h100"), model_named("gpt-oss-20b"), model_named("qwen3.6-27b")
    long, short = (kv_tokens(gpt, h100, 1, Precision.FP4, 0.9, n) for n in (32_768, 512))
    assert 1.2 < long / short < 1.3  # 12 of 24 layers keep 128 tokens (and a block) however long the context is
    assert sequence_bytes(gpt, 1, 100_000) - sequence_bytes(gpt, 1, 50_000) == 50_000 * 24_576
    assert sequence_bytes(qwen, 2, 0) == pytest.approx(153.9e6 / 2)
    dense = model_named("qwen3-32b")
    assert kv_tokens(dense, h100, 2, Precision.BF16, 0.9, 512) == pytest.approx(
        kv_tokens(dense, h100, 2, Precision.BF16, 0.9, 32_768), abs=1
    )
