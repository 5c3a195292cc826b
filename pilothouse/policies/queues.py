"""Queues: who waits at the gateway instead of inside an engine, and in which order."""

from typing import ClassVar

from pilothouse.core.events import Arrived
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Known, Queue, queues
from pilothouse.core.request import Place
from pilothouse.core.units import SECOND, Micros


@queues.register("short_queues")
class ShortQueues(Queue, frozen=True):
    """An endpoint gets more prefill only while what is queued there fits into one step, and more requests only while
    their KV does; the others wait at the gateway.

    In line stands first whoever has to be sent soonest to be in time, where in time is `patience_us` plus `stretch` times
    its own prefill. Who can no longer be in time goes behind everybody who can, and there first who has waited
    longest, where each second of its own prefill counts as `late_stretch` seconds not waited: short requests are not
    kept back by long ones, and long ones are not forgotten.
    Signals: in-flight ledger and learned speeds (current), KV index; KV use by the last report.
    Source: earliest deadline first is optimal while all can be in time, shortest first is when they cannot.
    """

    uses_speeds: ClassVar[bool] = True

    step_tokens: int = 8192  # an engine's budget of one step: vLLM's max_num_batched_tokens
    patience_us: Micros = Micros(2 * SECOND)
    stretch: float = 3.0
    late_stretch: float = 30.0

    def __post_init__(self) -> None:
        if self.step_tokens < 1 or self.looks < 1:
            raise ValueError("step_tokens and looks must be at least 1")
        if self.patience_us < 0 or not 0 <= self.stretch <= self.late_stretch < 1e6:
            raise ValueError("patience_us must not be negative, stretch must lie between 0 and late_stretch")

    def admits(self, endpoint: Endpoint, uncached_tokens: int, fresh_tokens: int) -> bool:
        queued = endpoint.prefill_tokens
        if not queued and not endpoint.decoding:
            return True  # whatever it is, it cannot be better off elsewhere
        if queued and queued + uncached_tokens > self.step_tokens:
            return False
        capacity = endpoint.kv_tokens
        return not capacity or endpoint.kv_used_tokens + queued + fresh_tokens <= capacity

    def place(self, arrived: Arrived, known: Known) -> Place:
        prompt = arrived.prompt_tokens
        least_us = min(
            (speed.theta[3] + speed.theta[4] * (prompt - uncached / 2)) * uncached * endpoint.slowness
            for endpoint, speed, uncached in zip(known.endpoints, known.speeds, known.uncached_tokens, strict=True)
        )
        in_time_us = arrived.at_us + self.patience_us + self.stretch * least_us
        start_us = int(in_time_us - least_us)
        return Place(start_us, start_us, arrived.at_us + int(self.late_stretch * least_us))
