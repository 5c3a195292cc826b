"""One engine of any layout as the sums and the simulator see it: lanes, each of which steps for itself.

Tensor parallelism is measured; all else follows from it by what is divided among whom:
DP    a lane for each rank. Of shared experts (EP) a lane reads its own part, but those that the tokens of all ranks
      touch; tokens travel to experts and back over the scale-up links
PP    a lane for each stage: as many micro-batches are under way, each of which passes through all stages
DCP   a decoding sequence's KV is read by so many ranks, a part each
PCP   a prompt's work is divided by so many ranks
Drafts are made by all of them alike, and take their part of the memory.
accuracy   of wider layouts unknown: `BAND_LAYOUT` is a guess and is added for each kind of parallelism that nobody measured
ignores    that ranks which share experts wait for each other; stages of unequal length; what DCP and PCP exchange
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.config import speculating
from pilothouse.config.convert import convert
from pilothouse.config.scenario_load import read_step_time
from pilothouse.config.speculating import Speculating
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Tier
from pilothouse.perf.catalog import Gpu, Model, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import GIB, KV_BYTES, default_limits, sequence_bytes
from pilothouse.perf.speculation import Method, Speculation, method_named
from pilothouse.perf.step_time import StepTime
from pilothouse.perf.storage import STORAGES, Storage, fetch_us
from pilothouse.plan.document import Layout, PoolPlan
from pilothouse.plan.memory import context_bytes, held

BAND_TPOT, BAND_TTFT = 0.10, 0.30  # of configurations with measured rows
BANDS_SCALED = (0.15, 0.25)  # of TPOT, of models measured otherwise: dense, with experts
BANDS_PRIOR = (0.15, 0.35)  # of models that nobody measured. All hold nine in ten rows left out of the fit
BAND_LAYOUT = 0.15  # more, for each kind of parallelism that nobody measured
TIERS = (
    dict.fromkeys(("dram", "cpu", "host"), Tier.DRAM)
    | dict.fromkeys(("disk", "nvme", "ssd"), Tier.DISK)
    | {"remote": Tier.REMOTE}
)
BAND_DRAFTS = (
    0.25  # more, where drafts are made: gains by published acceptance are off by as much (`perf/speculation.py`)
)
STAGE_GB_PER_S = 40.0  # between nodes, as the simulator takes a network card of 400 Gb/s
BYTES = 2  # of an activation


class Engine(Struct, frozen=True):
    """One engine of a pool."""

    step_time: StepTime  # of a lane
    lanes: int
    kv_tokens: int  # of a lane
    sequences: int  # of a lane, in one step
    batched_tokens: int
    token_bytes: float  # KV of one token, of the whole model
    tpot_band: float
    ttft_band: float
    speculation: Speculation | None = None  # its cost is in `step_time`, its room off `kv_tokens`
    below_tokens: int = 0  # KV of a lane in the largest tier below HBM, which holds what HBM holds too; 0 = no tier
    below_us: float = 0.0  # to bring one token's KV from there

    @property
    def luck(self) -> float:
        """Of one step: variance of its tokens to the square of their mean."""
        return 0.0 if self.speculation is None else self.speculation.variance() / self.tokens_per_step**2

    @property
    def tokens_per_step(self) -> float:
        """Of each decoding sequence."""
        return 1.0 if self.speculation is None else self.speculation.tokens()


def engine_of(pool: PoolPlan, model: Model, gpu: Gpu, context: float) -> Engine:
    """`context`: mean length of a sequence; matters for models with windows or states [tokens]."""
    layout, byte, precision = pool.layout, KV_BYTES[pool.kv_precision], precision_named(pool.precision)
    sequences, tokens = default_limits(gpu)
    sequences, tokens = pool.max_num_seqs or sequences, pool.max_num_batched_tokens or tokens
    room = held(model, gpu, layout, precision, pool.memory_utilisation, sequences, tokens).kv * GIB
    length, drafts = max(1.0, context), drafting(pool.speculation)
    each = context_bytes(model, layout, length, byte)
    times = step_time(model, gpu, layout.tp, precision, byte)
    times = read_step_time(Path(pool.step_time)) if pool.step_time else times
    if drafts is not None:
        times = speculating.timed(drafts, times, model, gpu, layout.tp, precision)
        weights, per_token = speculating.drafting_bytes(drafts, model, layout.tp)
        room, each = room - weights, each + per_token * length / layout.pp
        tokens = max(tokens, sequences * (1 + drafts.draft_tokens))  # a decode and its drafts are checked in one step
    token_bytes = sequence_bytes(model, 1, length, kv_byte=byte) / length
    below, storage = _below(pool.tiers)
    band = band_tpot(times)
    more = BAND_LAYOUT * len(unmeasured(layout)) + (BAND_DRAFTS if drafts is not None else 0.0)
    return Engine(
        step_time=spread_times(times, model, gpu, layout),
        lanes=layout.dp * layout.pp,
        kv_tokens=max(0, int(room * length / each / layout.pp)),
        sequences=max(1, sequences // layout.pp),
        batched_tokens=tokens,
        token_bytes=token_bytes,
        tpot_band=band + more,
        ttft_band=BAND_TTFT + band - BAND_TPOT + more,
        speculation=None if drafts is None else speculating.speculation_of(drafts),
        below_tokens=int(below * 1e9 / token_bytes / (layout.dp * layout.pp)),
        below_us=fetch_us(storage, token_bytes, layout.tp) if storage else 0.0,
    )


def _below(tiers: Mapping[str, float]) -> tuple[float, Storage | None]:
    """The largest tier [GB], and what it is."""
    sizes = {tier: sum(gb for name, gb in tiers.items() if TIERS[name] is tier) for tier in STORAGES}
    largest = max(sizes, key=lambda tier: sizes[tier])
    return (sizes[largest], STORAGES[largest]) if sizes[largest] else (0.0, None)


def drafting(said: Mapping[str, Any] | None) -> Speculating | None:
    """vLLM's words in ours. Acceptance is as published: a plan does not know better. Raises ConfigError."""
    if not said:
        return None
    method, problems = method_named(str(said.get("method", ""))), list[Problem]()
    found: dict[str, Any] = {"method": said.get("method", "") if method is None else method.value}
    found["draft_tokens"] = said.get("num_speculative_tokens", 1)
    if method is Method.DRAFT_MODEL and "model" in said:
        found["draft_model"] = said["model"]
    made = convert(Speculating, found, "speculation", problems)
    if made is None or problems:
        raise ConfigError(problems)
    return made


def band_tpot(times: StepTime) -> float:
    """Relative error of TPOT to allow for, by how step times are known; of layouts that are tensor parallel alone."""
    bands = BANDS_PRIOR if "prior" in times.label else BANDS_SCALED if "scaled" in times.label else (BAND_TPOT,) * 2
    return max(bands[bool(times.experts)], times.error or 0.0)


def unmeasured(layout: Layout) -> list[str]:
    """Kinds of parallelism in it of which there are no rows."""
    sizes = {"DP with shared experts": layout.ep // layout.tp, "PP": layout.pp, "DCP": layout.dcp, "PCP": layout.pcp}
    return [name for name, size in sizes.items() if size > 1]


def spread_times(times: StepTime, model: Model, gpu: Gpu, layout: Layout) -> StepTime:
    """Step times of one lane, out of those of its tensor-parallel degree."""
    p_us = times.p_us / layout.pcp
    p_us += (layout.pp - 1) * model.hidden * BYTES / (STAGE_GB_PER_S * 1e3)
    changed = {"c_ns": times.c_ns / layout.dcp, "q_ps": times.q_ps / layout.pcp}
    ranks = layout.ep // layout.tp if layout.expert_parallel else 1
    if ranks > 1 and model.experts:
        there_and_back = 2 * model.moe_layers * model.experts_per_token * model.hidden * BYTES
        p_us += there_and_back * (ranks - 1) / ranks / (layout.tp * gpu.link_gbps * 1e3)
        own = max(1, model.experts // ranks)
        touched = own * (1 - (1 - model.experts_per_token / model.experts) ** ranks)
        changed |= {"experts": own, "experts_per_token": max(1, min(own, round(touched)))}
    said = [f"{name}: by division, not measured" for name in unmeasured(layout)]
    label = "Estimated (prior)" if said else times.label
    source = "; ".join([times.source, *said])
    return replace(times, p_us=p_us, **changed, label=label, source=source)
