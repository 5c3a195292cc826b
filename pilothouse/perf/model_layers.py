"""Which kind each layer of a model is: what mixes tokens in it, and what comes after.

Files tell it in many ways: a list with a word for each layer, a pattern, an interval, lists of exceptions. All of them
end here as one list of `Layer`.
"""

from enum import StrEnum
from itertools import cycle, islice

from msgspec import Struct

from pilothouse.perf.config_fields import LAYERS_MAX, Fields


class Mixer(StrEnum):
    """What of earlier tokens a layer looks at, and so what it keeps of them."""

    FULL = "full attention"  # KV of all
    WINDOW = "window"  # KV of the last ones
    SPARSE = "compressed, of which some are picked"  # one vector for several tokens, an index, and a window
    COMPRESSED = "compressed"  # one vector for many tokens, and a window
    DELTA = "gated delta net"  # a state
    KIMI = "Kimi delta attention"  # a state
    LIGHTNING = "lightning attention"  # a state
    MAMBA2 = "Mamba-2"  # a state
    MAMBA1 = "Mamba-1"  # a state
    CONVOLUTION = "short convolution"  # the last few inputs


class Feed(StrEnum):
    """What follows the mixer."""

    DENSE = "dense"
    EXPERTS = "experts"
    BOTH = "experts beside a dense part"
    NONE = "nothing"


class Layer(Struct, frozen=True):
    """One layer. Several mixers work side by side; none: it is a feed-forward layer alone."""

    mixers: tuple[Mixer, ...]
    feed: Feed


LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
STATES_ALONE = ("mamba", "mamba2", "falcon_mamba")
WORDS = {
    "full_attention": Mixer.FULL, "attention": Mixer.FULL, "indexed_attention": Mixer.FULL, "mamba": Mixer.MAMBA2,
    "sliding_attention": Mixer.WINDOW, "chunked_attention": Mixer.WINDOW, "conv": Mixer.CONVOLUTION,
    "deepseek_sparse_attention": Mixer.FULL, "compressed_sparse_attention": Mixer.SPARSE,
    "heavily_compressed_attention": Mixer.COMPRESSED,
}  # fmt: skip
LETTERS = {  # of NemotronH's pattern
    "M": Layer((Mixer.MAMBA2,), Feed.NONE), "*": Layer((Mixer.FULL,), Feed.NONE),
    "-": Layer((), Feed.DENSE), "E": Layer((), Feed.EXPERTS),
}  # fmt: skip
BLOCKS = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*", "mlp": "-", "moe": "E"}
SPARSE_RATIO_MAX = 16  # DeepSeek V4 makes one vector of 4 tokens where it picks some, and of 128 where it looks at all
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
SPARSE = ("sparse", "moe", "hash_moe")


def layers_of(fields: Fields) -> list[Layer]:
    """Raises ConfigError for kinds that are not known."""
    if pattern := fields.word("hybrid_override_pattern"):
        return _pattern(fields, "hybrid_override_pattern", list(pattern))
    if fields.model_type.startswith("nemotron_h") and (blocks := fields.words("layers_block_type")):
        return _pattern(fields, "layers_block_type", [BLOCKS.get(block, block) for block in blocks])
    (count,) = fields.wanted(LAYERS)
    if count > LAYERS_MAX:
        raise fields.wrong("num_hidden_layers", f"is above {LAYERS_MAX:,}: {count:,}")
    if fields.model_type in STATES_ALONE:
        mixer = Mixer.MAMBA2 if fields.model_type == "mamba2" else Mixer.MAMBA1
        return [Layer((mixer,), Feed.NONE)] * count
    mixers: list[tuple[Mixer, ...]] = [(mixer,) for mixer in _mixers(fields, count)]
    if fields.model_type == "falcon_h1":
        mixers = [(Mixer.FULL, Mixer.MAMBA2)] * count
    return [Layer(mixer, feed) for mixer, feed in zip(mixers, _feeds(fields, count), strict=True)]


def _pattern(fields: Fields, field: str, letters: list[str]) -> list[Layer]:
    if len(letters) > LAYERS_MAX or (unknown := sorted({*letters} - {*LETTERS})):
        what = (
            f"{', '.join(unknown)[:80]} not known" if len(letters) <= LAYERS_MAX else f"is above {LAYERS_MAX:,} layers"
        )
        raise fields.wrong(field, what)
    return [LETTERS[letter] for letter in letters]


def _mixers(fields: Fields, count: int) -> list[Mixer]:
    """By the first field that tells."""
    linear = _linear(fields)
    if ratios := fields.numbers("compress_ratios")[:count]:  # those of prediction layers come last
        return [_compressed(ratio) for ratio in ratios] + [Mixer.WINDOW] * (count - len(ratios))
    if fields.says("layers_block_type") and fields.model_type in ("zamba", "zamba2", "recurrent_gemma"):
        raise fields.wrong("layers_block_type", "layers that share weights, or recurrent ones, are not known")
    if kinds := fields.by_layer("layer_types", count):
        words = WORDS | {"linear_attention": linear}
        if unknown := sorted({*kinds} - {*words}):
            raise fields.wrong("layer_types", f"{', '.join(unknown)[:80]} not known; known are {', '.join(words)}")
        found = [words[kind] for kind in kinds]
        return _unlimited(fields, found)
    by_number = (  # field, what the layers in it are, what the others are, what the first layer is called
        ("full_attn_idxs", Mixer.FULL, Mixer.CONVOLUTION, 0),
        ("attn_layer_indices", Mixer.FULL, Mixer.MAMBA2, 0),
    )
    for field, inside, outside, first in by_number:
        if fields.says(field):
            return _listed(fields.numbers(field), inside, outside, first, count)
    if kimi := fields.part("linear_attn_config"):
        full = Fields({"full": kimi.get("full_attn_layers")}, fields.name).numbers("full")
        return _listed(full, Mixer.FULL, Mixer.KIMI, 1, count)
    if by_layer := fields.by_layer("attn_type_list", count):  # MiniMax: 0 = linear
        return [Mixer.FULL if each == "1" else Mixer.LIGHTNING for each in by_layer]
    if by_layer := fields.by_layer("hybrid_layer_pattern", count):  # MiMo: 1 = window
        return [Mixer.WINDOW if each == "1" else Mixer.FULL for each in by_layer]
    if every := fields.number("attn_layer_period"):  # Jamba
        offset = fields.number("attn_layer_offset")
        return [Mixer.FULL if at % every == offset else Mixer.MAMBA1 for at in range(count)]
    if every := fields.number("full_attention_interval"):
        return [Mixer.FULL if at % every == every - 1 else linear for at in range(count)]
    if fields.number("mamba_d_state") and fields.model_type != "falcon_h1":
        return [Mixer.MAMBA2] * count
    return _unlimited(fields, _windows(fields, count))


def _compressed(ratio: int) -> Mixer:
    if ratio <= 1:
        return Mixer.WINDOW
    return Mixer.SPARSE if ratio <= SPARSE_RATIO_MAX else Mixer.COMPRESSED


def _windows(fields: Fields, count: int) -> list[Mixer]:
    """By the window's own fields."""
    if fields.number("attention_chunk_size") and (every := fields.number("no_rope_layer_interval")):  # Llama 4
        return [Mixer.FULL if at % every == every - 1 else Mixer.WINDOW for at in range(count)]
    if not fields.number("sliding_window") or not fields.is_on("use_sliding_window", True):
        return [Mixer.FULL] * count
    letters = fields.word("sliding_window_pattern")  # Exaone: L = window, G = all
    if letters:
        return [Mixer.WINDOW if letter == "L" else Mixer.FULL for letter in islice(cycle(letters), count)]
    if every := fields.number("sliding_window_pattern", "global_attn_every_n_layers"):
        return [Mixer.FULL if at % every == every - 1 else Mixer.WINDOW for at in range(count)]
    first = fields.number("max_window_layers") if fields.says("use_sliding_window") else 0
    return [Mixer.FULL if at < first else Mixer.WINDOW for at in range(count)]


def _unlimited(fields: Fields, mixers: list[Mixer]) -> list[Mixer]:
    """A window that is as long as the longest context limits nothing."""
    longest = fields.number("max_position_embeddings", most=1 << 40)
    window = fields.number("sliding_window", "attention_chunk_size", most=1 << 40)
    if not longest or window < longest:
        return mixers
    return [Mixer.FULL if mixer is Mixer.WINDOW else mixer for mixer in mixers]


def _listed(numbers: list[int], inside: Mixer, outside: Mixer, first: int, count: int) -> list[Mixer]:
    known = set(numbers)
    return [inside if at + first in known else outside for at in range(count)]


def _linear(fields: Fields) -> Mixer:
    """What `linear_attention` means in this family."""
    if fields.number("mamba_n_heads", "mamba_num_heads"):
        return Mixer.MAMBA2
    if fields.number("linear_num_heads") or fields.part("linear_attn_config"):
        return Mixer.KIMI
    return Mixer.LIGHTNING if fields.model_type.startswith("minimax") else Mixer.DELTA


def _feeds(fields: Fields, count: int) -> list[Feed]:
    if not fields.number(*EXPERTS):
        return [Feed.DENSE] * count
    if fields.says("enable_moe_block"):  # Gemma 4
        return [Feed.BOTH if fields.is_on("enable_moe_block") else Feed.DENSE] * count
    return [Feed.EXPERTS if each else Feed.DENSE for each in _sparse(fields, count)]


def _sparse(fields: Fields, count: int) -> list[bool]:
    """Whether a layer has experts."""
    if kinds := fields.by_layer("mlp_layer_types", count):
        return [kind in SPARSE for kind in kinds]
    for field in ("moe_layers", "moe_layers_enum"):
        if fields.says(field) and (known := set(fields.numbers(field))):
            return [at in known for at in range(count)]
    if has := fields.by_layer("moe_layer_freq", count):
        return [each not in ("0", "False") for each in has]
    if every := fields.number("expert_layer_period"):  # Jamba
        return [at % every == fields.number("expert_layer_offset") for at in range(count)]
    if every := fields.number("interleave_moe_layer_step"):  # Llama 4
        return [at % every == every - 1 for at in range(count)]
    if fields.says("moe_layer_start_index"):  # Ernie
        first, last = fields.number("moe_layer_start_index"), fields.number("moe_layer_end_index", default=count - 1)
        every = fields.number("moe_layer_interval", default=1)
        return [first <= at <= last and (at + 1) % every == 0 for at in range(count)]
    first = fields.number("first_k_dense_replace", "num_dense_layers")
    every = fields.number("decoder_sparse_step", default=1)
    dense = set(fields.numbers("mlp_only_layers"))
    freq = fields.number("moe_layer_freq", default=1)
    return [at >= first and at not in dense and (at + 1) % every == 0 and at % freq == 0 for at in range(count)]
