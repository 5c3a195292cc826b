"""KV bytes of one token, out of config.json and out of the catalogue."""

import json
from pathlib import Path
from typing import Any

import pytest

from pilothouse.live.kv_width import kv_token_bytes

QWEN = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 128}


@pytest.mark.parametrize(
    ("config", "cache_dtype", "expected"),
    [
        (QWEN | {"dtype": "bfloat16"}, "auto", 2 * 2 * 2 * 32 * 2),
        (QWEN | {"torch_dtype": "float32"}, "auto", 2 * 2 * 2 * 32 * 4),
        (QWEN, "fp8_e4m3", 2 * 2 * 2 * 32),
        (QWEN, "strange", 0),
        ({"text_config": QWEN, "torch_dtype": "float32"}, "auto", 2 * 2 * 2 * 32 * 4),
        (QWEN | {"layer_types": ["full_attention", "sliding_attention"]}, "auto", 1 * 2 * 2 * 32 * 2),
        (QWEN | {"num_key_value_heads": None, "head_dim": None}, "auto", 2 * 2 * 4 * 32 * 2),
        (QWEN | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}, "auto", 2 * 576 * 2),
        ({}, "auto", 0),
        ([], "auto", 0),
        (QWEN | {"num_attention_heads": 0, "head_dim": None}, "auto", 0),
    ],
)
def test_of_a_model_s_directory(tmp_path: Path, config: Any, cache_dtype: str, expected: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kv_token_bytes(str(tmp_path), cache_dtype) == expected


def test_of_a_name(tmp_path: Path) -> None:
    assert kv_token_bytes("Qwen/Qwen3-8B", "auto") == 36 * 2 * 8 * 128 * 2
    assert kv_token_bytes("nobody/knows", "auto") == kv_token_bytes("", "auto") == kv_token_bytes("\0", "") == 0
    (tmp_path / "config.json").write_text("{")
    assert kv_token_bytes(str(tmp_path), "auto") == 0


def test_agrees_with_what_a_real_transfer_carried(tiny: Path) -> None:
    """NIXL moved 638,976 bytes for 39 blocks of 32 tokens of this shape."""
    assert kv_token_bytes(str(tiny), "auto") * 39 * 32 == 638_976
