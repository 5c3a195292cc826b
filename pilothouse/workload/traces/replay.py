"""Recorded requests sent again by the clock: a window of the trace, faster or slower, with times it lost spread again."""

from itertools import pairwise
from math import inf

import msgspec

from pilothouse.core.random_stream import Random, stream
from pilothouse.core.units import SECOND, BlockKey, Micros, RequestId
from pilothouse.workload.requests import Planned, Stage, Workload
from pilothouse.workload.written import Traffic


class Recorded(msgspec.Struct, frozen=True):
    """One request of a trace."""

    at_us: Micros  # after the beginning of the trace
    prompt_tokens: int
    output_tokens: int
    blocks: list[BlockKey] = []
    output_blocks: list[BlockKey] = []
    session: int = 0


class Replay(Traffic, frozen=True):
    """What every trace can be asked for. Seeds change jitter and what is made up, never what was recorded."""

    file: str  # beside the workload file
    from_us: Micros = Micros(0)  # window of recorded time
    until_us: Micros | None = None
    requests_max: int | None = None
    context_max: int | None = None  # requests with more tokens, prompt and answer, are left out
    time_scale: float = 1.0  # 2 = half as fast; `load` divides it
    jitter_us: Micros | None = None  # requests move to a later time within this; default: what the trace's clock lost
    model: str = "m"

    def __post_init__(self) -> None:
        if self.time_scale <= 0:
            raise ValueError("time_scale must be above 0")
        if self.until_us is not None and self.until_us <= self.from_us:
            raise ValueError("until must be later than from")
        for name, most in (("requests_max", self.requests_max), ("context_max", self.context_max)):
            if most is not None and most < 1:
                raise ValueError(f"{name} must be at least 1")


def window(spec: Replay, rows: list[Recorded]) -> list[Recorded]:
    """The rows that are asked for."""
    until_us, most = inf if spec.until_us is None else spec.until_us, spec.context_max or inf
    inside = (row for row in rows if spec.from_us <= row.at_us < until_us)
    return [row for row in inside if row.prompt_tokens + row.output_tokens <= most][: spec.requests_max]


def batch_us(rows: list[Recorded]) -> Micros:
    """The grain of the recording's clock: where most rows share their time with another, the least distance of two
    times (rounded clocks are off by a millisecond or so); else 0."""
    times = sorted({row.at_us for row in rows})
    if len(times) < 2 or len(rows) < 2 * len(times):
        return Micros(0)
    gaps = sorted(b - a for a, b in pairwise(times))
    return Micros(gaps[len(gaps) // 2])


def replay(spec: Replay, rows: list[Recorded], seed: int, load: float, block_size: int, grain_us: int) -> Workload:
    """One stage of these rows, at `load` times their recorded speed. `grain_us`: jitter, unless the spec says."""
    grain_us = grain_us if spec.jitter_us is None else spec.jitter_us
    luck: Random = stream(seed, "trace/jitter")
    at_us = [row.at_us + (luck.randrange(grain_us) if grain_us else 0) for row in rows]
    order = sorted(range(len(rows)), key=at_us.__getitem__)
    start_us, scale = spec.from_us or min(at_us, default=0), spec.time_scale / load
    requests = []
    for i in order:
        row, sent_us = rows[i], Micros(int((at_us[i] - start_us) * scale))
        tokens = row.prompt_tokens, row.output_tokens, row.output_tokens
        requests.append(Planned(RequestId(f"0-{i}"), sent_us, row.blocks, *tokens, row.session, row.output_blocks))
    seconds = max(requests[-1].arrival_us / SECOND, 1e-6) if requests else 0.0
    rate = len(requests) / seconds if seconds else 0.0
    return Workload(spec.model, block_size, [Stage(f"{rate:.3g} requests/s", rate, seconds, requests)])
