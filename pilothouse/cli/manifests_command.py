"""The options of `pilothouse manifests`; its work is done in `manifesting.py`, which is imported when it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.later import Later
from pilothouse.cli.problems import exits_with_problems

if TYPE_CHECKING:
    from pilothouse.cli import manifest_order, manifesting
else:
    manifesting, manifest_order = Later("manifesting"), Later("manifest_order")

TARGETS = "vllm, compose, kubernetes, kserve, inferenceservice, llm-d"
IMAGES = "engine, engine-rocm, gateway, picker, sidecar"


@exits_with_problems
def manifests(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="plans of `pilothouse plan` (YAML), behind one gateway if several; or a folder written here: check it"
        ),
    ],
    target: Annotated[str, typer.Option(help=TARGETS)] = "kubernetes",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder; default: standard output")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite files that differ")] = False,
    name: Annotated[str, typer.Option(help="of all of it; default: the plan's, or the blueprint's")] = "",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="hf://owner/name, pvc://claim/path, oci://image@sha256:..., directory; of several plans PLAN=... for "
            "each; default: the plan's model"
        ),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help=f"ROLE=NAME@sha256:DIGEST, ROLE of {IMAGES}; repeatable")
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="write a kustomize overlay of this name; repeatable")] = None,
    sites: Annotated[
        Path | None,
        typer.Option(
            help="file of overlays: NAME: {replicas: {POOL: N}, images: {ROLE: IMAGE}, node_labels, storage_class}"
        ),
    ] = None,
    namespace: Annotated[str, typer.Option(help="of all objects; default: whoever applies them says")] = "",
    host: Annotated[
        list[str] | None, typer.Option(help="of target vllm: address of a machine; repeatable; default: this one")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="adapter, NAME=hf://owner/name; repeatable")] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            help="POOL=CLASS:MIN-MAX: KEDA scales it with a request class; @N at the end: N requests an engine; repeatable"
        ),
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="of target llm-d: CLASS=PRIORITY, e.g. interactive=100; repeatable")
    ] = None,
    gateway: Annotated[
        str, typer.Option(help="of target llm-d: the Gateway that takes requests")
    ] = "inference-gateway",
    prometheus: Annotated[
        str, typer.Option(help="whom KEDA asks; its namespace may read metrics")
    ] = "http://prometheus-operated.monitoring:9090",
    rdma: Annotated[
        str, typer.Option(help="resource of an RDMA card, for engines that exchange KV or span nodes, e.g. rdma/ib")
    ] = "",
) -> None:
    """Write what deploys plans: engines with their flags, gateway, monitors, scaling. Or check a folder of it."""
    said = manifest_order.Said(
        name, tuple(weights or ()), tuple(image or ()), tuple(site or ()), sites, tuple(host or ()), tuple(lora or ()),
        tuple(scale or ()), tuple(objective or ()), namespace, gateway, prometheus, rdma,
    )  # fmt: skip
    manifesting.manifests(manifesting.Asked(tuple(sources), target, out, force, said))
