"""All targets by name, and how a plan becomes the files of one."""

from collections.abc import Callable
from pathlib import Path

from pilothouse.core.errors import ConfigError
from pilothouse.plan.manifests import compose, inference_service, kserve, kubernetes, llm_d, order, vllm
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.flags import pool_problems
from pilothouse.plan.manifests.order import Order

TARGETS: dict[str, Callable[[Order], list[File]]] = {
    "vllm": vllm.render,
    "compose": compose.render,
    "kubernetes": kubernetes.render,
    "kserve": kserve.render,
    "inferenceservice": inference_service.render,
    "llm-d": llm_d.render,
}


def render(asked: Order, target: str) -> list[File]:
    """Raises ConfigError with every reason why this plan cannot be written out."""
    problems = order.problems(asked)
    for i, pool in enumerate(asked.plan.pools):
        problems += pool_problems(pool, f"pools[{i}]")
    if problems:
        raise ConfigError(problems)
    return TARGETS[target](asked)


def write(files: list[File], folder: Path) -> None:
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
