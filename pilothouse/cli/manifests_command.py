"""The options of `pilothouse manifests`; its work is done in `manifesting.py`, which is imported when it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.later import Later
from pilothouse.cli.problems import exits_with_problems

if TYPE_CHECKING:
    from pilothouse.cli import manifesting
else:
    manifesting = Later("manifesting")

TARGETS = "vllm, compose, kubernetes, kserve, inferenceservice, llm-d"


@exits_with_problems
def manifests(
    source: Annotated[
        Path, typer.Argument(help="plan of `pilothouse plan` (YAML); or a folder written here: check it")
    ],
    target: Annotated[str, typer.Option(help=TARGETS)] = "kubernetes",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder; default: standard output")] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="hf://owner/name, pvc://claim/path, oci://image@sha256:..., directory; default: the plan's model"
        ),
    ] = "",
    image: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=NAME@sha256:DIGEST, ROLE of engine, gateway, picker, sidecar; repeatable"),
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="write a kustomize overlay of this name; repeatable")] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="of target vllm: address of a machine; repeatable; default: this one")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="adapter, NAME=hf://owner/name; repeatable")] = None,
    scale: Annotated[
        list[str] | None, typer.Option(help="POOL=CLASS:MIN-MAX: KEDA scales it with a request class; repeatable")
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="of target llm-d: CLASS=PRIORITY, e.g. interactive=100; repeatable")
    ] = None,
    gateway: Annotated[
        str, typer.Option(help="of target llm-d: the Gateway that takes requests")
    ] = "inference-gateway",
    scaler: Annotated[
        str, typer.Option(help="host:port of the external scaler that KEDA asks")
    ] = "pilothouse-autoscaler:9000",
) -> None:
    """Write what deploys a plan: engines with their flags, gateway, monitors, scaling. Or check a folder of it."""
    given = (tuple(values or ()) for values in (image, site, host, lora, scale, objective))
    images, sites, hosts, adapters, scales, objectives = given
    asked = manifesting.Asked(
        source, target, out, weights, images, sites, hosts, adapters, scales, objectives, gateway, scaler
    )
    manifesting.manifests(asked)
