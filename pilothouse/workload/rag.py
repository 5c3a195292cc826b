"""Questions about long documents, of which a few are asked about often: Zipf's law. The document is the shared prefix.

Default lengths and the exponent are round figures: 8,000 to 100,000 tokens is the range that long-context services name.
"""

from bisect import bisect_right
from itertools import accumulate

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import BlockKey
from pilothouse.workload.arrivals import AnyArrivals, Arrivals
from pilothouse.workload.lengths import Length, Lognormal, checked, draw, within
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase, stages
from pilothouse.workload.texts import Turn, keys, text
from pilothouse.workload.written import Traffic


class Rag(Traffic, frozen=True, tag="rag", tag_field="kind"):
    """Stages count questions. A prompt is instructions, then one document, then the question."""

    phases: list[Phase] = msgspec.field(name="stages")
    arrivals: AnyArrivals = Arrivals.POISSON
    documents: int = 200
    popularity: float = 1.0  # Zipf's exponent: document n is asked about 1/n^popularity times as often as the first
    system_tokens: int = 500  # instructions, the same in every prompt
    document_tokens: Length = Lognormal(24_000, 100_000, 90_000, None, 8_000)
    question_tokens: Length = (20, 200)
    output_tokens: Length = (100, 600)
    model: str = "m"
    block_size: int = 16

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("stages must not be empty")
        if self.documents < 1 or not 0 <= self.popularity <= 100 or self.block_size < 1:
            raise ValueError("documents and block_size must be at least 1, popularity 0 to 100")
        within(documents=self.documents, system_tokens=self.system_tokens)
        checked(
            document_tokens=self.document_tokens, question_tokens=self.question_tokens, output_tokens=self.output_tokens
        )


def generate(spec: Rag, seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies rates and users. The same seed gives the same bytes."""
    size = spec.block_size
    odds = list(accumulate(1 / (rank + 1) ** spec.popularity for rank in range(spec.documents)))
    system = keys(text(f"{seed}/system"), 0, spec.system_tokens // size)
    heads: dict[int, tuple[int, list[BlockKey]]] = {}

    def document(rank: int) -> tuple[int, list[BlockKey]]:
        if rank not in heads:
            tokens = spec.system_tokens + draw(spec.document_tokens, stream(seed, f"rag/document/{rank}"))
            heads[rank] = tokens, system + keys(text(f"{seed}/document/{rank}"), len(system), tokens // size)
        return heads[rank]

    def question(number: int) -> list[Turn]:
        luck = stream(seed, f"rag/{number}")
        tokens, head = document(bisect_right(odds, luck.random() * odds[-1]))
        prompt = tokens + draw(spec.question_tokens, luck)
        own = keys(text(f"{seed}/question/{number}"), len(head), prompt // size)
        return [Turn(head + own, prompt, draw(spec.output_tokens, luck), [])]

    return Workload(spec.model, size, stages(spec.phases, spec.arrivals, seed, load, question))
