"""A kustomize base with an overlay per site: what a site may want otherwise is there to be changed, nothing else."""

from collections.abc import Mapping
from typing import Any

from pilothouse.plan.manifests.files import File, Object, yaml_file, yaml_text
from pilothouse.plan.manifests.order import Order

API = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
COUNTS = (("replicas",), ("prefill", "replicas"), ("predictor", "minReplicas"), ("predictor", "maxReplicas"))
ENGINES = ("Deployment", "LeaderWorkerSet", "InferenceService", "LLMInferenceService")


def in_base(order: Order, groups: Mapping[str, list[Object]]) -> list[File]:
    """`groups`: file -> its objects."""
    files = [yaml_file(f"base/{path}", *objects) for path, objects in groups.items()]
    objects = [each for group in groups.values() for each in group]
    return [
        *files,
        yaml_file("base/kustomization.yaml", {**API, "resources": list(groups)}),
        *(_overlay(site, objects) for site in order.sites),
    ]


def _overlay(site: str, objects: list[Object]) -> File:
    overlay: Object = {
        **API,
        "resources": ["../../base"],
        "labels": [{"pairs": {"pilothouse.io/site": site}, "includeSelectors": False, "includeTemplates": True}],
        "patches": [patch for each in objects if (patch := _counts(each))],
    }
    return yaml_file(f"overlays/{site}/kustomization.yaml", overlay)


def _counts(each: Object) -> Object | None:
    """The numbers of replicas as they are in the base, to be changed for one site."""
    if each["kind"] not in ENGINES or each["metadata"]["labels"].get("app.kubernetes.io/component") == "gateway":
        return None
    changes = [
        {"op": "replace", "path": "/".join(["/spec", *steps]), "value": value}
        for steps in COUNTS
        if (value := _at(each["spec"], steps)) is not None
    ]
    if not changes:
        return None
    return {"target": {"kind": each["kind"], "name": each["metadata"]["name"]}, "patch": yaml_text(changes)}


def _at(data: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        data = data.get(step) if isinstance(data, dict) else None
    return data
