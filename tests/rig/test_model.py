"""A model is made once, whole, and the same each time."""

from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer

from rig.model import TINY, tiny_lora, tiny_model

SMALL = msgspec.structs.replace(TINY, hidden=32, head_size=8, feed_forward=32, vocabulary=600)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One such model, alone in its directory."""
    return tiny_model(tmp_path_factory.mktemp("small"), SMALL)


def test_same_parameters_same_files(small: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path, SMALL)
    assert small.name == other.name
    assert files(small) == files(other)


def test_other_parameters_other_model(small: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path, msgspec.structs.replace(SMALL, seed=1))
    assert small.name != other.name
    assert files(small)["model.safetensors"] != files(other)["model.safetensors"]


def test_built_once_and_nothing_half_made_stays(small: Path) -> None:
    written = small.joinpath("config.json").stat().st_mtime_ns
    assert tiny_model(small.parent, SMALL).joinpath("config.json").stat().st_mtime_ns == written
    assert [path.name for path in small.parent.iterdir()] == [small.name]


def test_lora_fits_its_model(small: Path, tmp_path: Path) -> None:
    adapter = tiny_lora(small, tmp_path)
    assert sorted(files(adapter)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_tokenizer_round_trip(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    text = "Hello, world's 2026: naïve 日本\n\n  def f(x):\n\treturn x"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("cafe\u0301").ids == tokenizer.encode("caf\u00e9").ids  # NFC
    assert len(tokenizer.encode("<|im_start|><tool_call><|im_end|>").ids) == 3
