"""Objects against the CustomResourceDefinitions of the projects that own them, where those lie beside the repository."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_plans import NAMES, SITES, fleet, refused, scaled, weights

from pilothouse.plan.manifests.ground import Priority
from pilothouse.plan.manifests.order import Adapter
from pilothouse.plan.manifests.targets import TARGETS, render

SHARED = Path(__file__).parents[4] / "shared"
TOOL = SHARED / "tools" / "validate_crds.py"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason="needs ../shared/crds and its validator")
ON_KUBERNETES = [target for target in TARGETS if target not in ("vllm", "compose")]
CASES = [(name, target) for target in ON_KUBERNETES for name in NAMES if not refused(name, target)]


@cache
def tool() -> tuple[Any, Any]:
    pytest.importorskip("jsonschema")
    spec = importlib.util.spec_from_file_location("validate_crds", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["validate_crds"] = module
    spec.loader.exec_module(module)
    return module, module.Catalogue(SHARED / "crds", strict=True)


@pytest.mark.parametrize(("name", "target"), CASES)
def test_objects_are_what_their_schemas_say(name: str, target: str) -> None:
    module, catalogue = tool()
    ground = {"objectives": (Priority("interactive", 100),), "sites": SITES, "rdma": "rdma/ib"}
    if name == "grid":
        ground |= scaled(target)
    order = {} if name == "grid" else {"adapters": (Adapter("sql", "hf://org/sql-lora"),)}
    verdicts = []
    for file in render(fleet(name, weights(name, target), order, **ground), target):
        for each in yaml.safe_load_all(file.text):
            verdict, label, lines = module.check(catalogue, each)
            assert verdict != "FAIL", (label, lines)
            verdicts.append(verdict)
    assert "PASS" in verdicts
