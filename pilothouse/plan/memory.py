"""What one GPU holds of an engine that is spread over several, and how much context the engine can keep.

Weights divide over tensor-parallel ranks and stages; experts, where ranks share them, over all of those that do. KV
heads divide over tensor-parallel ranks until there is one on each, then they are replicated, and decode context
parallelism takes the copies away again. Activation and what is not torch's is paid on every GPU.

accuracy   one GPU and TP 2 as `perf/memory.py`; wider layouts follow from the division alone. Stages are taken as equal
source     divisions as vLLM 0.32 makes them: `parallel_state` (experts over TP x PCP x DP), `config/parallel` (DCP, PCP)
"""

from msgspec import Struct

from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import (
    GIB,
    NON_TORCH_GIB,
    Precision,
    activation_bytes,
    default_limits,
    expert_bytes,
    sequence_bytes,
    weight_bytes,
)
from pilothouse.perf.models import Model
from pilothouse.plan.document import Layout

UTILISATION = 0.9  # vLLM's --gpu-memory-utilization, where nobody sets it


class Held(Struct, frozen=True):
    """One GPU's memory [GiB]. The parts add up to what the engine may use of it."""

    weights: float
    activation: float  # of the largest step, measured by the engine as it starts
    other: float  # the driver's and the communication library's
    kv: float  # what is left for KV and states; below zero, the model does not fit


def too_long(model: Model, tokens: int) -> str:
    """Of a sequence that is longer than its model takes."""
    return (
        f"{tokens:,} tokens are more than {model.name} takes by its configuration, {model.context:,}: engines refuse such "
        "requests, unless its positions are stretched (YaRN) or the checkpoint is another one"
    )


def held(
    model: Model,
    gpu: Gpu,
    layout: Layout,
    precision: Precision,
    utilisation: float = UTILISATION,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
) -> Held:
    """Of each GPU of one engine. Limits of a step: None = the engine's defaults on this GPU."""
    sequences, tokens = default_limits(gpu)
    weights = weights_gib(model, gpu, layout, precision)
    activation = activation_bytes(model, max_num_seqs or sequences, max_num_batched_tokens or tokens) / GIB
    other = NON_TORCH_GIB[min(layout.gpus, 2) - 1]
    return Held(weights, activation, other, gpu.memory_gib * utilisation - weights - activation - other)


def weights_gib(model: Model, gpu: Gpu, layout: Layout, precision: Precision) -> float:
    """On one GPU [GiB]."""
    experts = expert_bytes(model, precision, padded=gpu.pads_mxfp4)
    others = weight_bytes(model, precision, padded=gpu.pads_mxfp4) - experts
    sharers = layout.ep if layout.expert_parallel else layout.tp
    return (others / layout.tp + experts / sharers) / layout.pp / GIB


def context_bytes(model: Model, layout: Layout, context: float, kv_byte: float = 2.0) -> float:
    """What one sequence of so many tokens takes on each GPU of its data-parallel rank [bytes]."""
    nothing = sequence_bytes(model, layout.tp, 0, kv_byte=kv_byte)  # states alone
    shared = sequence_bytes(model, layout.tp, context, kv_byte=kv_byte) - nothing
    return (nothing + shared / layout.dcp) / layout.pp


def sequences(model: Model, layout: Layout, room_gib: float, context: float, kv_byte: float = 2.0) -> float:
    """Sequences of so many tokens that one engine keeps at once, all ranks together."""
    return max(0.0, layout.dp * room_gib * GIB / context_bytes(model, layout, context, kv_byte))
