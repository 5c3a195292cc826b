"""The shared-prefix workload of the published llm-d guide, with the habits of the tool that ran it (inference-perf).

Groups of prompts share their beginning. The prompts are shuffled once, and every stage starts again at the first one:
request i of a stage is prompt i modulo their number, so short stages repeat the same few prompts. A stage has exactly
int(rate x seconds) requests and lasts until its last answer; then comes a pause. Clients count tokens by tokenising the
text anew, which gives a few percent fewer than were generated.
source   guides/optimized-baseline of llm-d (Apache-2.0), run of 2026-05-10
"""

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, BlockKey, Micros, RequestId, Seconds
from pilothouse.workload.arrivals import how_many
from pilothouse.workload.lengths import within
from pilothouse.workload.requests import Planned, Stage, Workload, poisson_arrivals
from pilothouse.workload.texts import keys, text
from pilothouse.workload.written import REQUESTS_MAX, Traffic, Written


class Load(Written, frozen=True):
    """One stage."""

    rate: float  # requests per second
    seconds: Seconds
    reported: bool = True

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.seconds <= 0:
            raise ValueError("rate and duration must be above 0")
        if self.rate * self.seconds > REQUESTS_MAX:
            raise ValueError(f"a stage must not have more than {REQUESTS_MAX} requests")


# rate:seconds; the first stage warms up
GUIDE = "15:50 3:20 10:20 15:20 20:38 22:34 25:30 30:25 35:21 40:38 43:36 46:33 49:30 52:29 55:27 57:26 60:25"


def guide_loads() -> list[Load]:
    pairs = [part.split(":") for part in GUIDE.split()]
    return [Load(float(rate), Seconds(float(seconds)), i > 0) for i, (rate, seconds) in enumerate(pairs)]


class SharedPrefix(Traffic, frozen=True, tag="shared_prefix", tag_field="kind"):
    """The data and the load. Defaults are the guide's."""

    loads: list[Load] = msgspec.field(default_factory=guide_loads, name="stages")
    groups: int = 150
    prompts_per_group: int = 5
    shared_tokens: int = 6000
    own_tokens: int = 1200
    output_tokens: int = 1000
    counted_ratio: float = 0.942  # of the generated tokens; published runs lie between 0.94 and 0.99
    pause_us: Micros = Micros(30 * SECOND)
    model: str = "Qwen/Qwen3-32B"
    block_size: int = 16

    def __post_init__(self) -> None:
        if self.groups < 1 or self.prompts_per_group < 1 or self.block_size < 1:
            raise ValueError("groups, prompts_per_group and block_size must be at least 1")
        within(groups=self.groups, prompts_per_group=self.prompts_per_group, output_tokens=self.output_tokens)
        within(shared_tokens=self.shared_tokens, own_tokens=self.own_tokens)
        if self.shared_tokens + self.own_tokens < 1:
            raise ValueError("shared_tokens or own_tokens must be above 0")
        if self.output_tokens < 1 or not 0 < self.counted_ratio <= 1:
            raise ValueError("output_tokens must be at least 1, counted_ratio above 0 and at most 1")


def generate(spec: SharedPrefix, seed: int, load: float = 1.0) -> Workload:
    """Every request of every stage; `load` multiplies the rates. The same seed gives the same bytes."""
    prompts = [prompt for group in range(spec.groups) for prompt in _group(spec, group, seed)]
    stream(seed, "shared_prefix/shuffle").shuffle(prompts)
    stages = []
    for number, stage in enumerate(spec.loads):
        luck, rate = stream(seed, f"shared_prefix/arrivals/{number}"), stage.rate * load
        arrivals = poisson_arrivals(luck, rate, how_many(rate, stage.seconds))
        requests = [_planned(spec, number, i, at, prompts[i % len(prompts)]) for i, at in enumerate(arrivals)]
        name = f"{rate:g} requests/s" if stage.reported else "warm-up"
        stages.append(Stage(name, rate, stage.seconds, requests, spec.pause_us, stage.reported))
    return Workload(spec.model, spec.block_size, stages)


def _group(spec: SharedPrefix, group: int, seed: int) -> list[list[BlockKey]]:
    """The prompts of one group. The block in which the shared part ends differs between them, unless it ends with it."""
    size, total = spec.block_size, (spec.shared_tokens + spec.own_tokens) // spec.block_size
    shared = keys(text(f"{seed}/group/{group}"), 0, spec.shared_tokens // size)
    own = range(group * spec.prompts_per_group, (group + 1) * spec.prompts_per_group)
    return [shared + keys(text(f"{seed}/prompt/{i}"), len(shared), total) for i in own]


def _planned(spec: SharedPrefix, stage: int, i: int, at_us: Micros, prompt: list[BlockKey]) -> Planned:
    counted = round(spec.output_tokens * spec.counted_ratio)
    tokens = spec.shared_tokens + spec.own_tokens
    return Planned(RequestId(f"{stage}-{i}"), at_us, prompt, tokens, spec.output_tokens, counted)
