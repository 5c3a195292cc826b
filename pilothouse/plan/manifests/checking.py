"""Looks at written manifests again, as people may have changed them: pinned images, references, the webhooks' rules.

Schemas are the cluster's to check: `kubectl apply --dry-run=server`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.config.load import load, read_documents
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.gateway import PATH
from pilothouse.plan.manifests.images import image_problems
from pilothouse.plan.manifests.webhook import webhook_problems

KUSTOMIZATION = "kustomization.yaml"


def check(folder: Path) -> list[Problem]:
    """Every reason not to apply what is in `folder`. Raises ConfigError for what is no YAML."""
    files = sorted(path for path in folder.rglob("*.yaml"))
    if not files:
        return [Problem(str(folder), "holds no manifests (*.yaml)")]
    found: list[Problem] = []
    for path in files:
        where = str(path.relative_to(folder))
        documents = read_documents(path.read_text(encoding="utf-8"), where)
        if path.name == PATH:
            found += _gateway(path.read_text(encoding="utf-8"), where)
            continue
        for document in documents:
            found += image_problems(document, where)
        if path.name == KUSTOMIZATION:
            found += _resources(documents[0], path.parent, where)
    objects = [each for path in files if path.name not in (PATH, KUSTOMIZATION) for each in _objects(path)]
    found += [problem for each in objects for problem in webhook_problems(each)]
    return found + references(objects)


def _objects(path: Path) -> Iterator[Object]:
    for document in read_documents(path.read_text(encoding="utf-8"), path.name):
        if isinstance(document, dict) and "kind" in document:
            yield document


def _gateway(text: str, where: str) -> list[Problem]:
    try:
        load(text, where)
    except ConfigError as error:
        return error.problems
    return []


def _resources(document: Any, folder: Path, where: str) -> list[Problem]:
    named = document.get("resources", []) if isinstance(document, dict) else []
    return [
        Problem(f"{where}: resources[{i}]", f"{name} does not exist")
        for i, name in enumerate(named)
        if "://" not in name and not (folder / name).exists()
    ]


def references(objects: list[Object]) -> list[Problem]:
    """Names that one object has of another which is not there, and selectors that match no pod."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    pods = [labels for each in objects for labels in pod_labels(each)]
    found = []
    for each in objects:
        where = f"{each['kind']} {each['metadata']['name']}"
        for kind, name in _named(each):
            if (kind, name) not in there:
                found.append(Problem(where, f"names {kind} {name}, which is not there"))
        selector = {key: value for key, value in _selector(each).items() if not key.startswith("leaderworkerset.")}
        if selector and not any(selector.items() <= labels.items() for labels in pods):
            found.append(Problem(where, "selects no pod"))
    return found


def pod_labels(each: Object) -> Iterator[dict[str, str]]:
    """Of the pods that an object makes."""
    spec = each.get("spec", {})
    if each["kind"] == "Deployment":
        yield spec["template"]["metadata"]["labels"]
    elif each["kind"] == "InferenceService":
        yield spec["predictor"].get("labels", {})
    elif each["kind"] == "LeaderWorkerSet":
        for part in ("leaderTemplate", "workerTemplate"):
            yield spec["leaderWorkerTemplate"][part]["metadata"]["labels"]


def _selector(each: Object) -> dict[str, str]:
    selector = each.get("spec", {}).get("selector", {})
    match each["kind"]:
        case "Service":
            return dict(selector)
        case "Deployment" | "PodMonitor" | "InferencePool":
            return dict(selector["matchLabels"])
    return {}


def _named(each: Object) -> Iterator[tuple[str, str]]:
    spec = each.get("spec", {})
    match each["kind"]:
        case "ScaledObject":
            yield spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]
        case "InferencePool":
            yield "Service", spec["endpointPickerRef"]["name"]
        case "InferenceObjective":
            yield "InferencePool", spec["poolRef"]["name"]
        case "HTTPRoute":
            for rule in spec["rules"]:
                for backend in rule["backendRefs"]:
                    yield backend.get("kind", "Service"), backend["name"]
        case "Deployment":
            pod = spec["template"]["spec"]
            for volume in pod.get("volumes", []):
                if "configMap" in volume:
                    yield "ConfigMap", volume["configMap"]["name"]
            if "serviceAccountName" in pod:
                yield "ServiceAccount", pod["serviceAccountName"]
