"""What was really said, so that a later turn says it again and the engine finds it in its cache.

Block keys are chained, so a request whose prompt ends with block K is the beginning of every prompt that has K in it. A
closed-loop request goes on from the longest such beginning, whoever sent it: the turn before, a turn further back where the
conversation was cut, or the turn from which a branch forked. Its prompt is that request's prompt as sent, the answer as it
came, and new content. Only what a later request will need is kept, and only until the last one that needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pilothouse.core.units import BlockKey, RequestId
from pilothouse.workload.requests import Planned


@dataclass(slots=True)
class Told:
    """One request as sent, and its answer; no answer where it failed."""

    planned: Planned
    content: bytes  # messages, or the prompt, as they stand in a body
    prompt_tokens: int  # as the server counted
    text: str
    ids: list[int]
    output_tokens: int

    @property
    def size(self) -> int:
        return len(self.content) + len(self.text) + 8 * len(self.ids)


class Conversations:
    """Of one stage."""

    def __init__(self, requests: Sequence[Planned], bytes_max: int) -> None:
        self._origins: dict[RequestId, RequestId] = {}
        self._uses: dict[RequestId, int] = {}
        self._told: dict[RequestId, Told] = {}
        self._bytes, self._bytes_max = 0, bytes_max
        self.written_anew = 0  # later turns whose beginning was not there any more, or not yet
        self._find(requests)

    def wants(self, request: RequestId) -> bool:
        """Whether its answer is needed later."""
        return request in self._uses

    def tell(self, told: Told) -> None:
        """A request has ended."""
        if told.planned.request in self._uses and self._bytes + told.size <= self._bytes_max:
            self._told[told.planned.request] = told
            self._bytes += told.size

    def before(self, later: Planned) -> Told | None:
        """What `later` goes on from; asked once for each request."""
        origin = self._origins.get(later.request)
        if origin is None:
            return None
        told = self._told.get(origin)
        self.written_anew += told is None
        self._uses[origin] -= 1
        if not self._uses[origin]:
            del self._uses[origin]
            if self._told.pop(origin, None) is not None and told is not None:
                self._bytes -= told.size
        return told

    def _find(self, requests: Sequence[Planned]) -> None:
        if not any(planned.after is not None for planned in requests):
            return
        ends: dict[BlockKey, Planned] = {}  # of what comes earlier in the plan
        for planned in requests:
            if planned.after is not None:
                origin = next((ends[key] for key in reversed(planned.blocks) if key in ends), None)
                if origin is not None:
                    self._origins[planned.request] = origin.request
                    self._uses[origin.request] = self._uses.get(origin.request, 0) + 1
            if planned.blocks:
                ends[planned.blocks[-1]] = planned


def keeps_answer(earlier: Planned, later: Planned) -> bool:
    """Whether the answer is part of the later prompt, as far as the plan says."""
    if later.prompt_tokens <= earlier.prompt_tokens:
        return False
    return not earlier.output_blocks or earlier.output_blocks[0] in later.blocks
