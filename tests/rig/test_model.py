"""A model is made once, whole, and the same each time."""

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from rig.model import TINY, tiny_lora, tiny_model

SMALL = msgspec.structs.replace(TINY, hidden=32, head_size=8, feed_forward=32, vocabulary=600)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_same_parameters_same_files(tmp_path: Path) -> None:
    one, other = tiny_model(tmp_path / "one", SMALL), tiny_model(tmp_path / "other", SMALL)
    assert one.name == other.name
    assert files(one) == files(other)


def test_other_parameters_other_model(tmp_path: Path) -> None:
    seeded = msgspec.structs.replace(SMALL, seed=1)
    one, other = tiny_model(tmp_path, SMALL), tiny_model(tmp_path, seeded)
    assert one != other
    assert files(one)["model.safetensors"] != files(other)["model.safetensors"]


def test_built_once_and_nothing_half_made_stays(tmp_path: Path) -> None:
    first = tiny_model(tmp_path, SMALL)
    written = first.joinpath("config.json").stat().st_mtime_ns
    assert tiny_model(tmp_path, SMALL).joinpath("config.json").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_lora_fits_its_model(tmp_path: Path) -> None:
    adapter = tiny_lora(tiny_model(tmp_path, SMALL), tmp_path)
    assert sorted(files(adapter)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_tokenizer_round_trip(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    text = "Hello, world's 2026: naïve 日本\n\n  def f(x):\n\treturn x"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("cafe\u0301").ids == tokenizer.encode("caf\u00e9").ids  # NFC
    assert len(tokenizer.encode("<|im_start|><tool_call><|im_end|>").ids) == 3
