"""Looks at written manifests again, as people may have changed them: pinned images, references, the webhooks' rules.

Schemas are the cluster's to check: `kubectl apply --dry-run=server -k DIR`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.config.load import load, read_documents, read_text
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.gateway import PATH
from pilothouse.plan.manifests.images import image_problems
from pilothouse.plan.manifests.references import references
from pilothouse.plan.manifests.webhook import webhook_problems

KUSTOMIZATION = "kustomization.yaml"
OURS = {KUSTOMIZATION, PATH, "compose.yaml"}  # one of which every target writes


def check(folder: Path) -> list[Problem]:
    """Every reason not to apply what is in `folder`. Raises ConfigError for what is no YAML."""
    texts = {path: read_text(path) for path in sorted(folder.rglob("*.yaml"))}
    if not texts:
        return [Problem(str(folder), "holds no manifests (*.yaml)")]
    if not {path.name for path in texts} & OURS:
        return [Problem(str(folder), f"is no folder that -o named: none of {', '.join(sorted(OURS))} is in it")]
    found: list[Problem] = []
    objects: list[Object] = []
    overlays: list[tuple[Path, Object]] = []
    for path, text in texts.items():
        where = str(path.relative_to(folder))
        documents = [each for each in read_documents(text, where) if each is not None]
        if path.name == PATH:
            found += _gateway(text, where)
            continue
        for document in documents:
            if not isinstance(document, dict):
                found.append(Problem(where, "is not an object, nor several"))
            elif path.name == KUSTOMIZATION:
                overlays.append((path, document))
            elif "kind" not in document:
                found += image_problems(document, where)
            elif why_not := _nameless(document):
                found.append(Problem(where, why_not))
            else:
                found += _of_object(document, where)
                objects.append(document)
    named = {(each["kind"], each["metadata"]["name"]) for each in objects}
    found += _twice(objects)
    for path, document in overlays:
        found += _overlay(document, path.parent, str(path.relative_to(folder)), named)
    try:
        return [*found, *(problem for each in objects for problem in webhook_problems(each)), *references(objects)]
    except (KeyError, TypeError, AttributeError) as error:
        return [*found, Problem(str(folder), f"an object is not shaped as its kind is ({error}): ask the cluster")]


def _nameless(document: Object) -> str:
    """Why it is no object that others can name."""
    kind, meta = document["kind"], document.get("metadata")
    if not isinstance(kind, str):
        return f"{kind!r} is no kind"
    named = isinstance(meta, dict) and isinstance(meta.get("name"), str)
    return "" if named else f"{kind} without metadata.name"


def _of_object(document: Object, where: str) -> Iterator[Problem]:
    """Its images; and the gateway's configuration, where it holds that."""
    named = f"{where}: {document['kind']} {document['metadata']['name']}"
    yield from image_problems(document, named)
    data = document.get("data")
    if document["kind"] == "ConfigMap" and isinstance(data, dict) and isinstance(data.get(PATH), str):
        yield from _gateway(data[PATH], f"{named}: {PATH}")


def _twice(objects: list[Object]) -> Iterator[Problem]:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    for kind, name in dict.fromkeys(names):
        if names.count((kind, name)) > 1:
            yield Problem(f"{kind} {name}", f"is there {names.count((kind, name))} times: the last one would win")


def _gateway(text: str, where: str) -> list[Problem]:
    try:
        load(text, where)
    except ConfigError as error:
        return error.problems
    return []


def _overlay(document: Object, folder: Path, where: str, named: set[tuple[str, str]]) -> Iterator[Problem]:
    """Its resources are there, and so is what it changes."""
    for i, name in enumerate(document.get("resources") or []):
        if "://" not in name and not (folder / name).exists():
            yield Problem(f"{where}: resources[{i}]", f"{name} does not exist")
    for i, patch in enumerate(document.get("patches") or []):
        target: dict[str, Any] = patch.get("target") or {}
        if {"kind", "name"} <= target.keys() and (target["kind"], target["name"]) not in named:
            yield Problem(f"{where}: patches[{i}]", f"changes {target['kind']} {target['name']}, which is not there")
