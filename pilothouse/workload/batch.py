"""Work that nobody waits for: many requests at once or evenly over a time, long answers, a tenant of its own."""

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, Micros, RequestId
from pilothouse.workload.lengths import Length, checked, draw, within
from pilothouse.workload.requests import Planned, Stage, Workload
from pilothouse.workload.texts import keys, text
from pilothouse.workload.written import REQUESTS_MAX, Traffic


class Batch(Traffic, frozen=True, tag="batch", tag_field="kind"):
    """`requests` of them; prompts begin with the same instructions."""

    requests: int
    over_us: Micros = Micros(0)  # 0 = all at once
    system_tokens: int = 0  # instructions, the same in every prompt
    prompt_tokens: Length = (500, 2000)  # beside the instructions
    output_tokens: Length = (1000, 4000)
    tenant: str = "batch"
    model: str = "m"
    block_size: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= REQUESTS_MAX or self.block_size < 1:
            raise ValueError(f"requests must be 1 to {REQUESTS_MAX}, block_size at least 1")
        within(system_tokens=self.system_tokens)
        checked(prompt_tokens=self.prompt_tokens, output_tokens=self.output_tokens)


def generate(spec: Batch, seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies the number of requests, within the same time. The same seed gives the same bytes."""
    count, size = max(1, round(spec.requests * load)), spec.block_size
    system = keys(text(f"{seed}/system"), 0, spec.system_tokens // size)
    requests = []
    for i in range(count):
        luck = stream(seed, f"batch/{i}")
        prompt = spec.system_tokens + draw(spec.prompt_tokens, luck)
        output = draw(spec.output_tokens, luck)
        blocks = system + keys(text(f"{seed}/batch/{i}"), len(system), prompt // size)
        at_us = Micros(spec.over_us * i // count)
        requests.append(Planned(RequestId(f"0-{i}"), at_us, blocks, prompt, output, output, tenant=spec.tenant))
    seconds = spec.over_us / SECOND
    name = f"{count} requests over {seconds:g} s" if seconds else f"{count} requests at once"
    return Workload(spec.model, size, [Stage(name, count / seconds if seconds else 0.0, seconds, requests)])
