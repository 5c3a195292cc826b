"""Names that one object has of another, and selectors: whether what they mean is there."""

from collections.abc import Iterator
from typing import Any

from pilothouse.core.errors import Problem
from pilothouse.plan.manifests.files import Object

OF_THE_CLUSTER = ("leaderworkerset.", "serving.kserve.")  # beginnings of labels that controllers add


def references(objects: list[Object]) -> list[Problem]:
    """What is named and not there, and what selects no pod."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    pods = [labels for each in objects for labels in pod_labels(each)]
    found = []
    for each in objects:
        where = f"{each['kind']} {each['metadata']['name']}"
        for kind, name in _named(each):
            if (kind, name) not in there:
                found.append(Problem(where, f"names {kind} {name}, which is not there"))
        selector = _selector(each)
        if selector and not any(_matches(selector, labels) for labels in pods):
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


def _matches(selector: dict[str, list[Any]], labels: dict[str, str]) -> bool:
    return all(labels.get(key) in values for key, values in selector.items() if not key.startswith(OF_THE_CLUSTER))


def _selector(each: Object) -> dict[str, list[Any]]:
    """Label -> values that are right."""
    spec = each.get("spec", {})
    match each["kind"]:
        case "Service":
            chosen: dict[str, Any] = {"matchLabels": spec.get("selector", {})}
        case "Deployment" | "PodMonitor" | "InferencePool" | "PodDisruptionBudget":
            chosen = spec["selector"]
        case "NetworkPolicy":
            chosen = spec["podSelector"]
        case _:
            return {}
    found: dict[str, list[Any]] = {key: [value] for key, value in chosen.get("matchLabels", {}).items()}
    return found | {rule["key"]: rule["values"] for rule in chosen.get("matchExpressions", [])}


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
