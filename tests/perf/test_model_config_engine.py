"""Parameters of families against what transformers instantiates: a few of each kind. All: `benchmarks/model_configs.py`."""

import pytest

from benchmarks.model_configs import ERROR_MAX, counted, known_families
from pilothouse.perf.config_defaults import CHECKED

pytestmark = pytest.mark.engine

FAMILIES = [
    "llama", "gemma3", "mixtral", "qwen3_5_moe", "deepseek_v3", "deepseek_v32", "kimi_linear", "nemotron_h", "jamba",
    "granitemoehybrid", "falcon_h1", "minimax", "lfm2", "llama4", "gpt_oss", "mamba2", "mimo_v2_flash", "gemma4",
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_counted_as_it_is_built(family: str) -> None:
    named = known_families()[family]
    found = counted(family, named if isinstance(named, str) else named[0])
    assert found.error is not None and abs(found.error) <= ERROR_MAX, found
    assert found.of_language in CHECKED
