"""Models out of config.json: against the catalogue and the published figures, then kinds of architecture one by one."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.errors import ConfigError
from pilothouse.perf.catalog import MODELS
from pilothouse.perf.memory import GIB, Precision, kv_bytes_per_token, sequence_bytes, weight_bytes
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
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["bits", "quant_method", "ignore"]), inner)
    ),
    max_leaves=5,
)


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
        "mamba_ssm_dtype": "float32",
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
        ({"n_layer": 12, "n_embd": 768, "n_head": 12}, "lacks vocab_size; complete the file, or describe the model"),
        ({k: v for k, v in DENSE.items() if k != "vocab_size"}, "lacks vocab_size"),
        ({k: v for k, v in DENSE.items() if k != "intermediate_size"}, "lacks intermediate_size"),
        ({k: v for k, v in MOE.items() if k != "num_experts_per_tok"}, "lacks num_experts_per_tok"),
        (DENSE | {"kv_lora_rank": 512}, "lacks qk_rope_head_dim"),
        (DENSE | {"layer_types": ["mamba"] * 64}, "lacks mamba_n_heads, mamba_d_state"),
        (DENSE | {"layer_types": ["retention"] * 64}, "layer_types: retention not known; known are full_attention"),
        (DENSE | {"layer_types": ["full_attention"] * 63}, "layer_types: is told for 63 layers, and there are 64"),
        (DENSE | {"hybrid_override_pattern": "M-X*"}, "hybrid_override_pattern: X not known"),
        (DENSE | {"model_type": "zamba2"}, "model_type: 'zamba2' has layers that share weights, which is not known"),
        (DENSE | {"model_type": "bert"}, "model_type: 'bert' encodes"),
        (DENSE | {"is_encoder_decoder": True}, "encodes"),
        (DENSE | {"num_key_value_heads": 7}, "num_key_value_heads: 64 heads do not divide by 7"),
        (MOE | {"num_experts_per_tok": 129}, "num_experts_per_tok: 129 of 128 experts"),
        (DENSE | {"num_hidden_layers": -3}, "num_hidden_layers: is negative: -3"),
        (DENSE | {"num_hidden_layers": 5000}, "num_hidden_layers: is above 4,096"),
        (DENSE | {"hidden_size": 10**30}, "hidden_size: is above 16,777,216"),
        (DENSE | {"hidden_size": float("nan")}, "hidden_size: 'nan' is not a whole number"),
        (DENSE | {"hidden_size": "5120"}, "hidden_size: '5120' is not a whole number"),
        (DENSE | {"vocab_size": True}, "vocab_size: 'True' is not a whole number"),
        (DENSE | {"quantization_config": "fp8"}, "quantization_config: has no fields"),
        (DENSE | {"quantization_config": {"quant_method": "fp8", "ignore": ["re:(["]}}, "is no regular expression"),
        (DENSE | {"quantization_config": {"quant_method": "fp8", "ignore": ["re:(a+)+$"]}}, "repetitions within"),
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


@given(
    st.dictionaries(st.sampled_from([*DENSE, "layer_types", "quantization_config", "text_config", "num_experts"]), JSON)
)
def test_whatever_a_file_says_is_a_model_or_refused(said: dict[str, Any]) -> None:
    try:
        assert model_of(DENSE | said, "mine").parameters_b > 0
    except ConfigError as refusal:
        assert "mine" in str(refusal) or "quantization_config" in str(refusal)


# Layers that keep states, as the published files have them; figures by hand from the kind's own equations.
MAMBA2 = {"mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4}
HYBRID = (
    DENSE
    | MAMBA2
    | {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M-*-", "mamba_ssm_cache_dtype": "float32"}
)
KIMI = DENSE | {
    "linear_attn_config": {"full_attn_layers": [4 * at for at in range(1, 17)], "head_dim": 128, "num_heads": 32}
}


def test_a_pattern_of_layers_that_each_do_one_thing() -> None:
    model = model_of(HYBRID, "mine")
    assert (model.layers, model.attention_layers, model.experts) == (6, 1, 0)
    state = 2 * (128 * 64 * 128 * 4 + (128 * 64 + 2 * 8 * 128) * 3 * 2)
    assert model.linear_state_mb == pytest.approx(state / 1e6, abs=0.05)
    mixing = 2 * (5120 * (2 * 8192 + 2 * 8 * 128 + 128) + 8192 * 5120) + 5120 * 128 * (2 * 64 + 2 * 8)
    feeding = 3 * 2 * 5120 * 25_600  # two matrices: its activation has no gate
    assert model.parameters_b * 1e9 == pytest.approx(mixing + feeding + 2 * 151_936 * 5120, rel=1e-9)


def test_kimi_layers_by_their_numbers_which_begin_at_one() -> None:
    model = model_of(KIMI, "mine")
    assert (model.attention_layers, model.layers) == (16, 64)
    assert model.linear_state_mb == pytest.approx(48 * (32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2) / 1e6, abs=0.05)


@pytest.mark.parametrize(
    ("more", "full"),
    [
        ({"attn_type_list": [0, 0, 0, 1] * 16, "model_type": "minimax_m1"}, 16),  # MiniMax: 1 = all of the context
        ({"attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16}, 8),  # Jamba
        ({"full_attn_idxs": [1, 5], "model_type": "lfm2"}, 2),  # short convolutions between
        ({"attn_layer_indices": [9, 18], "mamba_n_heads": 128, "mamba_d_state": 128}, 2),  # Bamba
        (
            {"layer_types": ["mamba"] * 60 + ["attention"] * 4, "mamba_n_heads": 128, "mamba_d_state": 128},
            4,
        ),  # Granite 4
    ],
)
def test_layers_that_keep_states_are_told_in_many_ways(more: dict[str, Any], full: int) -> None:
    model = model_of(DENSE | more, "mine")
    assert model.attention_layers == full and model.linear_state_mb > 0


def test_windows_with_heads_of_their_own() -> None:
    """As MiMo has them, and Gemma 4 the other way round."""
    more = {"hybrid_layer_pattern": [0, 1] * 32, "sliding_window": 128, "v_head_dim": 64}
    model = model_of(DENSE | more | {"swa_num_key_value_heads": 16, "swa_head_dim": 128, "swa_v_head_dim": 64}, "mine")
    assert kv_bytes_per_token(model, 1) == 32 * 8 * (128 + 64) * 2
    assert sequence_bytes(model, 1, 10_000) - 10_000 * kv_bytes_per_token(model, 1) == 32 * 144 * 16 * (128 + 64) * 2


def test_a_window_as_long_as_the_longest_context_is_none() -> None:
    model = model_of(DENSE | {"sliding_window": 131_072, "max_position_embeddings": 131_072}, "mine")
    assert (model.full_layers, model.window_layers) == (None, 0)


def quantised(ignore: list[str], **more: Any) -> float:
    """Weights [GB] of a checkpoint in 4 bits that leaves these modules as they were."""
    config = {"quant_method": "compressed-tensors", "ignore": ignore} | more
    group = {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}}}
    return model_of(DENSE | {"quantization_config": {"config_groups": group} | config}, "mine").published_gb


def test_what_a_quantised_checkpoint_leaves_stays_in_16_bits() -> None:
    table, small = 151_936 * 5120, 0.5 + 2 / 128
    attention = 64 * 5120 * 128 * (2 * 64 + 2 * 8)
    feeding = 64 * 3 * 5120 * 25_600
    whole = (attention + feeding) * small + 2 * 2 * table
    assert quantised(["lm_head"]) == pytest.approx(whole / 1e9)
    left = whole + attention * (2 - small)
    for pattern in (
        "re:.*self_attn.*",
        "*self_attn*",
        "self_attn",
        "model.layers.*.self_attn*",
        "model.layers.*.self_attn",
    ):
        assert quantised(["lm_head", pattern]) == pytest.approx(left / 1e9), pattern
    one = whole + 5120 * 25_600 * (2 - small)
    for name in (
        "model.layers.3.mlp.up_proj",
        "language_model.model.layers.3.mlp.up_proj",
        "re:.*layers.3.mlp.up_proj$",
    ):
        assert quantised(["lm_head", name]) == pytest.approx(one / 1e9), name
    assert quantised([]) == pytest.approx((whole - table * (2 - small)) / 1e9)


def test_weights_as_published_are_what_memory_counts() -> None:
    attention = {"modules_to_not_convert": ["self_attn", "lm_head"], "quant_method": "fp8"}
    model = model_of(DENSE | {"quantization_config": attention}, "mine")
    assert weight_bytes(model, Precision.FP8) == pytest.approx(model.published_gb * 1e9)
    assert weight_bytes(model, Precision.BF16) == 2 * model.parameters_b * 1e9


def test_groups_with_widths_of_their_own() -> None:
    eight = {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}
    four = {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}}
    config = {"quant_method": "compressed-tensors", "config_groups": {"a": eight, "b": four}, "ignore": ["lm_head"]}
    model = model_of(DENSE | {"quantization_config": config}, "mine")
    feeding, attention = 64 * 3 * 5120 * 25_600, 64 * 5120 * 128 * (2 * 64 + 2 * 8)
    expected = feeding * (0.5 + 2 / 128) + attention + 2 * 2 * 151_936 * 5120
    assert model.published_gb == pytest.approx(expected / 1e9) and model.published == "int4"


def test_a_family_fills_in_what_its_files_leave_out() -> None:
    """Gemma 3 as it is published: heads, vocabulary, pattern of windows and tied embeddings are its class's."""
    config = {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34, "sliding_window": 1024}
    model = model_of({"text_config": config | {"model_type": "gemma3_text"}, "model_type": "gemma3"}, "gemma-3-4b")
    assert (model.kv_heads, model.window_layers, model.tied_embeddings) == (4, 29, True)
    assert model.parameters_b == pytest.approx(3.88, rel=0.01)  # 4.3 with its vision tower
    assert "no family that was checked" not in model.source
    assert "'brandnew' is no family that was checked" in model_of(DENSE | {"model_type": "brandnew"}, "mine").source


V4 = {  # as DeepSeek-V4-Flash is published
    "model_type": "deepseek_v4", "num_hidden_layers": 43, "hidden_size": 4096, "num_attention_heads": 64,
    "num_key_value_heads": 1, "head_dim": 512, "vocab_size": 129_280, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 6, "q_lora_rank": 1024, "o_lora_rank": 1024,
    "o_groups": 8, "index_n_heads": 64, "index_head_dim": 128, "sliding_window": 128, "expert_dtype": "fp4",
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0], "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


def test_one_vector_for_several_tokens() -> None:
    """21 layers keep a fourth of the context, 20 a 128th, all a window of 128; experts are narrower than the rest."""
    model, known = model_of(V4, "mine"), MODELS["deepseek-ai/DeepSeek-V4-Flash"]
    assert kv_bytes_per_token(model, 8) == pytest.approx((21 / 4 + 20 / 128) * 512 * 2)
    assert sequence_bytes(model, 8, 10_000) - 10_000 * kv_bytes_per_token(model, 8) == pytest.approx(43 * 144 * 512 * 2)
    assert (model.parameters_b, model.active_b) == pytest.approx((284.3, 13.23), rel=1e-3)
    assert (model.published, model.published_gb) == ("fp4", pytest.approx(155.5, rel=1e-3))
    assert sequence_bytes(known, 1, 10_000) == pytest.approx(sequence_bytes(model, 1, 10_000), rel=1e-3)


def test_experts_that_take_less_than_the_width_and_have_no_gate() -> None:
    """As Nemotron 3 Super: what experts take is made narrow first, and made wide again after."""
    more = {"moe_latent_size": 1024, "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 2688}
    model = model_of(HYBRID | more | {"hybrid_override_pattern": "M*E"}, "mine")
    assert model.expert_parameters == 2 * 1024 * 2688
    assert (model.layers, model.moe_layers, model.attention_layers) == (3, 1, 1)


def test_a_published_mxfp4_checkpoint_takes_the_memory_that_was_measured() -> None:
    """gpt-oss-120b on Hopper, with matrices padded: 64.38 GiB, as published by llm-d-planner (vLLM 0.11)."""
    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config = {
        "model_type": "gpt_oss", "num_hidden_layers": 36, "hidden_size": 2880, "num_attention_heads": 64, "head_dim": 64,
        "num_key_value_heads": 8, "intermediate_size": 2880, "num_local_experts": 128, "num_experts_per_tok": 4,
        "vocab_size": 201_088, "sliding_window": 128, "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": left},
    }  # fmt: skip
    model = model_of(config, "gpt-oss-120b")
    assert weight_bytes(model, Precision.FP4, padded=True) / GIB == pytest.approx(64.38, rel=0.005)
    assert (model.attention_layers, model.window_layers) == (18, 18)


@pytest.mark.parametrize(
    ("said", "context"),
    [
        ({"max_position_embeddings": 40_960}, 40_960),
        ({"max_position_embeddings": 32_768, "rope_scaling": {"rope_type": "yarn", "factor": 4.0,
          "original_max_position_embeddings": 32_768}}, 131_072),
        ({"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
          "original_max_position_embeddings": 8_192}}, 131_072),
        ({}, 0),
    ],
)  # fmt: skip
def test_a_model_takes_as_many_tokens_as_its_positions_reach(said: dict[str, Any], context: int) -> None:
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100,
        "intermediate_size": 128,
    }  # fmt: skip
    assert model_of(config | said, "m").context == context
