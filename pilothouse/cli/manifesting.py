"""manifests: plans as what deploys them, on standard output or in a folder; or a folder of manifests, checked."""

from dataclasses import dataclass
from pathlib import Path

import typer

from pilothouse.cli.manifest_order import Said, fleet_of
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests.checking import KUSTOMIZATION, check
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.idle import idle
from pilothouse.plan.manifests.images import UNFILLED, Images
from pilothouse.plan.manifests.needs import needs
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.targets import TARGETS, render, write
from pilothouse.plan.plan_file import holds_plans, read_plans

OUTSIDE = ("vllm", "compose")  # targets that are no Kubernetes objects


@dataclass(frozen=True, slots=True)
class Asked:
    """Options as they were given."""

    sources: tuple[Path, ...]
    target: str
    out: Path | None
    force: bool
    said: Said


def manifests(asked: Asked) -> None:
    paths = [path for source in asked.sources for path in _plans_of(source)]
    if not paths:
        for source in asked.sources:
            _check(source)
        return
    if asked.target not in TARGETS:
        raise ConfigError([Problem("--target", f"{asked.target!r} is none of {', '.join(TARGETS)}")])
    fleet = fleet_of([plan for path in paths for plan in read_plans(path)], asked.said)
    files = render(fleet, asked.target)
    if asked.out is None:
        _show(files, asked.target)
    else:
        _write(files, asked.out, asked.force)
    _remind(fleet, files, asked)


def _plans_of(source: Path) -> list[Path]:
    """A folder that holds nothing but plans stands for them."""
    if not source.is_dir():
        return [source]
    inside = sorted(source.glob("*.yaml"))
    return inside if inside and all(holds_plans(path) for path in inside) else []


def _check(folder: Path) -> None:
    if problems := check(folder):
        raise ConfigError(problems)
    typer.echo(f"{folder}: images are pinned, references are met")


def _show(files: list[File], target: str) -> None:
    """Of Kubernetes the objects alone, so that `kubectl apply -f -` takes them."""
    for file in files:
        if target in OUTSIDE:
            typer.echo(f"# {file.path}\n{file.text}")
        elif Path(file.path).name != KUSTOMIZATION:
            start = "" if file.text.startswith("---") else "---\n"
            typer.echo(f"# {file.path}\n{start}{file.text}", nl=False)


def _write(files: list[File], out: Path, force: bool) -> None:
    left = write(files, out, force=force)
    typer.echo(f"{len(files)} files in {out}: {', '.join(file.path for file in files)}")
    if left:
        names = ", ".join(str(path.relative_to(out)) for path in left)
        typer.echo(f"pilothouse: also there, of something else or of an earlier run: {names}", err=True)


def _remind(fleet: Fleet, files: list[File], asked: Asked) -> None:
    """What is still to be done by whoever deploys it."""
    for line in [*needs(fleet, files), *idle(fleet, asked.target, files)]:
        typer.echo(f"pilothouse: {line}", err=True)
    text = "".join(file.text for file in files)
    missing = [role for role in Images.roles() if f": {Images().of(role)}\n" in text]
    if missing:
        given = " ".join(f"--image {role}=NAME@sha256:DIGEST" for role in missing)
        typer.echo(f"pilothouse: no digest yet ({UNFILLED}): give {given}, or fill them in", err=True)
        typer.echo(f"pilothouse: then check with: pilothouse manifests {asked.out or 'DIR'}", err=True)
