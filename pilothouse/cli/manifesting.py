"""manifests: a plan as what deploys it, on standard output or in a folder; or a folder of them, checked."""

import re
from dataclasses import dataclass
from pathlib import Path

import typer
from msgspec.structs import replace

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests.checking import check
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.images import UNFILLED, Images
from pilothouse.plan.manifests.order import Adapter, Order, Priority, Scaling, Weights
from pilothouse.plan.manifests.targets import TARGETS, render, write
from pilothouse.plan.plan_file import read_plan


@dataclass(frozen=True, slots=True)
class Asked:
    """Options as they were given."""

    source: Path
    target: str
    out: Path | None
    weights: str
    images: tuple[str, ...]
    sites: tuple[str, ...]
    hosts: tuple[str, ...]
    adapters: tuple[str, ...]
    scales: tuple[str, ...]
    objectives: tuple[str, ...]
    gateway: str
    scaler: str


def manifests(asked: Asked) -> None:
    if asked.source.is_dir():
        return _check(asked.source)
    if asked.target not in TARGETS:
        raise ConfigError([Problem("--target", f"{asked.target!r} is none of {', '.join(TARGETS)}")])
    order = order_of(asked)
    files = render(order, asked.target)
    if asked.out is None:
        for file in files:
            typer.echo(f"# {file.path}\n{file.text}")
    else:
        write(files, asked.out)
        typer.echo(f"{len(files)} files in {asked.out}: {', '.join(file.path for file in files)}")
    _remind(files, asked.out)
    if any("kind: ScaledObject" in file.text for file in files):
        typer.echo(
            f"pilothouse: KEDA will ask {order.scaler}, which is yours to run; without it `fallback` holds", err=True
        )


def _check(folder: Path) -> None:
    if problems := check(folder):
        raise ConfigError(problems)
    typer.echo(f"{folder}: images are pinned, references are met")


def _remind(files: list[File], out: Path | None) -> None:
    text = "".join(file.text for file in files)
    missing = [name for name in Images.__struct_fields__ if f": {getattr(Images(), name)}" in text]
    if missing:
        given = " ".join(f"--image {name}=NAME@sha256:DIGEST" for name in missing)
        typer.echo(f"pilothouse: no digest yet ({UNFILLED}): give {given}, or fill them in", err=True)
        typer.echo(f"pilothouse: then check with: pilothouse manifests {out or 'DIR'}", err=True)


def order_of(asked: Asked) -> Order:
    plan = read_plan(asked.source)
    return Order(
        plan=plan,
        weights=Weights(asked.weights or _default_weights(plan.model)),
        images=_images(asked.images),
        hosts=asked.hosts,
        sites=asked.sites,
        adapters=tuple(Adapter(name, uri) for name, uri in (_pair("--lora", text) for text in asked.adapters)),
        scaling=tuple(_scaling(text) for text in asked.scales),
        objectives=tuple(_priority(text) for text in asked.objectives),
        gateway=asked.gateway,
        scaler=asked.scaler,
    )


def _default_weights(model: str) -> str:
    """A directory, or the hub's name of a model of the catalogue, or a hub name as it stands."""
    from pilothouse.perf.catalog import model_named

    if model.startswith(("/", "./", "../")):
        return str(Path(model).resolve())
    if "/" in model:
        return f"hf://{model}"
    try:
        return f"hf://{model_named(model).name}"
    except KeyError as error:
        raise ConfigError([Problem("model", f"{error.args[0]}; or say --weights hf://owner/name")]) from None


def _images(given: tuple[str, ...]) -> Images:
    images = Images()
    known = Images.__struct_fields__
    for text in given:
        name, image = _pair("--image", text)
        if name not in known:
            raise ConfigError([Problem("--image", f"{name!r} is none of {', '.join(known)}")])
        images = replace(images, **{name: image})
    return images


def _scaling(text: str) -> Scaling:
    pool, said = _pair("--scale", text)
    found = re.fullmatch(r"([^:]+):(\d{1,4})-(\d{1,4})", said)
    if found is None:
        raise ConfigError([Problem("--scale", f"{text!r} is not POOL=CLASS:MIN-MAX, e.g. batch=bulk:0-8")])
    return Scaling(pool, found[1], int(found[2]), int(found[3]))


def _priority(text: str) -> Priority:
    name, number = _pair("--objective", text)
    if not re.fullmatch(r"-?\d{1,6}", number):
        raise ConfigError([Problem("--objective", f"{text!r} is not CLASS=PRIORITY, e.g. interactive=100")])
    return Priority(name, int(number))


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise ConfigError([Problem(option, f"{text!r} is not NAME=VALUE")])
    return name, value
