"""When a waiting request may start: engine versions differ, and under overload the difference is all that counts.

One that reserves the whole prompt shows waiting as TTFT; one that admits early and preempts shows it as ITL.
"""

import msgspec


class Admission(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base. All arguments are blocks."""

    @property
    def steady(self) -> bool:
        """Whether a request that may not start stays so until another one leaves, whatever decoding evicts."""
        return False

    def room(self, prompt: int, chunk: int) -> int:
        """What must be available. `prompt`: for the whole of it; `chunk`: for its first chunk. Hits are in neither."""
        raise NotImplementedError

    def reserve(self, prompt: int, chunk: int) -> int:
        """What is taken at once; the rest follows chunk by chunk."""
        raise NotImplementedError


class WholePrompt(Admission, frozen=True):
    """Blocks for the whole prompt are there and reserved before it starts. What the published ladder shows."""

    margin: int = 2  # blocks kept back

    @property
    def steady(self) -> bool:
        return True  # a hit that is evicted needs one block more and leaves one more to be taken

    def room(self, prompt: int, chunk: int) -> int:
        return prompt + self.margin

    def reserve(self, prompt: int, chunk: int) -> int:
        return prompt


class FirstChunk(Admission, frozen=True):
    """Blocks for the first chunk are enough; when later ones do not fit, somebody is preempted."""

    def room(self, prompt: int, chunk: int) -> int:
        return chunk

    def reserve(self, prompt: int, chunk: int) -> int:
        return chunk
