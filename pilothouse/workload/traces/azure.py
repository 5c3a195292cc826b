"""Azure's inference trace: times and lengths, nothing about what prompts share. That part can be made up:

none            every prompt is new
system          each prompt begins with one of some system prompts, as far as it is long enough
conversations   besides, a share of the requests continue an earlier one: the longest conversation that is short enough
                to lie within the prompt, leaves the user something to say (at most `user_max`), and has been quiet for
                at least `pause` and at most `idle`. Lengths and times are kept as recorded, so nothing is invented but
                who speaks to whom. They come by the clock, like everything in this trace.
source   Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv_2023 (CC-BY-4.0)
"""

import csv
from bisect import bisect_right, insort
from enum import StrEnum

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, BlockKey, Micros
from pilothouse.workload.lengths import within
from pilothouse.workload.requests import Workload
from pilothouse.workload.texts import held, keys, text
from pilothouse.workload.traces.replay import Recorded, Replay, replay, window

HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


class Prefixes(StrEnum):
    """What is made up."""

    NONE = "none"
    SYSTEM = "system"
    CONVERSATIONS = "conversations"


class Azure(Replay, frozen=True, tag="azure", tag_field="kind"):
    """An Azure trace."""

    prefixes: Prefixes = Prefixes.CONVERSATIONS
    system_prompts: int = 8  # distinct ones, drawn uniformly; no measurement
    system_tokens: int = 256
    continued: float = 0.387  # share of requests that continue one, where one fits; that of the Mooncake trace
    user_max: int = 1024  # tokens that a user adds at most; no measurement
    pause_us: Micros = Micros(10 * SECOND)
    idle_us: Micros = Micros(600 * SECOND)
    block_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 1 or self.system_prompts < 1 or not 0 <= self.continued <= 1:
            raise ValueError("block_size and system_prompts must be at least 1, continued 0 to 1")
        within(system_prompts=self.system_prompts, system_tokens=self.system_tokens)
        if self.user_max < 1 or self.pause_us > self.idle_us:
            raise ValueError("user_max must be at least 1, pause at most idle")


def parse(data: bytes) -> list[Recorded]:
    """Raises ValueError where it is something else."""
    lines = csv.reader(data.decode().splitlines())
    if next(lines, None) != HEADER:
        raise ValueError(f"the first line is not {','.join(HEADER)}")
    rows = [(_time_us(line[0]), int(line[1]), int(line[2])) for line in lines if line]
    start_us = min((at_us for at_us, _, _ in rows), default=0)
    return [Recorded(Micros(at_us - start_us), max(i, 1), max(o, 1)) for at_us, i, o in sorted(rows)]


def _time_us(said: str) -> int:
    """Of `2023-11-16 18:15:46.6805900`: microseconds since some midnight."""
    date, _, clock = said.partition(" ")
    year, month, day = map(int, date.split("-"))
    hours, minutes, seconds = clock.split(":")
    whole, _, rest = seconds.partition(".")
    years, months = (year, month - 3) if month > 2 else (year - 1, month + 9)  # from March on: leap days come last
    days = years * 365 + years // 4 - years // 100 + years // 400 + (153 * months + 2) // 5 + day
    return (((days * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(whole)) * SECOND + int(f"{rest:0<6}"[:6])


def generate(spec: Azure, rows: list[Recorded], seed: int, load: float = 1.0) -> Workload:
    """`load` divides the time between requests; who continues whom does not depend on it."""
    inside = window(spec, rows)
    if spec.prefixes is not Prefixes.NONE:
        inside = _dressed(spec, inside, seed)
    else:
        size = spec.block_size
        own = (keys(text(f"{seed}/own/{i}"), 0, row.prompt_tokens // size) for i, row in enumerate(inside))
        inside = [msgspec.structs.replace(row, blocks=blocks) for row, blocks in zip(inside, own, strict=True)]
    return replay(spec, inside, seed, load, spec.block_size, 0)


def _dressed(spec: Azure, rows: list[Recorded], seed: int) -> list[Recorded]:
    """The same rows with blocks, in the same order."""
    luck, size = stream(seed, "azure/prefixes"), spec.block_size
    whole = spec.system_tokens // size
    systems = [keys(text(f"{seed}/system/{i}"), 0, whole) for i in range(spec.system_prompts)]
    number = list(range(len(rows)))  # of its conversation, which is the row that began it
    heads: list[list[BlockKey]] = []  # of its conversation: the system prompt, as far as the first prompt held it
    open_: list[tuple[int, int]] = []  # (tokens with the answer, row), ascending
    silent: list[tuple[int, int]] = []  # those that a request may not continue yet, by time
    made = []
    for i, row in enumerate(rows):
        while silent and rows[silent[0][1]].at_us + spec.pause_us <= row.at_us:
            insort(open_, silent.pop(0))
        head = systems[luck.randrange(spec.system_prompts)][: row.prompt_tokens // size]
        wanted = luck.random() < spec.continued and spec.prefixes is Prefixes.CONVERSATIONS
        before = _continued(spec, rows, open_, i) if wanted else None
        if before is not None:
            number[i], head = number[before], heads[before]
        heads.append(head)
        conversation = text(f"{seed}/conversation/{number[i]}")
        full = row.prompt_tokens // size
        end = held(row.prompt_tokens, row.output_tokens, size)
        both = head + keys(conversation, len(head), end)
        own = conversation if spec.prefixes is Prefixes.CONVERSATIONS else 0
        made.append(msgspec.structs.replace(row, blocks=both[:full], output_blocks=both[full:], session=own))
        silent.append((row.prompt_tokens + row.output_tokens, i))
    return made


def _continued(spec: Azure, rows: list[Recorded], open_: list[tuple[int, int]], i: int) -> int | None:
    """Takes the longest conversation out of those open that this row can continue; drops stale ones on the way."""
    at = bisect_right(open_, (rows[i].prompt_tokens - 1, len(rows))) - 1
    while at >= 0 and open_[at][0] >= rows[i].prompt_tokens - spec.user_max:
        _, before = open_.pop(at)
        if rows[i].at_us - rows[before].at_us <= spec.idle_us:
            return before
        at -= 1
    return None
