"""How well parameters are counted from config.json: against what transformers instantiates, for every family it knows.

    python -m benchmarks.model_configs [--all]

Each family's default configuration is built on torch's meta device, which takes no memory, and its parameters are
counted; ours are read out of the same configuration as a file would have it. Vision and audio towers are not compared.
"""

import os
import re
import signal
import sys
import warnings
from math import prod
from types import FrameType
from typing import Any

from msgspec import Struct

from pilothouse.core.errors import ConfigError
from pilothouse.perf.config_defaults import CHECKED
from pilothouse.perf.config_fields import text_part
from pilothouse.perf.model_config import model_of

ERROR_MAX = 0.01
FAMILY_S_MAX = 40
NOT_LANGUAGE = re.compile(
    r"(^|\.)(vision|visual|audio|vit|image|multi_modal|mm_|mtp|embed_vision|embed_audio|qformer|vqmodel|connector|projector|"
    r"aligner|patch|speech|perceive|video)",
    re.IGNORECASE,
)
MORE: dict[str, dict[str, Any]] = {  # where a family's defaults alone make no model
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "moe_intermediate_size": 1408, "num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 16, "moe_topk": 2},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
}


class Counted(Struct, frozen=True):
    """One family."""

    family: str
    of_language: str  # its language part's model_type
    parameters: int = 0  # as instantiated
    error: float | None = None  # of ours, relative; None = we refuse it, or it cannot be built
    said: str = ""  # why not


def counted(family: str, class_name: str) -> Counted:
    """One family, built from its defaults."""
    import torch
    import transformers

    try:
        built = transformers.CONFIG_MAPPING[family](**MORE.get(family, {}))
        with torch.device("meta"):
            model = getattr(transformers, class_name)(built)
    except Exception as error:  # noqa: BLE001 - whatever a family's own code says of its defaults
        return Counted(family, family, said=f"cannot be built: {error}".splitlines()[0][:100])
    config = built.to_dict()
    language = str(text_part(config).get("model_type"))
    theirs = sum(prod(p.shape) for name, p in model.named_parameters() if not NOT_LANGUAGE.search(name))
    try:
        ours = model_of(config, family).parameters_b * 1e9
    except ConfigError as error:
        return Counted(family, language, theirs, said=str(error))
    return Counted(family, language, theirs, ours / theirs - 1)


def all_counted(families: dict[str, Any]) -> list[Counted]:
    """Each in at most `FAMILY_S_MAX` seconds."""

    def too_long(_: int, __: FrameType | None) -> None:
        raise TimeoutError("takes too long")

    signal.signal(signal.SIGALRM, too_long)
    found = []
    for family, named in sorted(families.items()):
        signal.alarm(FAMILY_S_MAX)
        found.append(counted(family, named if isinstance(named, str) else named[0]))
        signal.alarm(0)
    return found


def known_families() -> dict[str, Any]:
    """Name -> the class that generates text, of all that transformers has."""
    from transformers.models.auto import modeling_auto as auto

    return {**auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}


def main() -> None:
    warnings.filterwarnings("ignore")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    rows = all_counted(known_families())
    told = [row for row in rows if row.error is not None]
    good = [row for row in told if abs(row.error or 0.0) <= ERROR_MAX]
    print(f"{len(good)} of {len(told)} families within {ERROR_MAX:.0%}; {len(rows) - len(told)} refused or not built")
    for row in rows if "--all" in sys.argv else [row for row in rows if row not in good]:
        error = "" if row.error is None else f"{row.error:+.1%}"
        print(f"{row.family:28} {row.parameters / 1e9:9.3f} B {error:>7} {row.said[:110]}".rstrip())
    wrong = {row.of_language: None for row in told if row not in good}
    fine = sorted({row.of_language for row in good} - {*wrong})
    print(f"not in CHECKED, but fine: {' '.join(name for name in fine if name not in CHECKED) or '-'}")
    if broken := sorted(CHECKED & {*wrong}):
        raise SystemExit(f"in CHECKED, but not within {ERROR_MAX:.0%}: {' '.join(broken)}")


if __name__ == "__main__":
    main()
