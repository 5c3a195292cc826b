"""Luck with a name: the only place in the core that may import `random`."""

from hashlib import blake2b
from random import Random

__all__ = ["Random", "stream"]


def stream(seed: int, name: str) -> Random:
    """A generator of its own for each name: a new draw in one place does not shift another."""
    return Random(int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()))
