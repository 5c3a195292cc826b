"""Fixtures for tests against a real engine; importing this file costs nothing, vLLM is imported in another process."""

import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rig.engines import Rig
from rig.model import tiny_model

# A shared machine may pause any test for a second, and a law that holds must hold today as it did yesterday.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

gc.set_threshold(50_000, 20, 20)  # what tests make is seldom in a circle: looking for such less often saves a tenth

HAVE_VLLM = importlib.util.find_spec("vllm") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs an engine where there is none, and says how to get one."""
    skip = pytest.mark.skip(reason="no vLLM in this environment; install it with: python engine/install.py")
    for item in items:
        if item.get_closest_marker("engine") and not HAVE_VLLM:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Starts real engines. The first start of a session imports vLLM (7 s); tests kill what they start."""
    with Rig(log_dir=tmp_path_factory.mktemp("engines")) as running:
        yield running


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The directory of a small random model with a tokenizer and a chat template."""
    return tiny_model()
