"""How this package says that it cannot know what the engine will compute."""

from typing import Any


class Inexact(Exception):
    """The prompt cannot be derived exactly here; `reason` is short, from a small set, and fit for a metric label."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def object_in(body: dict[str, Any], name: str) -> dict[str, Any]:
    """A field that holds an object; empty where it is missing."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Inexact(f"{name} is not an object")
    return value
