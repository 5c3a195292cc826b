"""All targets by name, and how plans become the files of one."""

from collections.abc import Callable
from pathlib import Path

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests import compose, inference_service, kserve, kubernetes, llm_d, vllm
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.refusals import problems

TARGETS: dict[str, Callable[[Fleet], list[File]]] = {
    "vllm": vllm.render,
    "compose": compose.render,
    "kubernetes": kubernetes.render,
    "kserve": kserve.render,
    "inferenceservice": inference_service.render,
    "llm-d": llm_d.render,
}


def render(fleet: Fleet, target: str) -> list[File]:
    """Raises ConfigError with every reason why these plans cannot be written out."""
    if found := problems(fleet):
        raise ConfigError(found)
    return TARGETS[target](fleet)


def write(files: list[File], folder: Path, *, force: bool = False) -> list[Path]:
    """Returns files that were there before and are none of these. Raises ConfigError rather than change what is there."""
    made = {folder / file.path: file for file in files}
    try:
        if not force:
            _refuse_changes(made)
        for path, file in made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8")
            if path.suffix == ".sh":
                path.chmod(0o755)
        return sorted(path for path in folder.rglob("*") if path.is_file() and path not in made and _of_ours(path))
    except OSError as error:
        raise ConfigError([Problem(str(error.filename or folder), f"cannot be written: {error.strerror}")]) from None


def _refuse_changes(made: dict[Path, File]) -> None:
    changed = [path for path, file in made.items() if path.exists() and path.read_bytes() != file.text.encode()]
    if changed:
        what = "is there and differs: name another folder, or overwrite it with --force"
        raise ConfigError([Problem(str(path), what) for path in changed])


def _of_ours(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml", ".sh")
