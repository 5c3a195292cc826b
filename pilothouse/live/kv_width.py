"""How many bytes the KV of one token takes, from the model's config.json or the catalogue."""

import json
from pathlib import Path
from typing import Any

from pilothouse.perf.memory import kv_bytes_per_token
from pilothouse.perf.models import MODELS, Model

BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


def kv_token_bytes(root: str, cache_dtype: str) -> int:
    """Of the whole model, all GPUs together [bytes]; 0 = not known. Windows and states do not grow and are not in it.

    root         the engine's model directory, if it can be read here, or a name of the catalogue
    cache_dtype  as the engine tells it; "auto" or "" = the model's own
    """
    model: Model | None
    try:
        config = json.loads((Path(root) / "config.json").read_text("utf-8"))
        text = config.get("text_config") or config
        own = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "bfloat16")
        model = described(text)
    except (OSError, ValueError, ArithmeticError, AttributeError, KeyError, TypeError):  # no such file, or nonsense
        own = "bfloat16"
        model = next((m for m in MODELS.values() if root in (m.name, *m.aliases)), None)
    kv_byte = _bytes(own if cache_dtype in ("", "auto") else cache_dtype)
    return int(kv_bytes_per_token(model, 1, kv_byte)) if model is not None else 0


def described(config: dict[str, Any]) -> Model:
    """What KV depends on, in Hugging Face's names; the rest of `Model` is left empty."""
    layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    kinds = config.get("layer_types")
    latent = int(config.get("kv_lora_rank") or 0)
    return Model(
        name="",
        layers=layers,
        hidden=int(config["hidden_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        vocab=0,
        parameters_b=0.0,
        active_b=0.0,
        full_layers=kinds.count("full_attention") if isinstance(kinds, list) else None,
        latent=latent + int(config.get("qk_rope_head_dim") or 0) if latent else 0,
    )


def _bytes(dtype: str) -> float:
    return 1 if dtype.startswith(("fp8", "int8")) else BYTES.get(dtype, 0)
