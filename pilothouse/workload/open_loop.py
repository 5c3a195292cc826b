"""A plain open loop: requests of one shape that do not wait for each other, some of them with a common beginning."""

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import BlockKey, Seconds
from pilothouse.workload.arrivals import AnyArrivals, Arrivals
from pilothouse.workload.lengths import Length, checked, draw, limits, within
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase, stages
from pilothouse.workload.texts import Turn, keys, text
from pilothouse.workload.written import Traffic

__all__ = ["Arrivals", "OpenLoop", "generate"]


class OpenLoop(Traffic, frozen=True, tag="open_loop", tag_field="kind"):
    """`rate x duration` requests, or `stages` of them (there `users` are possible too)."""

    rate: float = 0.0  # requests per second
    seconds: Seconds = Seconds(0.0)
    arrivals: AnyArrivals = Arrivals.POISSON
    prompt_tokens: Length = (512, 2048)  # own part, beside the common beginning
    output_tokens: Length = (64, 256)
    prefixes: int = 0  # distinct common beginnings, drawn uniformly; 0 = every prompt is new
    prefix_tokens: int = 0
    shared_ratio: float = 0.0  # of each prompt's own part: it begins as one text that all begin with, so far
    model: str = "m"
    block_size: int = 16
    phases: list[Phase] = msgspec.field(default_factory=list, name="stages")

    def __post_init__(self) -> None:
        if bool(self.phases) == (self.rate != 0 or self.seconds != 0.0):
            raise ValueError("give rate and duration, or stages")
        if not self.phases:
            Phase(self.rate, self.seconds)  # its rules
        if self.block_size < 1:
            raise ValueError("block_size must be at least 1")
        if not 0 <= self.shared_ratio < 1 or (self.shared_ratio and self.prefixes):
            raise ValueError("shared_ratio must be at least 0 and below 1, and is not for workloads with prefixes")
        within(prefixes=self.prefixes, prefix_tokens=self.prefix_tokens)
        checked(prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens)


def generate(spec: OpenLoop, seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies the rate, or the users. The same seed gives the same bytes."""
    size, whole = spec.block_size, spec.prefix_tokens // spec.block_size
    common = keys(text(f"{seed}/common"), 0, limits(spec.prompt_tokens)[1] // size) if spec.shared_ratio else []
    shared = [keys(text(f"{seed}/prefix/{i}"), 0, whole) for i in range(spec.prefixes)]

    def request(number: int) -> list[Turn]:
        luck = stream(seed, f"open_loop/{number}")
        prompt, output = draw(spec.prompt_tokens, luck), draw(spec.output_tokens, luck)
        head: list[BlockKey] = common[: int(prompt * spec.shared_ratio) // size]
        if shared:
            head = shared[luck.randrange(len(shared))]
            prompt += spec.prefix_tokens
        own = keys(text(f"{seed}/own/{number}"), len(head), prompt // size)
        return [Turn(head + own, prompt, output, [])]

    phases = spec.phases or [Phase(spec.rate, spec.seconds)]
    return Workload(spec.model, size, stages(phases, spec.arrivals, seed, load, request))
