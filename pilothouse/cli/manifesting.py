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
    plans = {source: _plans_of(source) for source in asked.sources}
    paths = [path for found in plans.values() for path in found]
    if folders := [source for source, found in plans.items() if not found]:
        _check_alone(folders, asked, bool(paths))
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
    held = [path for path in inside if holds_plans(path)]
    if held and held != inside:
        others = ", ".join(path.name for path in inside if path not in held)
        raise ConfigError([Problem(str(source), f"holds plans, and what is none: {others}. Name the plans' files")])
    return held


def _check_alone(folders: list[Path], asked: Asked, with_plans: bool) -> None:
    if with_plans or asked.out is not None:
        what = "holds no plans, so it is checked; that goes without plans, and without -o"
        raise ConfigError([Problem(str(folder), what) for folder in folders])
    for folder in folders:
        _check(folder)


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
