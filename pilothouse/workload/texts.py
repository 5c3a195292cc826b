"""Names for texts and keys for their blocks: what begins alike has the same keys, and nothing else has."""

from hashlib import blake2b

from pilothouse.core.units import BlockKey
from pilothouse.workload.requests import WORD, mixed


def text(name: str) -> int:
    """A 64-bit number for a text of that name, never 0; other names give unrelated numbers."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) | 1


def keys(number: int, start: int, end: int) -> list[BlockKey]:
    """Of blocks `start` to `end` (exclusive) of a text: the stream of SplitMix64 that its number seeds."""
    return [BlockKey(mixed(number + i & WORD)) for i in range(start, end)]


class Turn:
    """One request of a conversation, and when it is sent: `pause_us` after the end of the turn it follows."""

    __slots__ = ("blocks", "follows", "output_blocks", "output_tokens", "pause_us", "prompt_tokens")

    def __init__(
        self,
        blocks: list[BlockKey],
        prompt_tokens: int,
        output_tokens: int,
        output_blocks: list[BlockKey],
        pause_us: int = 0,
        follows: int = -1,  # place of that turn in its session; -1 = it begins the session
    ) -> None:
        self.blocks, self.prompt_tokens, self.output_tokens = blocks, prompt_tokens, output_tokens
        self.output_blocks, self.pause_us, self.follows = output_blocks, pause_us, follows


class Context:
    """What a conversation has said so far. It only grows, so block i has one key in every request that holds it."""

    def __init__(self, size: int, number: int, head: list[BlockKey], tokens: int) -> None:
        """`head`: keys of the blocks taken over from elsewhere, the first of `tokens` tokens there are already."""
        self.size, self.number, self.tokens = size, number, tokens
        self._keys = list(head)

    def turn(self, added: int, output: int, pause_us: int = 0, follows: int = -1) -> Turn:
        """Adds `added` tokens, sends it all, and takes the answer in."""
        prompt = self.tokens + added
        self.tokens = prompt + output
        blocks = self._until(prompt // self.size)
        return Turn(
            blocks, prompt, output, self._until(held(prompt, output, self.size))[len(blocks) :], pause_us, follows
        )

    def branch(self, number: int) -> "Context":
        """A text that begins with all of this one and goes on by itself."""
        return Context(self.size, number, self._until(self.tokens // self.size), self.tokens)

    def _until(self, count: int) -> list[BlockKey]:
        if count > len(self._keys):
            self._keys += keys(self.number, len(self._keys), count)
        return self._keys[:count]


def held(prompt: int, output: int, size: int) -> int:
    """Full blocks that the engine holds when an answer ends: its last token was given out, but never computed on."""
    return max((prompt + output - 1) // size, prompt // size)
