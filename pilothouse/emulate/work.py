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
    fetched: int = 0  # prompt tokens whose KV comes from another engine
    arrived_us: int = 0
    scheduled_us: int = -1
    first_us: int = -1
    token_us: int = -1  # the last token
    started: bool = False  # the engine knows it
    cancelled: bool = False

    @property
    def lora(self) -> str:
        return self.chain.scope.lora[0] if self.chain.scope.lora else ""
