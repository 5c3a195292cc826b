"""Weights of a model, matrix by matrix, under the names that checkpoints give them.

Norms and biases are left out: they are below a part in a hundred. Names matter where a quantised checkpoint says which
matrices it left as they were.
"""

from collections.abc import Iterator

from msgspec import Struct

from pilothouse.perf.config_fields import Fields
from pilothouse.perf.model_layers import EXPERTS, Feed, Layer, Mixer
from pilothouse.perf.model_shapes import (
    HIDDEN,
    attention_shape,
    delta_shape,
    dense_width,
    expert_shape,
    experts_per_token,
    is_ungated,
    kimi_shape,
    mamba1_shape,
    mamba2_shape,
)


class Part(Struct, frozen=True):
    """Matrices of one name."""

    name: str  # within its layer; of the ends of the model, the whole name
    weights: int
    layers: tuple[int, ...] = ()  # that have it; () = it is none of a layer's
    is_linear: bool = True  # quantisation is for those
    used: int | None = None  # of these weights by one token; None = all

    @property
    def total(self) -> int:
        return self.weights * max(1, len(self.layers))

    @property
    def active(self) -> int:
        return self.total if self.used is None else self.used * max(1, len(self.layers))


def parts_of(fields: Fields, layers: list[Layer]) -> list[Part]:
    """All weights. Sizes that are missing are refused where they are asked for."""
    vocab, hidden = fields.wanted(("vocab_size",), HIDDEN)
    found = [Part("embed_tokens", vocab * hidden, is_linear=False, used=0), Part("lm_head", vocab * hidden)]
    for mixer in Mixer:
        at = tuple(number for number, layer in enumerate(layers) if mixer in layer.mixers)
        found += _own_keys(fields, len(layers), _mixer(fields, mixer, hidden, at)) if at else []
    dense = tuple(number for number, layer in enumerate(layers) if layer.feed in (Feed.DENSE, Feed.BOTH))
    sparse = tuple(number for number, layer in enumerate(layers) if layer.feed in (Feed.EXPERTS, Feed.BOTH))
    found += _dense(fields, hidden, dense, bool(sparse)) if dense else []
    beside = any(layer.feed is Feed.BOTH for layer in layers)  # the dense part has the usual name there
    found += _experts(fields, hidden, sparse, "moe" if beside else "mlp") if sparse else []
    return found + list(_per_layer_inputs(fields, hidden, len(layers)))


def _own_keys(fields: Fields, layers: int, parts: list[Part]) -> list[Part]:
    """Without keys and values of the last layers where these take those of earlier ones, as in Gemma 3n."""
    first_shared = layers - fields.number("num_kv_shared_layers")
    kept = {"self_attn.k_proj", "self_attn.v_proj"}
    return [
        Part(part.name, part.weights, tuple(at for at in part.layers if part.name not in kept or at < first_shared))
        if part.name in kept
        else part
        for part in parts
    ]


def _mixer(fields: Fields, mixer: Mixer, hidden: int, at: tuple[int, ...]) -> list[Part]:
    match mixer:
        case Mixer.FULL | Mixer.WINDOW:
            if fields.number("o_lora_rank"):
                return [Part(f"self_attn.{name}", count, at) for name, count in _one_vector(fields, hidden).items()]
            latent = fields.number("kv_lora_rank")
            named = _latent(fields, hidden, latent) if latent else _attention(fields, mixer, hidden)
            return [Part(f"self_attn.{name}", count, at) for name, count in (named | _index(fields, hidden)).items()]
        case Mixer.SPARSE | Mixer.COMPRESSED:
            named = _one_vector(fields, hidden) | _compressor(fields, hidden, mixer)
            return [Part(f"self_attn.{name}", count, at) for name, count in named.items()]
        case Mixer.DELTA:
            keys, values, heads, _, _ = delta_shape(fields)
            kernel = fields.number("linear_conv_kernel_dim", default=4)
            named = {"in_proj_qkv": hidden * (2 * keys + values), "in_proj_z": hidden * values,
                     "in_proj_ba": hidden * 2 * heads, "out_proj": values * hidden}  # fmt: skip
            return [Part(f"linear_attn.{name}", count, at) for name, count in named.items()] + [
                Part("linear_attn.conv1d", kernel * (2 * keys + values), at, is_linear=False)
            ]
        case Mixer.KIMI:
            heads, width = kimi_shape(fields)
            wide = heads * width
            named = {"q_proj": hidden * wide, "k_proj": hidden * wide, "v_proj": hidden * wide, "o_proj": wide * hidden,
                     "f_proj": hidden * width + width * wide, "g_proj": hidden * width + width * wide,
                     "b_proj": hidden * heads}  # fmt: skip
            return [Part(f"self_attn.{name}", count, at) for name, count in named.items()]
        case Mixer.LIGHTNING:
            shape = attention_shape(fields, Mixer.FULL)
            wide = hidden * shape.heads * shape.key
            named = {"qkv_proj": 3 * wide, "output_gate": wide, "out_proj": wide}
            return [Part(f"self_attn.{name}", count, at) for name, count in named.items()]
        case Mixer.MAMBA2:
            heads, width, state, groups = mamba2_shape(fields)
            inner = heads * width
            named = {"in_proj": hidden * (2 * inner + 2 * groups * state + heads), "out_proj": inner * hidden}
            return [Part(f"mixer.{name}", count, at) for name, count in named.items()]
        case Mixer.MAMBA1:
            inner, state, rank = mamba1_shape(fields, hidden)
            named = {"in_proj": 2 * hidden * inner, "x_proj": inner * (rank + 2 * state), "dt_proj": rank * inner,
                     "out_proj": inner * hidden}  # fmt: skip
            return [Part(f"mamba.{name}", count, at) for name, count in named.items()] + [
                Part(
                    "mamba.state", inner * (state + fields.number("mamba_d_conv", "conv_kernel", default=4)), at, False
                )
            ]
    return [Part("conv.in_proj", 3 * hidden * hidden, at), Part("conv.out_proj", hidden * hidden, at)]


def _attention(fields: Fields, mixer: Mixer, hidden: int) -> dict[str, int]:
    shape = attention_shape(fields, mixer)
    one_for_both = mixer is Mixer.FULL and fields.is_on("attention_k_eq_v")  # Gemma 4
    gate = 2 if fields.is_on("attn_output_gate") else 1
    return {
        "q_proj": hidden * gate * shape.heads * shape.key,
        "k_proj": hidden * shape.kv_heads * shape.key,
        "v_proj": 0 if one_for_both else hidden * shape.kv_heads * shape.value,
        "o_proj": shape.heads * shape.value * hidden,
    }


def _latent(fields: Fields, hidden: int, rank: int) -> dict[str, int]:
    heads = fields.number("num_attention_heads")
    nope, value = fields.wanted(("qk_nope_head_dim",), ("v_head_dim",))
    rope, asked = fields.number("qk_rope_head_dim"), fields.number("q_lora_rank")
    query = heads * (nope + rope)
    named = {"q_a_proj": hidden * asked, "q_b_proj": asked * query} if asked else {"q_proj": hidden * query}
    gate = (
        {"gate_proj": hidden * heads * value}
        if fields.is_on("attn_output_gate") or fields.is_on("mla_use_output_gate")
        else {}
    )
    return named | gate | {
        "kv_a_proj_with_mqa": hidden * (rank + rope),
        "kv_b_proj": rank * heads * (nope + value),
        "o_proj": heads * value * hidden,
    }  # fmt: skip


def _one_vector(fields: Fields, hidden: int) -> dict[str, int]:
    """Of DeepSeek V4: one vector is key and value for all heads, and outputs go through narrow matrices by groups."""
    heads, width, asked, given, groups = fields.wanted(
        ("num_attention_heads",), ("head_dim",), ("q_lora_rank",), ("o_lora_rank",), ("o_groups",)
    )
    return {"q_a_proj": hidden * asked, "q_b_proj": asked * heads * width, "kv_proj": hidden * width,
            "o_a_proj": given * heads * width, "o_b_proj": groups * given * hidden}  # fmt: skip


def _compressor(fields: Fields, hidden: int, mixer: Mixer) -> dict[str, int]:
    """What makes one vector of several tokens, and what picks some of them."""
    width, index, rank = fields.number("head_dim"), fields.number("index_head_dim"), fields.number("q_lora_rank")
    if mixer is Mixer.COMPRESSED:
        return {"compressor.kv_proj": 2 * hidden * width}
    heads = fields.number("index_n_heads")
    picks = 4 * hidden * index + rank * heads * index + hidden * heads
    return {"compressor.kv_proj": 4 * hidden * width, "compressor.indexer": picks}


def _index(fields: Fields, hidden: int) -> dict[str, int]:
    """Of sparse attention over a latent cache: what picks the tokens that are looked at."""
    heads, width, rank = (fields.number(name) for name in ("index_n_heads", "index_head_dim", "q_lora_rank"))
    if not (heads and width and rank):
        return {}
    return {"indexer.wq_b": rank * heads * width, "indexer.wk": hidden * (width + heads)}


def _dense(fields: Fields, hidden: int, at: tuple[int, ...], beside_experts: bool) -> list[Part]:
    width = dense_width(fields, hidden, beside_experts)
    gate = {} if is_ungated(fields) else {"gate_proj": hidden * width}
    named = gate | {"up_proj": hidden * width, "down_proj": hidden * width}
    return [Part(f"mlp.{name}", count, at) for name, count in named.items()]


def _experts(fields: Fields, hidden: int, at: tuple[int, ...], group: str) -> list[Part]:
    count, used = fields.number(*EXPERTS), experts_per_token(fields)
    fields.refuse_missing([] if used else ["num_experts_per_tok"])
    if used > count:
        raise fields.wrong("num_experts_per_tok", f"{used} of {count} experts cannot be used")
    width, takes, matrices = expert_shape(fields, hidden)
    each = matrices * takes * width
    parts = [
        Part(f"{group}.experts.0.up_proj", count * each, at, used=used * each),
        Part(f"{group}.gate", hidden * count, at, is_linear=False),
    ]
    if takes != hidden:  # into the width that experts take, and back
        parts.append(Part(f"{group}.latent_proj", 2 * hidden * takes, at))
    if shared := _shared(fields, width):
        parts.append(Part(f"{group}.shared_experts.up_proj", matrices * hidden * shared, at))
    return parts


def _shared(fields: Fields, expert: int) -> int:
    """Width of all shared experts of a layer together."""
    names = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
             "share_expert_dim")  # fmt: skip
    if width := fields.number(*names):
        return width
    if fields.model_type == "llama4_text":
        return expert
    return (
        fields.number("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts") * expert
    )


def _per_layer_inputs(fields: Fields, hidden: int, layers: int) -> Iterator[Part]:
    """Of the small Gemma models: an embedding for each layer, and what runs beside the layers."""
    at = tuple(range(layers))
    if width := fields.number("hidden_size_per_layer_input"):
        vocab = fields.number("vocab_size_per_layer_input", "vocab_size")
        yield Part("embed_tokens_per_layer", vocab * layers * width, is_linear=False, used=0)
        yield Part("per_layer_model_projection", hidden * layers * width)
        yield Part("per_layer_projection", 2 * hidden * width, at)
    if copies := fields.number("altup_num_inputs"):
        yield Part("altup_projections", 2 * (copies - 1) * hidden * hidden)
    if rank := fields.number("laurel_rank"):
        yield Part("laurel.linear", 2 * hidden * rank, at)
