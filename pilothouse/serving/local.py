"""Answers that need no engine: refusals of paths, methods and keys, the model list, liveness, OPTIONS."""

from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from pilothouse.serving import status
from pilothouse.serving.head import Head
from pilothouse.serving.plane import Plane
from pilothouse.serving.routes import Kind, Path
from pilothouse.serving.status import Refusal


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """A good answer of the gateway's own."""

    status: int
    body: bytes
    fields: bytes = b""  # more header lines


def answer_locally(plane: Plane, head: Head, path: Path) -> LocalAnswer | Refusal | None:
    """What can be said from the head alone, before a body is read; None when an engine is needed."""
    if path.kind is Kind.HEALTH and head.method in path.methods:
        return status.DRAINING if plane.draining else LocalAnswer(200, b'{"status":"ok"}')
    if path.kind is Kind.UNKNOWN:
        return status.UNKNOWN_PATH
    if path.kind is Kind.REFUSED:
        return status.REFUSED_PATH
    if head.method == "OPTIONS":
        return LocalAnswer(204, b"", b"allow: %s, OPTIONS\r\n" % ", ".join(path.methods).encode())
    if head.method not in path.methods:
        return status.WRONG_METHOD
    if not plane.keys.admit(head.fields):
        return status.UNAUTHENTICATED
    if path.kind is Kind.MODELS:
        return _models(plane, path)
    if path.kind is Kind.STORED and plane.stored.find(path.item) is None:
        return status.UNKNOWN_RESPONSE
    return None


def _models(plane: Plane, path: Path) -> LocalAnswer | Refusal:
    models = plane.directory.models()
    if not path.item:
        return LocalAnswer(200, msgspec.json.encode({"object": "list", "data": models}))
    wanted = unquote(path.item)
    found = next((model for model in models if model.get("id") == wanted), None)
    return LocalAnswer(200, msgspec.json.encode(found)) if found else status.UNKNOWN_MODEL
