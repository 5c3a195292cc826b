"""One request on an emulated engine, from its arrival to its end."""

from dataclasses import dataclass

from pilothouse.core.units import RequestId
from pilothouse.emulate.answer import Answer
from pilothouse.emulate.kv_blocks import Chain


@dataclass(slots=True, eq=False)
class Work:
    """One request on the engine. Times are the engine's [microseconds]."""

    id: RequestId
    answer: Answer
    chain: Chain
    kept_as: str = ""  # its prompt's KV is kept for another engine, which asks for it under this name
    handed_by: tuple[str, str] | None = None  # who keeps its prompt's KV: the engine, and its name for it
    fetched: int = 0  # prompt tokens in whole blocks whose KV came from there
    arrived_us: int = 0
    scheduled_us: int = -1
    first_us: int = -1
    token_us: int = -1  # the last token

    @property
    def lora(self) -> str:
        return self.chain.scope.lora[0] if self.chain.scope.lora else ""
