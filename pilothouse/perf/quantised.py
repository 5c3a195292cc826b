"""How a quantised checkpoint stores its weights, from `quantization_config`: which precision, and what it left as it was.

Names of modules that are left are texts, globs or regular expressions, by the method. Layers of a part that some match
stay in 16 bits.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any

from msgspec import Struct

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.config_fields import Config, text_part
from pilothouse.perf.memory import MXFP4_BYTES, Precision
from pilothouse.perf.model_parts import Part

EXPERT_DTYPE = "expert_dtype"
LEFT = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "exclude",
        "dont_convert")  # fmt: skip
PREFIXES = ("model.", "model.language_model.", "language_model.model.", "backbone.", "")  # of what stands around layers
OTHER_GROUPS = {  # part of a layer -> what else it is called
    "mlp": ("block_sparse_moe", "mixer", "feed_forward", "ffn", "moe"),
    "mixer": ("mamba", "linear_attn"),
    "self_attn": ("attn", "attention"),
}
BYTES_16 = 2.0
NVFP4_BYTES = 0.5625  # 4 bits, and one scale of 8 bits for 16 weights
SCALE_BYTES = 2.0  # of a group of integers; their zero points are smaller still
GROUP = {Precision.INT4: 128}  # weights to a scale, where nobody says
PATTERN_MAX, PATTERNS_MAX = 200, 100_000  # characters of one; and how many
EXPLODES = re.compile(r"[+*}]\)+[+*{]")  # a repetition of repetitions may take for ever
WHOLE_TYPES = ("Linear",)  # targets that mean every matrix


class Stored(Struct, frozen=True):
    """What a checkpoint's matrices are."""

    precision: Precision  # of most of them
    weight_bytes: float  # of one quantised weight, its share of scales included


Group = tuple[Callable[[list[str]], bool], Stored]  # whether a matrix of such names is one of it, and how it is stored


def precision_of(config: Config, name: str) -> Precision:
    """Of most matrices. Raises ConfigError for a method that is not known."""
    quantised = _quantised(config)
    return _narrowest(quantised, _groups(quantised, name), name).precision if quantised else Precision.BF16


def published_bytes(config: Config, parts: Sequence[Part], name: str) -> float:
    """Of the whole checkpoint [bytes]; 0 = it is not quantised."""
    quantised = _quantised(config)
    if not quantised:
        return 0.0
    is_left, groups = _matcher(_texts(quantised, LEFT), name), _groups(quantised, name)
    stored = _narrowest(quantised, groups, name)
    total = 0.0
    for part in parts:
        for layer in part.layers or (None,):
            small = part.is_linear and not is_left(_names(part, layer))
            if small and part.name == "lm_head":
                small = _has_small_head(quantised)
            each = next((g.weight_bytes for hits, g in groups if hits(_names(part, layer))), 0.0) or stored.weight_bytes
            if groups and small and not any(hits(_names(part, layer)) for hits, _ in groups):
                small = False
            total += part.weights * (each if small else BYTES_16)
    return total


def _quantised(config: Config) -> Config:
    found = config.get("quantization_config") or text_part(config).get("quantization_config") or {}
    if not isinstance(found, Mapping):
        raise ConfigError([Problem("config.json: quantization_config", "has no fields")])
    own = config.get(EXPERT_DTYPE)  # DeepSeek V4's experts are narrower than the rest
    return {**found, EXPERT_DTYPE: own} if found and isinstance(own, str) else found


def _narrowest(quantised: Config, groups: Sequence[Group], name: str) -> Stored:
    """Where there are several ways: large matrices have the narrow one."""
    return min((stored for _, stored in groups), key=lambda s: s.weight_bytes) if groups else _stored(quantised, name)


def _stored(quantised: Config, name: str) -> Stored:
    said = " ".join(f"{key}={value}" for key, value in _leaves(quantised)).lower()
    method = str(quantised.get("quant_method", "")).lower()
    bits = [
        int(value) for key, value in _leaves(quantised) if key in ("num_bits", "bits", "w_bit") and _is_count(value)
    ]
    if "nvfp4" in said:
        return Stored(Precision.FP4, NVFP4_BYTES)
    if "mxfp4" in said or "fp4" in said or ("type=float" in said and 4 in bits):
        return Stored(Precision.FP4, MXFP4_BYTES if _group(quantised) != 16 else NVFP4_BYTES)
    if (method in ("awq", "gptq", "compressed-tensors", "auto-round") and 4 in bits) or "load_in_4bit=true" in said:
        group = _group(quantised) or (64 if method == "bitsandbytes" else 128)
        return Stored(Precision.INT4, 0.5 + (SCALE_BYTES / group if group > 0 else 0.0))
    if method in ("fp8", "fbgemm_fp8") or "fp8" in said or 8 in bits or "load_in_8bit=true" in said:
        return Stored(Precision.FP8, 1.0)
    what = f"method {method!r} is not known; name what it comes to with --precision, or describe the model in YAML"
    raise ConfigError([Problem(f"{name}: quantization_config", what)])


def _group(quantised: Config) -> int:
    return next((int(v) for k, v in _leaves(quantised) if k in ("group_size", "q_group_size") and _is_count(v)), 0)


def _groups(quantised: Config, name: str) -> list[Group]:
    """Matrices that have a way of their own, where not all of them have the same."""
    found = []
    groups = quantised.get("config_groups")
    listed = [g for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
    for group in listed if len(listed) > 1 else []:
        targets = [str(t) for t in group.get("targets") or [] if isinstance(t, str)]
        hits = (lambda _: True) if {*targets} & {*WHOLE_TYPES} else _matcher(targets, name)
        weights = group.get("weights")
        said = {"quant_method": quantised.get("quant_method"), "w": weights if isinstance(weights, Mapping) else {}}
        found.append((hits, _stored(said | {"format": group.get("format") or ""}, name)))
    layers = quantised.get("quantized_layers")
    if quantised.get(EXPERT_DTYPE) == "fp4" and not layers:
        found.append((_matcher(["experts"], name), Stored(Precision.FP4, MXFP4_BYTES)))
        found.append((lambda _: True, _stored({k: v for k, v in quantised.items() if k != EXPERT_DTYPE}, name)))
    by_way: dict[str, list[str]] = {}
    for layer, way in layers.items() if isinstance(layers, Mapping) else ():
        by_way.setdefault(str(way.get("quant_algo")) if isinstance(way, Mapping) else "", []).append(str(layer))
    for way_name, names in by_way.items():
        found.append((_matcher(names, name), _stored({"quant_algo": way_name}, name)))
    return found


def _has_small_head(quantised: Config) -> bool:
    """Whether the output head is quantised if nobody left it out."""
    method = str(quantised.get("quant_method", "")).lower()
    return bool(quantised.get("lm_head")) or method in ("compressed-tensors", "modelopt", "modelopt_fp4")


def _names(part: Part, layer: int | None) -> list[str]:
    """As checkpoints may have it, from the layers on."""
    if layer is None:
        return [part.name]
    group, _, rest = part.name.partition(".")
    groups = [group, *OTHER_GROUPS.get(group, ())]
    rests = [rest, rest.replace("shared_experts", "shared_expert"), rest.replace("experts.0.up_proj", "experts.0.w1")]
    return list(dict.fromkeys(f"layers.{layer}.{each}.{inner}" for each in groups for inner in rests))


def _matcher(patterns: Sequence[str], name: str) -> Callable[[list[str]], bool]:
    """Whether one of these names is meant by one of the patterns."""
    if len(patterns) > PATTERNS_MAX or any(len(pattern) > PATTERN_MAX for pattern in patterns):
        raise ConfigError([Problem(f"{name}: quantization_config", "too many or too long names of modules")])
    regular = [pattern[3:] for pattern in patterns if pattern.startswith("re:")]
    starred = [_within(pattern) for pattern in patterns if "*" in pattern and not pattern.startswith("re:")]
    globs = [translate(each) for pattern in starred for each in (pattern, f"{pattern}.*")]  # it, or what is within it
    plain = {_within(pattern): None for pattern in patterns if "*" not in pattern and not pattern.startswith("re:")}
    try:
        expressions = [_compiled(pattern) for pattern in regular]
        by_glob = re.compile("|".join(globs)) if globs else None
    except (re.error, OverflowError, RecursionError) as error:
        what = f"a name of modules is no regular expression: {error}"
        raise ConfigError([Problem(f"{name}: quantization_config", what)]) from None

    def is_meant(names: list[str]) -> bool:
        for inner in names:
            pieces = inner.split(".")
            runs = (".".join(pieces[at:to]) for at in range(len(pieces)) for to in range(at + 1, len(pieces) + 1))
            if any(run in plain for run in runs):
                return True
            if by_glob and by_glob.match(inner):
                return True
            if any(expression.match(prefix + inner) for expression in expressions for prefix in PREFIXES):
                return True
        return False

    return is_meant


def _within(pattern: str) -> str:
    """From the layers on, whatever the model around them is called."""
    at = pattern.find("layers.")
    return pattern[at:] if at >= 0 else pattern.removeprefix("language_model.").removeprefix("model.")


def _compiled(pattern: str) -> re.Pattern[str]:
    if EXPLODES.search(pattern):
        raise re.error("repetitions within repetitions")
    return re.compile(pattern)


def _texts(quantised: Config, fields: Iterable[str]) -> list[str]:
    found = [quantised[field] for field in fields if isinstance(quantised.get(field), list | tuple)]
    nested = quantised.get("quantization")  # modelopt's own file nests it
    if isinstance(nested, Mapping):
        found += [nested[field] for field in fields if isinstance(nested.get(field), list | tuple)]
    return [str(text) for texts in found for text in texts]


def _leaves(nested: Config) -> Iterable[tuple[str, Any]]:
    for key, value in nested.items():
        if key in ("quantized_layers", *LEFT):
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
