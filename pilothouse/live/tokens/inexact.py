"""How this package says that it cannot know what the engine will compute."""


class Inexact(Exception):
    """The prompt cannot be derived exactly here; `reason` is short, from a small set, and fit for a metric label."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
