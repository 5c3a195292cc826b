"""How many bytes the KV of one token takes, from the model's config.json or the catalogue."""

import json
from pathlib import Path

from pilothouse.core.errors import ConfigError
from pilothouse.perf.memory import kv_bytes_per_token
from pilothouse.perf.model_config import kv_model, own_dtype
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
        own = own_dtype(config)
        model = kv_model(config)
    except (OSError, ValueError, ArithmeticError, AttributeError, TypeError, ConfigError):  # no such file, or nonsense
        own = "bfloat16"
        model = next((m for m in MODELS.values() if root in (m.name, *m.aliases)), None)
    kv_byte = _bytes(own if cache_dtype in ("", "auto") else cache_dtype)
    return int(kv_bytes_per_token(model, 1, kv_byte)) if model is not None else 0


def _bytes(dtype: str) -> float:
    return 1 if dtype.startswith(("fp8", "int8")) else BYTES.get(dtype, 0)
