"""GPUs and models by the names that people use for them: `h100`, `16x H100 SXM 80GB`, `qwen3-32b`.

A name that cannot be meant is refused with a suggestion; one that is only spelled differently is understood.
"""

import re
from difflib import get_close_matches
from itertools import pairwise

from pilothouse.perf.gpus import GPUS, Gpu
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import MODELS, Model

__all__ = ["GPUS", "MODELS", "Gpu", "Model", "Precision", "gpu_named", "model_named", "precision_named"]

# Endings of model names that say how weights are stored or trained, which changes no size of the architecture.
VARIANT = re.compile(
    r"[-_](instruct|it|chat|base|thinking|preview|hf|bf16|fp16|fp8|fp4|nvfp4|mxfp4|int4|int8|awq|gptq|dynamic|block|quantized|w4a16|"
    r"w8a8|v0\.\d|\d{4})$"
)
LISTED_MAX = 40  # names in an error: more nobody reads
PRECISIONS = {
    "bfloat16": "bf16", "fp16": "bf16", "float16": "bf16", "half": "bf16", "int8": "fp8", "w8a8": "fp8",
    "float8": "fp8", "mxfp4": "fp4", "nvfp4": "fp4", "w4a16": "int4", "awq": "int4", "gptq": "int4",
}  # fmt: skip


def model_named(name: str) -> Model:
    """By full name, alias or short name, upper or lower case. Raises KeyError whose text suggests the nearest."""
    short = _short(name)
    for model in MODELS.values():
        if name in (model.name, *model.aliases):
            return model
    for model in MODELS.values():
        if short in [_short(known) for known in (model.name, *model.aliases)]:
            return model
    for model in MODELS.values():
        if _plain(short) in [_plain(_short(known)) for known in (model.name, *model.aliases)]:
            return model
    names = sorted({_short(known) for model in MODELS.values() for known in (model.name, *model.aliases)})
    raise KeyError(_unknown("model", name, short, names))


def gpu_named(name: str) -> Gpu:
    """By name, or by any text that has the name in it. Raises KeyError whose text suggests the nearest."""
    asked = name.lower().strip()
    if asked in GPUS:
        return GPUS[asked]
    words = _words(re.sub(r"^\d+\s*x\s*", "", asked.replace("\u00d7", "x")))
    joined = [*words, *(first + second for first, second in pairwise(words))]  # `gaudi 3`, `rtx pro 6000`
    found = [gpu for gpu in GPUS.values() if set(_essential(gpu)) & set(joined)]
    if not found:
        names = sorted(_essential(gpu)[0] for gpu in GPUS.values())
        raise KeyError(_unknown("GPU", name, words[0] if words else "", names))
    return max(found, key=lambda gpu: _alike(_words(gpu.name), words))  # the first of equals


def precision_named(name: str) -> Precision:
    """Of weights, by our name or a common one. Raises KeyError whose text suggests the nearest."""
    asked = name.lower().strip()
    try:
        return Precision(PRECISIONS.get(asked, asked))
    except ValueError:
        raise KeyError(_unknown("precision", name, asked, [*Precision, *PRECISIONS])) from None


def _short(name: str) -> str:
    """Without owner, case and variant."""
    short = name.rpartition("/")[2].lower().removeprefix("meta-")
    while (cut := VARIANT.sub("", short)) != short:
        short = cut
    return short


def _plain(short: str) -> str:
    """Letters and digits alone: `llama3.1-8b` and `llama-3.1-8b` are one."""
    return re.sub(r"[^a-z0-9]", "", short)


def _words(text: str) -> list[str]:
    """Letters and digits; all generations of the form factor are one word."""
    return [re.sub(r"^sxm\d$", "sxm", word) for word in re.findall(r"[a-z0-9]+", text)]


def _essential(gpu: Gpu) -> list[str]:
    """Words that name this accelerator and no other kind."""
    first = gpu.name.split("_")[0]
    return gpu.aliases if first in ("rtx", "tpu", "arc") else [first, *gpu.aliases]


def _alike(name: list[str], asked: list[str]) -> int:
    """Words in common; the size of the memory tells more than a form factor."""
    return sum(2 if word.endswith("gb") else 1 for word in name if word in asked)


def _unknown(kind: str, name: str, asked: str, names: list[str]) -> str:
    names = list(dict.fromkeys(map(str, names)))
    near = get_close_matches(asked, names, 3) or [known for known in names if asked and known.startswith(asked)][:3]
    if near:
        return f"unknown {kind} {name!r}, did you mean {' or '.join(map(repr, near))}?"
    if len(names) > LISTED_MAX:
        return f"unknown {kind} {name!r}; `pilothouse size --model list` lists the {len(names)} names that are known"
    return f"unknown {kind} {name!r}, known: {', '.join(names)}"
