"""Models out of config.json: against the catalogue and the published figures, then kinds of architecture one by one."""

import json
from pathlib import Path
from typing import Any

import pytest

from pilothouse.core.errors import ConfigError
from pilothouse.perf.catalog import MODELS
from pilothouse.perf.memory import kv_bytes_per_token, sequence_bytes
from pilothouse.perf.model_config import model_of, precision_of

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "models.json"
FIELDS = {  # of the published table -> Hugging Face's
    "layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads", "head_dim": "head_dim", "sliding_window": "sliding_window",
    "kv_lora_rank": "kv_lora_rank", "qk_rope_head_dim": "qk_rope_head_dim", "intermediate": "intermediate_size",
    "moe_intermediate": "moe_intermediate_size", "experts": "num_experts", "topk": "num_experts_per_tok",
    "shared_intermediate": "shared_expert_intermediate_size", "first_k_dense": "first_k_dense_replace",
    "vocab": "vocab_size", "mtp_layers": "num_nextn_predict_layers", "tie_embeddings": "tie_word_embeddings",
    "q_lora_rank": "q_lora_rank", "qk_nope_head_dim": "qk_nope_head_dim", "v_head_dim": "v_head_dim",
    "linear_key_heads": "linear_num_key_heads", "linear_value_heads": "linear_num_value_heads",
    "linear_key_head_dim": "linear_key_head_dim", "linear_value_head_dim": "linear_value_head_dim",
    "linear_conv_kernel": "linear_conv_kernel_dim", "linear_state_dtype": "mamba_ssm_dtype",
}  # fmt: skip
DENSE = {
    "num_hidden_layers": 64, "hidden_size": 5120, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151_936, "intermediate_size": 25_600, "tie_word_embeddings": False,
}  # fmt: skip
MOE = DENSE | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "hidden_size": 2048}


def config_of(row: dict[str, Any]) -> dict[str, Any]:
    """The published table holds what config.json does, in other words."""
    config = {theirs: row[ours] for ours, theirs in FIELDS.items() if row[ours] is not None}
    kinds = {
        "full_attention": "full_attn_layers",
        "linear_attention": "linear_layers",
        "sliding_attention": "swa_layers",
    }
    config["layer_types"] = [kind for kind, column in kinds.items() for _ in range(row[column])]
    config["attn_output_gate"] = bool(row["linear_layers"])
    return config


def rows() -> list[dict[str, Any]]:
    return json.loads(PUBLISHED.read_text()) if PUBLISHED.exists() else []


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published table is not beside this repository")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["model"])
def test_what_is_calculated_is_what_is_published(row: dict[str, Any]) -> None:
    if row["status"] in ("second-hand", "approximate", "unverified"):
        pytest.skip(f"published as {row['status']}")
    model = model_of(config_of(row), row["model"])
    assert model.parameters_b == pytest.approx(row["params_total_B_calc"], rel=0.005, abs=0.006)
    assert model.active_b == pytest.approx(row["params_active_B_calc"], rel=0.01)
    assert kv_bytes_per_token(model, 1) == row["kv_bytes_per_token_bf16_fullattn"]
    assert model.linear_state_mb == pytest.approx(row["linear_state_MB_per_seq_fp32_ssm"] or 0.0, abs=0.1)
    assert model.prediction_layers == (row["mtp_layers"] or 0)
    ours = MODELS[row["model"]]
    same = (
        "prediction_layers",
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "vocab",
        "latent",
        "experts",
        "experts_per_token",
        "moe_layers",
    )
    for field in (*same, "attention_layers", "window_layers", "window", "expert_parameters", "tied_embeddings"):
        if not (model.latent and field == "kv_heads"):
            assert getattr(model, field) == getattr(ours, field), field
    assert sequence_bytes(model, 1, 8000) == pytest.approx(sequence_bytes(ours, 1, 8000), rel=1e-3)


def test_a_dense_model_counts_what_the_catalogue_says() -> None:
    model, known = model_of(DENSE, "mine"), MODELS["Qwen/Qwen3-32B"]
    assert (model.parameters_b, model.active_b) == pytest.approx((known.parameters_b, known.active_b), abs=0.01)
    assert (model.full_layers, model.window, model.published) == (None, 0, "bf16")


@pytest.mark.parametrize(
    ("more", "full", "windowed", "window"),
    [
        ({"sliding_window": 4096}, 0, 64, 4096),  # as Mistral
        ({"sliding_window": 4096, "use_sliding_window": False}, None, 0, 0),  # as Qwen2
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 48}, 48, 16, 4096),
        ({"sliding_window": 512, "sliding_window_pattern": 4}, 16, 48, 512),  # as Gemma 3
        ({"layer_types": ["full_attention", "chunked_attention"] * 32, "attention_chunk_size": 8192}, 32, 32, 8192),
        ({"layer_types": ["full_attention"] * 64, "sliding_window": 128}, None, 0, 0),
    ],
)
def test_windows(more: dict[str, Any], full: int | None, windowed: int, window: int) -> None:
    model = model_of(DENSE | more, "mine")
    assert (model.full_layers, model.window_layers, model.window) == (full, windowed, window)


def test_linear_layers_by_interval_keep_state() -> None:
    linear = {
        "full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 48,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
    }  # fmt: skip
    model = model_of(DENSE | linear, "mine")
    assert (model.attention_layers, model.linear_state_mb) == (16, 153.9)
    assert model_of(DENSE | linear | {"mamba_ssm_dtype": "bfloat16"}, "mine").linear_state_mb == 78.4
    with pytest.raises(ConfigError, match="lacks linear_num_key_heads"):
        model_of(DENSE | {"full_attention_interval": 4}, "mine")


def test_experts_shared_routed_and_leading_dense_layers() -> None:
    plain = model_of(MOE, "mine")
    shared = model_of(MOE | {"n_shared_experts": 2}, "mine")
    added = 64 * 3 * 2048 * 2 * 768 / 1e9
    assert shared.parameters_b - plain.parameters_b == pytest.approx(added)
    assert shared.active_b - plain.active_b == pytest.approx(added)
    assert model_of(MOE | {"first_k_dense_replace": 3}, "mine").moe_layers == 61
    assert model_of(MOE | {"decoder_sparse_step": 2}, "mine").moe_layers == 32
    assert model_of(MOE | {"moe_layer_freq": [0, 1] * 32}, "mine").moe_layers == 32
    assert model_of(MOE | {"mlp_only_layers": [0, 1]}, "mine").dense_layers == 2


@pytest.mark.parametrize(
    ("quantised", "precision"),
    [
        (None, "bf16"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "mxfp4"}, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}},
            "int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}}},
            },
            "fp4",
        ),
    ],
)
def test_quantised_checkpoints(quantised: dict[str, Any] | None, precision: str) -> None:
    assert precision_of(DENSE | {"quantization_config": quantised}, "mine") == precision


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "mine: config.json: lacks num_hidden_layers, hidden_size, num_attention_heads"),
        ({"n_layer": 12, "n_embd": 768, "n_head": 12}, "lacks num_hidden_layers"),
        ({k: v for k, v in DENSE.items() if k != "vocab_size"}, "lacks vocab_size"),
        ({k: v for k, v in DENSE.items() if k != "intermediate_size"}, "lacks intermediate_size"),
        ({k: v for k, v in MOE.items() if k != "num_experts_per_tok"}, "lacks num_experts_per_tok"),
        (DENSE | {"kv_lora_rank": 512}, "lacks qk_rope_head_dim"),
        (DENSE | {"layer_types": ["mamba"] * 64}, "layer_types: mamba not known"),
        (DENSE | {"hybrid_override_pattern": "M-M*"}, "hybrid_override_pattern"),
        (DENSE | {"quantization_config": {"quant_method": "strange"}}, "'strange' is not known"),
    ],
)
def test_what_is_not_known_is_refused_by_name(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        model_of(config, "mine")
    assert said in str(refusal.value)


def test_the_language_model_of_one_that_sees() -> None:
    model = model_of({"text_config": DENSE, "vision_config": {"depth": 27}, "tie_word_embeddings": False}, "mine")
    assert model.layers == 64 and "vision" in model.source
