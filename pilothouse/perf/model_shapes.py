"""Numbers and widths of heads, states and feed-forward layers, by the names that families have for them."""

from collections.abc import Mapping

from msgspec import Struct

from pilothouse.perf.config_fields import Config, Fields
from pilothouse.perf.model_layers import WORDS, Mixer

HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
UNGATED = {  # two matrices to a feed-forward layer instead of three
    "apertus", "arcee", "biogpt", "bloom", "codegen", "cosmos3_edge_text", "falcon", "fuyu", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gptj", "jais2", "mpt", "nanochat", "nemotron", "nemotron_h", "opt", "persimmon", "phi", "stablelm_epoch",
    "starcoder2",
}  # fmt: skip
FOUR_TIMES = {
    "bloom",
    "codegen",
    "falcon",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "mpt",
}  # where nobody says how wide


class Shape(Struct, frozen=True):
    """Heads of one kind of attention layer."""

    heads: int
    kv_heads: int
    key: int  # width of a head's query and key
    value: int


def attention_shape(fields: Fields, mixer: Mixer) -> Shape:
    """Of layers of all the context, or of windows, which some models give heads of another number and width."""
    fields = fields.changed_by(_change(fields, mixer))
    hidden = fields.number(*HIDDEN)
    heads = fields.number(*HEADS, default=1)
    kv = fields.number("num_key_value_heads", "num_kv_heads", "n_head_kv")
    if fields.is_on("multi_query") and not fields.is_on("new_decoder_architecture"):
        kv = 1
    key = fields.number("head_dim", "attention_head_dim", "kv_channels", default=max(1, hidden // heads))
    value = fields.number("v_head_dim", default=key)
    if kv and heads % kv:
        raise fields.wrong("num_key_value_heads", f"{heads} heads do not divide by {kv}")
    if mixer is Mixer.WINDOW and fields.number("swa_num_key_value_heads"):  # MiMo
        heads = fields.number("swa_num_attention_heads", default=heads)
        key = fields.number("swa_head_dim", default=key)
        return Shape(heads, fields.number("swa_num_key_value_heads"), key, fields.number("swa_v_head_dim", default=key))
    if mixer is Mixer.FULL and fields.number("global_head_dim"):  # Gemma 4
        key = fields.number("global_head_dim")
        return Shape(heads, fields.number("num_global_key_value_heads", default=kv or heads), key, key)
    return Shape(heads, kv or heads, key, value)


def _change(fields: Fields, mixer: Mixer) -> Config:
    """What `per_layer_config` says of the first layer of this kind."""
    kinds = fields.words("layer_types")
    for layer, change in fields.part("per_layer_config").items():
        at = int(layer) if str(layer).isdecimal() else len(kinds)
        if at < len(kinds) and WORDS.get(kinds[at]) is mixer and isinstance(change, Mapping):
            return change
    return {}


def dense_width(fields: Fields, hidden: int, beside_experts: bool) -> int:
    """Of a feed-forward layer without experts. Raises ConfigError if nobody says it."""
    names = ["intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff"]
    if beside_experts:  # Llama 4 and MiniMax M3 say the experts' in the first
        names = ["intermediate_size_mlp", "dense_intermediate_size", *names]
    width = fields.number(*names) or (4 * hidden if fields.model_type in FOUR_TIMES else 0)
    fields.refuse_missing([] if width else ["intermediate_size"])
    if fields.model_type.startswith("lfm2") and fields.is_on("block_auto_adjust_ff_dim", True):
        step = fields.number("block_multiple_of", default=256)
        return -(-(2 * width // 3) // step) * step
    return width


def expert_shape(fields: Fields, hidden: int) -> tuple[int, int, int]:
    """(width of an expert, width of its input, matrices)."""
    width = fields.number("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size")
    fields.refuse_missing([] if width else ["moe_intermediate_size"])
    return (
        width,
        fields.number("moe_latent_size", "routed_expert_hidden_size", default=hidden),
        2 if is_ungated(fields) else 3,
    )


def experts_per_token(fields: Fields) -> int:
    names = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
    return fields.number(*names)


def is_ungated(fields: Fields) -> bool:
    return fields.model_type in UNGATED


def delta_shape(fields: Fields) -> tuple[int, int, int, int, int]:
    """(width of all keys, of all values, value heads, width of a key head, of a value head)."""
    names = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    keys, values, key, value = fields.wanted(*((name,) for name in names))
    return keys * key, values * value, values, key, value


def kimi_shape(fields: Fields) -> tuple[int, int]:
    """(heads, width of a head)."""
    if told := fields.part("linear_attn_config"):
        fields = Fields(told, fields.name)
    heads, width = fields.wanted(("linear_num_heads", "num_heads"), ("linear_head_dim", "head_dim"))
    return heads, width


def mamba2_shape(fields: Fields) -> tuple[int, int, int, int]:
    """(heads, width of a head, state, groups)."""
    heads, state = fields.wanted(
        ("mamba_n_heads", "mamba_num_heads", "num_heads"), ("mamba_d_state", "ssm_state_size", "state_size")
    )
    inner = fields.number("mamba_expand", "expand", default=2) * fields.number("hidden_size")
    of_its_own = ("head_dim",) if fields.model_type == "mamba2" else ()
    width = fields.number("mamba_d_head", "mamba_head_dim", *of_its_own, default=inner // heads)
    return heads, width, state, fields.number("mamba_n_groups", "n_groups", default=1)


def mamba1_shape(fields: Fields, hidden: int) -> tuple[int, int, int]:
    """(inner width, state, rank of the time step)."""
    inner = hidden * fields.number("mamba_expand", "expand", default=2)
    (state,) = fields.wanted(("mamba_d_state", "state_size"))
    return inner, state, fields.number("mamba_dt_rank", "time_step_rank", default=-(-hidden // 16))
