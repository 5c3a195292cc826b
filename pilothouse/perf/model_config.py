"""A model out of its config.json, in Hugging Face's field names: what speed and memory depend on, parameters counted.

Dense models, mixtures of experts (shared ones, leading dense layers, latent ones), latent attention, windows, hybrids with
states (`model_layers.py`), quantised checkpoints (`quantised.py`). Multi-token prediction layers are told but not counted;
vision towers, norms and biases are left out.

accuracy   `benchmarks/model_configs.py`: within 1 % of what transformers instantiates, for the families in `CHECKED`
refuses    what it does not know, naming the fields; a guess would be a wrong plan
"""

import msgspec

from pilothouse.perf.config_defaults import CHECKED, ENCODERS, STRANGE, STRANGE_FIELDS
from pilothouse.perf.config_fields import Config, Fields
from pilothouse.perf.model_layers import EXPERTS, LAYERS, STATES_ALONE, Feed, Layer, Mixer, layers_of
from pilothouse.perf.model_parts import parts_of
from pilothouse.perf.model_shapes import (
    HEADS,
    HIDDEN,
    attention_shape,
    dense_width,
    expert_shape,
    experts_per_token,
    mamba2_shape,
)
from pilothouse.perf.model_states import state_bytes
from pilothouse.perf.models import Model
from pilothouse.perf.quantised import precision_of, published_bytes

__all__ = ["Config", "kv_model", "model_of", "own_dtype", "precision_of"]

GROWING = (Mixer.FULL, Mixer.SPARSE, Mixer.COMPRESSED)
WINDOWED = (Mixer.WINDOW, Mixer.SPARSE, Mixer.COMPRESSED)
RATIOS = {Mixer.SPARSE: 4, Mixer.COMPRESSED: 128}  # tokens to a vector, where nobody says: DeepSeek V4's
CONTEXT_MAX = 1 << 40
SOURCE = "its config.json; parameters calculated"


def model_of(config: Config, name: str) -> Model:
    """All of it. Raises ConfigError, naming the fields that are missing or not understood."""
    fields = Fields(config, name)
    _refuse_strange(fields)
    _refuse_incomplete(fields, ("vocab_size",))
    layers = layers_of(fields)
    known = _kv_model(fields, layers)
    parts = parts_of(fields, layers)
    sparse = sum(layer.feed in (Feed.EXPERTS, Feed.BOTH) for layer in layers)
    has_dense = any(layer.feed in (Feed.DENSE, Feed.BOTH) for layer in layers)
    width, takes, matrices = expert_shape(fields, known.hidden) if sparse else (0, 0, 3)
    tied = _is_tied(fields)
    total = sum(part.total for part in parts if not (tied and part.name == "lm_head"))
    precision = precision_of(config, name)
    stored = published_bytes(config, [part for part in parts if not (tied and part.name == "lm_head")], name)
    return msgspec.structs.replace(
        known,
        vocab=fields.number("vocab_size"),
        parameters_b=total / 1e9,
        active_b=sum(part.active for part in parts) / 1e9,
        intermediate=dense_width(fields, known.hidden, bool(sparse)) if has_dense else 0,
        experts=fields.number(*EXPERTS) if sparse else 0,
        experts_per_token=experts_per_token(fields) if sparse else 0,
        expert_intermediate=width,
        expert_matrices=matrices,
        expert_input=takes if takes != known.hidden else 0,
        dense_layers=len(layers) - sparse if sparse else 0,
        tied_embeddings=tied,
        prediction_layers=fields.number("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers"),
        index_width=fields.number("index_head_dim") if known.latent and known.attention_layers else 0,
        context=_context(fields),
        published=precision.value,
        published_gb=stored / 1e9,
        source=_source(fields),
    )


def _context(fields: Fields) -> int:
    """Tokens it takes, those of stretched positions (YaRN) included, as vLLM counts them; 0 = not said."""
    stretched = Fields(dict(fields.part("rope_scaling") or fields.part("rope_parameters")), fields.name)
    is_yarn = "yarn" in (stretched.word("type"), stretched.word("rope_type"))
    first = stretched.number("original_max_position_embeddings", most=CONTEXT_MAX) if is_yarn else 0
    return max(
        fields.number("max_position_embeddings", "n_positions", "max_sequence_length", most=CONTEXT_MAX),
        first * stretched.number("factor") if first else 0,
    )


def kv_model(config: Config, name: str = "") -> Model:
    """What KV and states depend on; the rest of `Model` is left empty."""
    fields = Fields(config, name)
    _refuse_strange(fields)
    _refuse_incomplete(fields)
    return _kv_model(fields, layers_of(fields))


def own_dtype(config: Config) -> str:
    """Of activations, and of KV where nobody says otherwise."""
    fields = Fields(config, "")
    outer = config.get("torch_dtype")
    return fields.word("dtype") or fields.word("torch_dtype") or (outer if isinstance(outer, str) else "bfloat16")


def _kv_model(fields: Fields, layers: list[Layer]) -> Model:
    (hidden,) = fields.wanted(HIDDEN)
    own = len(layers) - fields.number("num_kv_shared_layers")  # the others take those of earlier layers
    growing = [layer for layer in layers[:own] if not {*GROWING}.isdisjoint(layer.mixers)]
    full = len(growing)
    windows = sum(not {*WINDOWED}.isdisjoint(layer.mixers) for layer in layers[:own])
    states = any(mixer not in (*GROWING, *WINDOWED) for layer in layers for mixer in layer.mixers)
    one_vector = fields.number("head_dim") if fields.number("o_lora_rank") else 0
    latent = fields.number("kv_lora_rank")
    shape = attention_shape(fields, Mixer.FULL if full else Mixer.WINDOW)
    heads, kv_heads, width = shape.heads, shape.kv_heads, (shape.key + shape.value) // 2
    if latent:
        if full and not fields.says("qk_rope_head_dim"):
            fields.refuse_missing(["qk_rope_head_dim"])
        query = fields.number("qk_nope_head_dim", default=shape.key) + fields.number("qk_rope_head_dim")
        width = (query + shape.value) // 2
    if not full and not windows:
        heads = kv_heads = mamba2_shape(fields)[0] if fields.model_type == "mamba2" else 1
    other = attention_shape(fields, Mixer.WINDOW)
    differs = full and windows and other != shape
    return Model(
        name=fields.name,
        layers=len(layers),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        vocab=0,
        parameters_b=0.0,
        active_b=0.0,
        full_layers=None if full == len(layers) else full,
        window_layers=windows,
        window=fields.number("sliding_window", "attention_chunk_size") if windows else 0,
        window_kv_heads=other.kv_heads if differs else 0,
        window_head_dim=(other.key + other.value) // 2 if differs else 0,
        linear_state_mb=round(state_bytes(fields, layers, hidden) / 1e6, 1 if states else 0) if states else 0.0,
        latent=one_vector or (latent + fields.number("qk_rope_head_dim") if latent else 0),
        kept_share=_kept_share(fields, layers) if one_vector else 1.0,
    )


def _kept_share(fields: Fields, layers: list[Layer]) -> float:
    """Mean over the layers that keep vectors of several tokens: how many to a token."""
    told = fields.numbers("compress_ratios")
    ratios = [
        told[at] if at < len(told) else RATIOS[layer.mixers[0]]
        for at, layer in enumerate(layers)
        if layer.mixers and layer.mixers[0] in RATIOS
    ]
    return sum(1 / ratio for ratio in ratios) / len(ratios) if ratios else 1.0


def _is_tied(fields: Fields) -> bool:
    """The whole file's word counts more than its language part's, as transformers has it."""
    outer = fields.outer.get("tie_word_embeddings")
    return fields.is_on("tie_word_embeddings") if outer is None else bool(outer)


def _refuse_strange(fields: Fields) -> None:
    """Families whose layers no count of ours fits, and what is no decoder."""
    kind = fields.model_type
    if fields.outer.get("is_encoder_decoder") is True or kind in ENCODERS:
        raise fields.wrong("model_type", f"{kind!r} encodes: plans are for models that generate, decoders alone")
    if (why := STRANGE.get(kind)) or (why := next((w for f, w in STRANGE_FIELDS.items() if fields.says(f)), "")):
        what = f"{kind!r} has {why}, which is not known; describe the model in YAML with the catalogue's fields"
        raise fields.wrong("model_type", what)


def _refuse_incomplete(fields: Fields, *more: tuple[str, ...]) -> None:
    """All that every model must say, at once; what only some have is asked for where it is used."""
    has_pattern = fields.says("hybrid_override_pattern") or fields.says("layers_block_type")
    has_attention = fields.model_type not in STATES_ALONE
    fields.wanted(*(() if has_pattern else (LAYERS,)), HIDDEN, *((HEADS,) if has_attention else ()), *more)


def _source(fields: Fields) -> str:
    seen = "; vision tower not counted" if fields.outer.get("vision_config") else ""
    kind = fields.model_type
    unchecked = f"; {kind!r} is no family that was checked, it is counted as a usual transformer" if kind else ""
    return SOURCE + seen + ("" if kind in CHECKED else unchecked)
