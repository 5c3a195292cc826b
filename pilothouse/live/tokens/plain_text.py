"""The text of a request in the order of the conversation, for when nothing is known of its tokens."""

import json
from typing import Any

import msgspec

_CARRIERS = ("tools", "system", "instructions", "messages", "input", "prompt")  # as they come in a rendered prompt


def text_of(body: dict[str, Any]) -> bytes:
    """Bytes that begin alike for requests whose prompts begin alike."""
    pieces: list[bytes] = []
    for name in _CARRIERS:
        value = body.get(name)
        if isinstance(value, str):
            pieces.append(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, list):
            pieces += map(_encoded, value)
        elif value is not None:
            pieces.append(_encoded(value))
    return b"\n".join(pieces)


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair, which the standard library writes as an escape
        return json.dumps(value).encode()
