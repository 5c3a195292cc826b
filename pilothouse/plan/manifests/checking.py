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
            found += image_problems(document, where)
            if not isinstance(document, dict):
                found.append(Problem(where, "is not an object, nor several"))
            elif path.name == KUSTOMIZATION:
                overlays.append((path, document))
            elif "kind" in document:
                if isinstance(document.get("metadata"), dict) and "name" in document["metadata"]:
                    objects.append(document)
                else:
                    found.append(Problem(where, f"{document['kind']} without metadata.name"))
    named = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for path, document in overlays:
        found += _overlay(document, path.parent, str(path.relative_to(folder)), named)
    try:
        return [*found, *(problem for each in objects for problem in webhook_problems(each)), *references(objects)]
    except (KeyError, TypeError, AttributeError) as error:
        return [*found, Problem(str(folder), f"an object is not shaped as its kind is ({error}): ask the cluster")]


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
