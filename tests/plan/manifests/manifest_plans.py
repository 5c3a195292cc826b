"""Example plans, one per shape of deployment, and orders made of them."""

from pathlib import Path
from typing import Any

from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.order import Order, Scaling, Weights
from pilothouse.plan.plan_file import read_plan

PLANS = Path(__file__).parent / "plans"
NAMES = sorted(path.stem for path in PLANS.glob("*.yaml"))
ON_ONE_MACHINE = ["single", "grid"]
DIGEST = "sha256:" + "0123456789abcdef" * 4
FILLED = Images(
    engine=f"docker.io/vllm/vllm-openai@{DIGEST}",
    gateway=f"registry.example/pilothouse@{DIGEST}",
    picker=f"registry.example/picker@{DIGEST}",
    sidecar=f"registry.example/sidecar@{DIGEST}",
)
SCALED = {"scaling": (Scaling("bulk", "batch", 0, 4),)}


def scaled(target: str) -> dict[str, Any]:
    """What only a gateway that holds requests can do is asked of nobody else."""
    if target == "inferenceservice":
        return {}
    return SCALED if target in ("kubernetes", "vllm", "compose") else {"scaling": (Scaling("bulk", "batch", 1, 4),)}


def refused(name: str, target: str) -> bool:
    """Whether the target cannot say what the plan asks for."""
    narrow = {"compose": ON_ONE_MACHINE, "inferenceservice": [each for each in NAMES if each != "moe_wide"]}
    return name not in narrow.get(target, NAMES)


def weights(name: str, target: str) -> dict[str, Any]:
    return {"weights": Weights("pvc://models/it")} if (name, target) == ("stages", "inferenceservice") else {}


HOSTS = tuple(f"10.0.0.{number}" for number in range(1, 9))


def order(name: str, **changes: Any) -> Order:
    plan = read_plan(PLANS / f"{name}.yaml")
    return Order(**{"plan": plan, "weights": Weights(f"hf://{plan.model}"), "images": FILLED} | changes)
