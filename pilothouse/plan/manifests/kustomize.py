"""A kustomize base with an overlay per site: what a site has otherwise is a patch there, and nothing else."""

from collections.abc import Iterator, Mapping
from typing import Any

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests.files import File, Object, yaml_file, yaml_text
from pilothouse.plan.manifests.ground import Ground, Site
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.pods import POOL

API = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
COUNTS = (("replicas",), ("prefill", "replicas"), ("predictor", "minReplicas"), ("predictor", "maxReplicas"))
PODS = (  # where kinds of engines keep their PodSpecs
    ("template", "spec"),
    ("leaderWorkerTemplate", "leaderTemplate", "spec"),
    ("leaderWorkerTemplate", "workerTemplate", "spec"),
    ("predictor",),
    ("template",),
    ("worker",),
    ("prefill", "template"),
    ("prefill", "worker"),
)
ENGINES = ("Deployment", "LeaderWorkerSet", "InferenceService", "LLMInferenceService")
Step = dict[str, Any]  # of a JSON patch


def in_base(fleet: Fleet, groups: Mapping[str, list[Object]]) -> list[File]:
    """`groups`: file -> its objects. Raises ConfigError if two objects would be one to the cluster."""
    groups = {path: objects for path, objects in groups.items() if objects}
    objects = [each for group in groups.values() for each in group]
    _refuse_twins(objects)
    space = {"namespace": fleet.ground.namespace} if fleet.ground.namespace else {}
    return [
        *(yaml_file(f"base/{path}", *group) for path, group in groups.items()),
        yaml_file("base/kustomization.yaml", {**API, **space, "resources": list(groups)}),
        *(_overlay(site, fleet.ground, objects) for site in fleet.ground.sites),
    ]


def _refuse_twins(objects: list[Object]) -> None:
    named = [f"{each['kind']} {each['metadata']['name']}" for each in objects]
    if twins := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
        raise ConfigError([Problem("pools", f"two objects would be {name}: rename a pool or a plan") for name in twins])


def _overlay(site: Site, ground: Ground, objects: list[Object]) -> File:
    overlay: Object = {
        **API,
        "resources": ["../../base"],
        "labels": [{"pairs": {"pilothouse.io/site": site.name}, "includeSelectors": False, "includeTemplates": True}],
    }
    if site.images:
        overlay["images"] = [_image(ground.images.of(role), given) for role, given in site.images.items()]
    overlay["patches"] = [patch for each in objects if (patch := _patch(each, site))]
    return yaml_file(f"overlays/{site.name}/kustomization.yaml", overlay)


def _image(old: str, new: str) -> Object:
    name, _, digest = new.partition("@")
    return {"name": old.partition("@")[0], "newName": name, "digest": digest}


def _patch(each: Object, site: Site) -> Object | None:
    """The numbers of replicas, as they are in the base where the site does not say: to be changed there."""
    if each["kind"] not in ENGINES or POOL not in _marks(each):
        return None
    steps = [*_counts(each, site), *(step for path in PODS for step in _pod(each, path, site))]
    if not steps:
        return None
    return {"target": {"kind": each["kind"], "name": each["metadata"]["name"]}, "patch": yaml_text(steps)}


def _marks(each: Object) -> dict[str, str]:
    """Of a workload, or of what KServe makes of it."""
    return {**each["metadata"]["labels"], **each["spec"].get("labels", {})}


def _counts(each: Object, site: Site) -> Iterator[Step]:
    for path in COUNTS:
        if (value := _at(each["spec"], path)) is None:
            continue
        marks = each["spec"]["prefill"]["labels"] if path[0] == "prefill" else _marks(each)
        yield {"op": "replace", "path": _pointer(path), "value": site.replicas.get(marks[POOL], value)}


def _pod(each: Object, path: tuple[str, ...], site: Site) -> Iterator[Step]:
    spec = _at(each["spec"], path)
    if not isinstance(spec, dict) or "containers" not in spec:
        return
    if site.node_labels:
        yield {"op": "add", "path": _pointer((*path, "nodeSelector")), "value": dict(site.node_labels)}
    for i, volume in enumerate(spec.get("volumes", [])):
        if volume["name"] == "kv" and site.storage_class:
            size = volume["emptyDir"]["sizeLimit"]
            claim = {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": site.storage_class,
                "resources": {"requests": {"storage": size}},
            }
            made = {"name": "kv", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
            yield {"op": "replace", "path": _pointer((*path, "volumes", str(i))), "value": made}


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _pointer(path: tuple[str, ...]) -> str:
    return "/".join(["/spec", *path])
