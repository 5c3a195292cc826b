"""Example plans, one per shape of deployment, the blueprints' plans, and fleets made of them."""

from pathlib import Path
from typing import Any

from pilothouse.plan import blueprint
from pilothouse.plan.manifests.ground import Ground, Scaling, Site
from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.order import Fleet, Order, Weights
from pilothouse.plan.plan_file import read_plan

PLANS = Path(__file__).parent / "plans"
EXAMPLES = sorted(path.stem for path in PLANS.glob("*.yaml"))
ALL = [*EXAMPLES, *(f"blueprint {name}" for name in blueprint.NAMES)]
NAMES = [*EXAMPLES, "blueprint grid", "blueprint hybrid"]  # test_manifests_blueprints has the others
DIGEST = "sha256:" + "0123456789abcdef" * 4
FILLED = Images(
    engine=f"docker.io/vllm/vllm-openai@{DIGEST}",
    engine_rocm=f"docker.io/vllm/vllm-openai-rocm@{DIGEST}",
    gateway=f"registry.example/pilothouse@{DIGEST}",
    picker=f"registry.example/picker@{DIGEST}",
    sidecar=f"registry.example/sidecar@{DIGEST}",
)
SITES = (Site(name="east"), Site(name="west"))
HOSTS = tuple(f"10.0.0.{number}" for number in range(1, 9))
REFUSED = {  # plans that a target cannot say, and why
    "compose": {
        "prefill_decode": "two kinds of machine", "moe_wide": "several machines", "stages": "two machines",
        "grid": "two kinds", "blueprint grid": "two kinds", "blueprint hybrid": "two kinds",
    },
    "inferenceservice": {"moe_wide": "data parallel over nodes"},
}  # fmt: skip


def scaled(target: str) -> dict[str, Any]:
    """What only a gateway that holds requests can do is asked of nobody else."""
    if target == "inferenceservice":
        return {}
    least = 0 if target in ("kubernetes", "vllm", "compose") else 1
    return {"scaling": (Scaling("bulk", "batch", least, 4),)}


def refused(name: str, target: str) -> bool:
    return name in REFUSED.get(target, {})


def weights(name: str, target: str) -> str:
    return "pvc://models/it" if (name, target) == ("stages", "inferenceservice") else ""


def fleet(name: str, uri: str = "", order: dict[str, Any] | None = None, **ground: Any) -> Fleet:
    """`uri`: of the weights of every plan; `order`: further fields of each order."""
    if name.startswith("blueprint "):
        plans = blueprint.load(name.partition(" ")[2]).plans
    else:
        plans = [read_plan(PLANS / f"{name}.yaml")]
    whole = Ground(**{"images": FILLED} | ground)
    several = name.partition(" ")[2] if len(plans) > 1 else ""
    orders = [
        Order(
            plan=plan, weights=Weights(uri or f"hf://some/{plan.model.rpartition('/')[2]}"), fleet=several, ground=whole
        )
        for plan in plans
    ]
    if order:
        from msgspec.structs import replace

        orders = [replace(each, **order) for each in orders]
    return Fleet(tuple(orders))
