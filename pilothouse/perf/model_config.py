"""A model out of its config.json, in Hugging Face's field names: what speed and memory depend on, parameters counted.

Dense models, mixtures of experts (shared experts, leading dense layers), latent attention, windows, hybrids with linear
attention. Multi-token prediction layers are told but not counted, vision towers, norms and biases are left out.

accuracy   parameters within 1 % of published counts for the models of the catalogue that have been checked
refuses    what it does not know, naming the fields; a guess would be a wrong plan
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import Model

SOURCE = "its config.json; parameters calculated"
STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
UNGATED = {"gpt_neox", "falcon", "phi", "starcoder2", "nemotron", "opt", "stablelm_epoch"}  # two matrices to an MLP
FOREIGN = ("hybrid_override_pattern", "mamba_d_state", "ssm_state_size", "attn_layer_indices", "layers_block_type")
GROWING, WINDOWED, LINEAR = ("full_attention",), ("sliding_attention", "chunked_attention"), ("linear_attention",)

Config = Mapping[str, Any]


def model_of(config: Config, name: str) -> Model:
    """All of it. Raises ConfigError, naming the fields that are missing or not understood."""
    text = _text(config)
    known = kv_model(config, name)
    missing = [field for field in ("vocab_size",) if not text.get(field)]
    missing += [] if _experts(text) or text.get("intermediate_size") else ["intermediate_size"]
    missing += ["num_experts_per_tok"] if _experts(text) and not _experts_per_token(text) else []
    _refuse_missing(name, missing)
    dense = _dense_layers(text, known.layers)
    expert = _first(text, "moe_intermediate_size", "intermediate_size") if _experts(text) else 0
    model = msgspec.structs.replace(
        known,
        vocab=int(text["vocab_size"]),
        intermediate=int(text.get("intermediate_size") or 0) if dense or not _experts(text) else 0,
        experts=_experts(text),
        experts_per_token=_experts_per_token(text),
        expert_intermediate=expert,
        dense_layers=dense if _experts(text) else 0,
        tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        prediction_layers=_first(text, "num_nextn_predict_layers", "mtp_num_hidden_layers"),
        published=precision_of(config, name),
        source=SOURCE + ("; vision tower not counted" if config.get("vision_config") else ""),
    )
    total, active = _parameters(text, model)
    return msgspec.structs.replace(model, parameters_b=total / 1e9, active_b=active / 1e9)


def kv_model(config: Config, name: str = "") -> Model:
    """What KV and states depend on; the rest of `Model` is left empty."""
    text = _text(config)
    fields = ("num_hidden_layers", "hidden_size", "num_attention_heads")
    _refuse_missing(name, [field for field in fields if not text.get(field)])
    layers, hidden, heads = (int(text[field]) for field in fields)
    kinds = _kinds(text, name, layers)
    latent = int(text.get("kv_lora_rank") or 0)
    own = int(text.get("head_dim") or hidden // heads)
    if latent:
        _refuse_missing(name, [] if text.get("qk_rope_head_dim") else ["qk_rope_head_dim"])
        query = int(text.get("qk_nope_head_dim") or own) + int(text["qk_rope_head_dim"])
        own = (query + int(text.get("v_head_dim") or own)) // 2
    linear = sum(kind in LINEAR for kind in kinds)
    return Model(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=own,
        vocab=0,
        parameters_b=0.0,
        active_b=0.0,
        full_layers=None if all(kind in GROWING for kind in kinds) else sum(kind in GROWING for kind in kinds),
        window_layers=sum(kind in WINDOWED for kind in kinds),
        window=_first(text, "sliding_window", "attention_chunk_size") if any(k in WINDOWED for k in kinds) else 0,
        linear_state_mb=round(linear * _state_bytes(text, name) / 1e6, 1) if linear else 0.0,
        latent=latent + int(text.get("qk_rope_head_dim") or 0) if latent else 0,
    )


def own_dtype(config: Config) -> str:
    """Of activations, and of KV where nobody says otherwise."""
    text = _text(config)
    return str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "bfloat16")


def precision_of(config: Config, name: str) -> str:
    """Of the weights, from `quantization_config`. Raises ConfigError for a method that is not known."""
    quantised = config.get("quantization_config") or _text(config).get("quantization_config")
    if not quantised:
        return Precision.BF16
    said = " ".join(f"{key}={value}" for key, value in _leaves(quantised)).lower()
    method = str(quantised.get("quant_method", "")).lower()
    bits = [int(value) for key, value in _leaves(quantised) if key in ("num_bits", "bits", "w_bit") and value]
    if "mxfp4" in said or "nvfp4" in said or ("type=float" in said and 4 in bits):
        return Precision.FP4
    if (method in ("awq", "gptq", "compressed-tensors", "auto-round") and 4 in bits) or "load_in_4bit=true" in said:
        return Precision.INT4
    if method in ("fp8", "fbgemm_fp8") or "fp8" in said or 8 in bits or "load_in_8bit=true" in said:
        return Precision.FP8
    raise ConfigError([Problem(f"{name}: quantization_config", f"method {method!r} is not known")])


def _text(config: Config) -> Config:
    """The language model's part of a model that also sees or hears."""
    text = config.get("text_config") or config.get("llm_config") or config
    return text if isinstance(text, Mapping) else config


def _kinds(text: Config, name: str, layers: int) -> list[str]:
    """Of attention, one for each layer."""
    if foreign := [field for field in FOREIGN if text.get(field)]:
        what = f"layers of a kind that is not known ({', '.join(foreign)}); state size and weights cannot be told"
        raise ConfigError([Problem(f"{name}: config.json", what)])
    if isinstance(kinds := text.get("layer_types"), list):
        if unknown := sorted({str(kind) for kind in kinds} - {*GROWING, *WINDOWED, *LINEAR}):
            known = ", ".join((*GROWING, *WINDOWED, *LINEAR))
            what = f"{', '.join(unknown)} not known; known are {known}"
            raise ConfigError([Problem(f"{name}: config.json: layer_types", what)])
        return [str(kind) for kind in kinds]
    if every := int(text.get("full_attention_interval") or 0):
        return [GROWING[0] if at % every == every - 1 else LINEAR[0] for at in range(layers)]
    window = text.get("sliding_window") if text.get("use_sliding_window", True) else None
    if window and (every := int(text.get("sliding_window_pattern") or 0)):
        return [GROWING[0] if at % every == every - 1 else WINDOWED[0] for at in range(layers)]
    if window:
        from_layer = int(text.get("max_window_layers") or 0) if "use_sliding_window" in text else 0
        return [GROWING[0] if at < from_layer else WINDOWED[0] for at in range(layers)]
    return [GROWING[0]] * layers


def _state_bytes(text: Config, name: str) -> float:
    """Of one linear layer and running sequence: the recurrent state and the last inputs of the convolution."""
    fields = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    _refuse_missing(name, [field for field in fields if not text.get(field)])
    keys, values, key, value = (int(text[field]) for field in fields)
    width = STATE_BYTES.get(str(text.get("mamba_ssm_dtype") or "float32"), 4)
    channels = 2 * keys * key + values * value
    return values * key * value * width + channels * (int(text.get("linear_conv_kernel_dim") or 4) - 1) * 2


def _parameters(text: Config, model: Model) -> tuple[float, float]:
    """(all, those that one token uses: with the output head, without the embedding)."""
    linear = model.layers - model.attention_layers - model.window_layers
    mixing = (model.layers - linear) * _attention(text, model) + linear * _linear_attention(text, model)
    matrices = 2 if text.get("model_type") in UNGATED else 3
    dense_layers = model.layers if not model.experts else model.dense_layers
    dense = dense_layers * matrices * model.hidden * model.intermediate
    shared = _first(text, "shared_expert_intermediate_size") or (
        _first(text, "n_shared_experts", "num_shared_experts") * model.expert_intermediate
    )
    always = model.moe_layers * model.hidden * (3 * shared + model.experts)  # and the router
    table = model.vocab * model.hidden
    every = mixing + dense + always + (1 if model.tied_embeddings else 2) * table
    active = mixing + dense + always + table
    return every + model.experts * model.expert_parameters, active + model.experts_per_token * model.expert_parameters


def _attention(text: Config, model: Model) -> float:
    hidden, heads = model.hidden, model.heads
    if not model.latent:
        gate = 2 if text.get("attn_output_gate") else 1
        return hidden * model.head_dim * ((1 + gate) * heads + 2 * model.kv_heads)
    rank, rope = int(text["kv_lora_rank"]), int(text["qk_rope_head_dim"])
    nope, value = int(text.get("qk_nope_head_dim") or 0), int(text.get("v_head_dim") or 0)
    asked = int(text.get("q_lora_rank") or 0)
    query = asked * (hidden + heads * (nope + rope)) if asked else hidden * heads * (nope + rope)
    return query + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden


def _linear_attention(text: Config, model: Model) -> float:
    """Gated delta net: queries, keys, values, gate, two scalars to a head, a short convolution, output."""
    if not text.get("linear_num_value_heads"):
        return 0.0
    keys = int(text["linear_num_key_heads"]) * int(text["linear_key_head_dim"])
    heads = int(text["linear_num_value_heads"])
    values = heads * int(text["linear_value_head_dim"])
    kernel = int(text.get("linear_conv_kernel_dim") or 4)
    return model.hidden * (2 * keys + 3 * values + 2 * heads) + kernel * (2 * keys + values)


def _experts(text: Config) -> int:
    return _first(text, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def _experts_per_token(text: Config) -> int:
    return _first(text, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k")


def _dense_layers(text: Config, layers: int) -> int:
    """Layers without experts."""
    if isinstance(pattern := text.get("moe_layer_freq"), list):
        return sum(not has for has in pattern)
    if isinstance(only := text.get("mlp_only_layers"), list) and only:
        return len(only)
    step = int(text.get("decoder_sparse_step") or text.get("interleave_moe_layer_step") or 1)
    return int(text.get("first_k_dense_replace") or 0) if step == 1 else layers - layers // step


def _first(text: Config, *fields: str) -> int:
    """The first of these that is there; 0 = none."""
    return next((int(text[field]) for field in fields if isinstance(text.get(field), int) and text[field]), 0)


def _leaves(nested: Config) -> Iterable[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def _refuse_missing(name: str, fields: list[str]) -> None:
    if fields:
        raise ConfigError([Problem(f"{name}: config.json", f"lacks {', '.join(fields)}")])
