"""A plain open loop: requests of one shape, Poisson or evenly spaced, some of them with a common beginning."""

from enum import StrEnum

from pilothouse.core.random_stream import stream
from pilothouse.core.units import RequestId, Seconds
from pilothouse.workload.requests import Planned, Stage, Workload, block_keys, poisson_arrivals, uniform_arrivals
from pilothouse.workload.written import Written

OWN = 1 << 20  # content numbers from here on belong to single requests


class Arrivals(StrEnum):
    """How requests are spaced."""

    POISSON = "poisson"
    UNIFORM = "uniform"


class OpenLoop(Written, frozen=True, tag="open_loop", tag_field="kind"):
    """One stage of `rate x seconds` requests; lengths are uniform between the given limits."""

    rate: float  # requests per second
    seconds: Seconds
    arrivals: Arrivals = Arrivals.POISSON
    prompt_tokens: tuple[int, int] = (512, 2048)  # own part, beside the common beginning
    output_tokens: tuple[int, int] = (64, 256)
    prefixes: int = 0  # distinct common beginnings, drawn uniformly; 0 = every prompt is new
    prefix_tokens: int = 0
    model: str = "m"
    block_size: int = 16

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.seconds <= 0:
            raise ValueError("rate and seconds must be above 0")
        if not 1 <= self.prompt_tokens[0] <= self.prompt_tokens[1]:
            raise ValueError("prompt_tokens must rise from at least 1")
        if not 1 <= self.output_tokens[0] <= self.output_tokens[1]:
            raise ValueError("output_tokens must rise from at least 1")


def generate(spec: OpenLoop, seed: int, load: float = 1.0) -> Workload:
    """`load` multiplies the rate. The same seed gives the same bytes."""
    rate = spec.rate * load
    count = int(rate * spec.seconds)
    luck, size = stream(seed, "open_loop/lengths"), spec.block_size
    arrivals = (
        uniform_arrivals(rate, count)
        if spec.arrivals is Arrivals.UNIFORM
        else poisson_arrivals(stream(seed, "open_loop/arrivals"), rate, count)
    )
    shared = [block_keys(i, spec.prefix_tokens // size) for i in range(spec.prefixes)]
    requests = []
    for i, at_us in enumerate(arrivals):
        tokens, output = luck.randint(*spec.prompt_tokens), luck.randint(*spec.output_tokens)
        head = shared[luck.randrange(len(shared))] if shared else []
        tokens += len(head) * size
        keys = head + block_keys(OWN + i, tokens // size - len(head))
        requests.append(Planned(RequestId(f"r{i}"), at_us, keys, tokens, output, output))
    return Workload(spec.model, size, [Stage(f"{rate:g} requests/s", rate, spec.seconds, requests)])
