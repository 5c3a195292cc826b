"""A request's body by its content type: what is refused, what is read, and what the engine is told of it."""

from collections.abc import Collection

from pilothouse.core.errors import ClientError
from pilothouse.serving.head import Head
from pilothouse.serving.plane import StoredResponses
from pilothouse.serving.routes import Api, Kind, Path
from pilothouse.wire.openai import Inspected, inspect_form, inspect_json, session_key

JSON = b"application/json"
_OTHER = Api.OTHER  # members are slow to look up
_STORED = Kind.STORED
_MODEL_REQUIRED = frozenset([Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.EMBEDDINGS, Api.MESSAGES])
_NO_BODY = Inspected(b"", {}, None, False, None, None, None)


def read_body(head: Head, path: Path, body: bytes, grants: Collection[str]) -> tuple[Inspected, bytes | None]:
    """What the body says, and the content type for the engine. Raises ClientError."""
    if not body and (path.api is _OTHER or path.kind is _STORED):
        return _NO_BODY, None
    if b"content-encoding" in head.fields:
        raise ClientError("encoded request bodies are not accepted", status=415, code="unsupported_media_type")
    declared = head.fields.get(b"content-type", JSON)
    media = JSON if declared == JSON else declared.partition(b";")[0].strip(b" \t").lower()
    if media == JSON:
        return inspect_json(body, grants), JSON
    if media == b"multipart/form-data" and path.api is _OTHER:
        return inspect_form(body, grants), declared
    raise ClientError("the content type must be application/json", status=415, code="unsupported_media_type")


def find_model(found: Inspected, api: Api) -> str | None:
    """The model asked for; None where a request need not name one. Raises ClientError."""
    if found.model is None and api in _MODEL_REQUIRED:
        raise ClientError("the field 'model' is required", param="model", code="missing_model")
    return found.model


def find_session(head: Head, found: Inspected, field: bytes) -> int:
    """The key of the conversation that the request is part of; 0 for none."""
    named = head.fields.get(field)
    if named is not None:
        return session_key(named.decode("latin-1"))
    return 0 if found.session is None else session_key(found.session)


def find_pinned(stored: StoredResponses, head: Head, path: Path, found: Inspected) -> str | None:
    """The endpoint that holds the stored response which the request refers to. Raises ClientError if that is not known."""
    if path.kind is _STORED:
        endpoint = stored.find(path.item)
        if head.method == "DELETE":
            stored.forget(path.item)
        return endpoint
    if found.previous_response is None or path.api is not Api.RESPONSES:
        return None
    endpoint = stored.find(found.previous_response)
    if endpoint is None:
        what = f"no response with id {found.previous_response!r} is known here"
        raise ClientError(what, param="previous_response_id", status=404, code="response_not_found")
    return endpoint
