"""Engines shared by the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from emulating import Api, emulated


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where built-in tokenizers are written."""
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture(scope="module")
def api(cache: Path) -> Iterator[Api]:
    """One fast emulated engine."""
    with emulated(cache, loras=("ad1=ad/one",)) as running:
        yield running[0]
