"""Step time from physics, for a configuration that nobody measured: what is read, computed and exchanged, at nominal
peaks, each times one constant. Estimated.

accuracy   `benchmarks/plan_accuracy.py`, figures `holdout_*`: constants and tables without what is predicted
source     one non-negative least-squares fit of the constants on all published rows that are fit to be fitted
           (`python -m benchmarks.silicon --constants`), held loosely to `EXPECTED`; peaks from the catalogue
"""

import msgspec

from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import KV_BYTES, MXFP4_BYTES, Precision, kv_bytes_per_token, weight_bytes
from pilothouse.perf.models import Model
from pilothouse.perf.step_time import StepTime

ACTIVATION = 2  # bytes of one value between matrices
QUANTISED = (Precision.FP8, Precision.FP4, Precision.INT4)


class Constants(msgspec.Struct, frozen=True):
    """How many times its nominal time everything takes, and what has no nominal time. A step's time is linear in each."""

    weights: float  # read, of dense models
    weights_4bit: float  # the same in 4 bits: with scales, and unpacking
    layer_us: float  # launches, norms, all-reduce latency and host work of a layer, however small the batch
    layer_experts_us: float  # more, of a layer with experts
    layer_unpacked_us: float  # more, where experts are in a format that the GPU does not compute in
    layer_latent_us: float  # more, with latent attention
    sequence_us: float  # of a scheduled sequence
    sequence_layer_us: float  # of a scheduled sequence in each layer
    kv: float  # read
    prefill: float  # computed, at dense peak
    prefill_blackwell: float
    prefill_experts: float
    prefill_unpacked: float  # on Blackwell, experts in a format that it does not compute in: rows of one model
    attention: float  # of prompts, at dense peak: rows hardly tell
    attention_blackwell: float
    all_reduce: float  # of prompts, by a ring at nominal rate
    passes: float  # times that a prompt token's activations are read or written in a layer, on every rank
    passes_experts: float  # the same of its copies for the experts chosen, decoding or not
    experts: float  # read; below 1 is possible, for routing is skewed and touches fewer
    experts_unpacked: float


EXPECTED = Constants(
    weights=1.1, weights_4bit=1.3, layer_us=68, layer_experts_us=5, layer_unpacked_us=20, layer_latent_us=30,
    sequence_us=20, sequence_layer_us=0.4, kv=1.1, prefill=1.43, prefill_blackwell=2.5, prefill_experts=3.5,
    prefill_unpacked=6, attention=1.43, attention_blackwell=2.5, all_reduce=1, passes=5, passes_experts=10,
    experts=1, experts_unpacked=1.3,
)  # fmt: skip
"""Before any row is seen: rooflines reached in part, as `performance-model.md` of the shared reference has them, and guesses."""

CONSTANTS = Constants(
    weights=1.05, weights_4bit=1.31, layer_us=68.2, layer_experts_us=5.93, layer_unpacked_us=14.3,
    layer_latent_us=30.2, sequence_us=6.25, sequence_layer_us=0.592, kv=1.08, prefill=1.35,
    prefill_blackwell=1.89, prefill_experts=2.52, prefill_unpacked=9.87, attention=1.43,
    attention_blackwell=2.51, all_reduce=1.58, passes=5.61, passes_experts=12.2, experts=0.539,
    experts_unpacked=1.21,
)  # fmt: skip


def weight_read_us(model: Model, gpu: Gpu, tp: int, precision: Precision) -> float:
    """Time to read once, at nominal bandwidth, all weights a step needs whatever its batch [microseconds]."""
    embedding = 0 if model.tied_embeddings else 2 * model.vocab * model.hidden
    experts = expert_read_us(model, gpu, tp, precision) * model.experts
    return (weight_bytes(model, precision) - embedding) / (tp * gpu.bandwidth_tbps * 1e6) - experts


def expert_read_us(model: Model, gpu: Gpu, tp: int, precision: Precision) -> float:
    """Time to read one expert of every layer, at nominal bandwidth [microseconds]; 0 for dense models."""
    per_weight = {Precision.BF16: 2.0, Precision.FP8: 1.0}.get(precision, MXFP4_BYTES)
    return model.expert_parameters * per_weight / (tp * gpu.bandwidth_tbps * 1e6)


def kv_read_ns(model: Model, gpu: Gpu, tp: int, kv_byte: float = KV_BYTES["bf16"]) -> float:
    """Time to read one token's KV, at nominal bandwidth [nanoseconds]."""
    return kv_bytes_per_token(model, tp, kv_byte) / (gpu.bandwidth_tbps * 1e3)


def prefill_compute_us(model: Model, gpu: Gpu, tp: int, precision: Precision) -> float:
    """Matrix work of one prompt token, at peak [microseconds]."""
    return 2 * model.active_b * 1e9 / (tp * peak_tflops(gpu, precision) * 1e6)


def all_reduce_us(model: Model, gpu: Gpu, tp: int) -> float:
    """Ring all-reduce of one token's activations, two per layer [microseconds]."""
    return 2 * model.layers * model.hidden * 2 * 2 * (tp - 1) / tp / (gpu.link_gbps * 1e3)


def pass_us(values: float, gpu: Gpu) -> float:
    """Time to read or write so many activations once [microseconds]."""
    return values * ACTIVATION / (gpu.bandwidth_tbps * 1e6)


def layers_us(model: Model, gpu: Gpu, precision: Precision, by: Constants = CONSTANTS) -> float:
    """What all layers cost however small the batch, beside reading their weights [microseconds]."""
    experts = by.layer_experts_us + (by.layer_unpacked_us if _unpacks(gpu, precision) else 0.0)
    return model.layers * (by.layer_us + (by.layer_latent_us if model.latent else 0.0)) + model.moe_layers * experts


def kv_byte_as_measured(model: Model, gpu: Gpu, precision: Precision) -> float:
    """Of one value in the cache, in published rows [bytes]. They do not say it; but quantised dense checkpoints bring a
    precision for their cache, and rows of Blackwell read it twice as fast as bf16 could be."""
    own = gpu.blackwell and precision in QUANTISED and not (model.experts or model.latent)
    return KV_BYTES["fp8" if own else "bf16"]


def estimate(
    model: Model, gpu: Gpu, tp: int, precision: Precision, kv_byte: float | None = None, by: Constants = CONSTANTS
) -> StepTime:
    """Coefficients for a configuration without measured rows. rho is 0: physics says nothing about it.

    kv_byte   of one value in the cache [bytes]; None = as in published rows
    """
    unpacked = _unpacks(gpu, precision)
    attended = by.attention_blackwell if gpu.blackwell else by.attention
    attention_ps = attended * 4 * model.heads * model.head_dim / (tp * gpu.bf16_tflops)  # per layer and pair of tokens
    window_us = attention_ps * model.window_layers * model.window / 1e6
    copies_us = by.passes_experts * pass_us(model.moe_layers * model.experts_per_token * model.hidden, gpu)
    between_us = copies_us + by.passes * pass_us(model.layers * model.hidden, gpu)
    computed_us = _prefill(model, gpu, unpacked, by) * prefill_compute_us(model, gpu, tp, precision)
    small = precision in (Precision.FP4, Precision.INT4) and not model.experts
    read_us = (by.weights_4bit if small else by.weights) * weight_read_us(model, gpu, tp, precision)
    experts_us = (by.experts_unpacked if unpacked else by.experts) * expert_read_us(model, gpu, tp, precision)
    byte = kv_byte_as_measured(model, gpu, precision) if kv_byte is None else kv_byte
    return StepTime(
        a_us=read_us + layers_us(model, gpu, precision, by),
        b_us=by.sequence_us + by.sequence_layer_us * model.layers + copies_us,
        c_ns=by.kv * kv_read_ns(model, gpu, tp, byte),
        p_us=computed_us + window_us + between_us + by.all_reduce * all_reduce_us(model, gpu, tp),
        q_ps=attention_ps * model.attention_layers,
        expert_us=experts_us,
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        label="Estimated (prior)",
        source=f"physics prior for {model.name} {precision} on {gpu.name} TP{tp}",
    )


def _prefill(model: Model, gpu: Gpu, unpacked: bool, by: Constants) -> float:
    if not model.experts:
        return by.prefill_blackwell if gpu.blackwell else by.prefill
    return by.prefill_unpacked if unpacked and gpu.blackwell else by.prefill_experts


def _unpacks(gpu: Gpu, precision: Precision) -> bool:
    """Whether these weights are in 4 bits that the GPU does not compute in."""
    return precision is Precision.INT4 or (precision is Precision.FP4 and not gpu.fp4_tflops)


def peak_tflops(gpu: Gpu, precision: Precision) -> float:
    """Dense peak [1e12/s] for these weights; what a GPU cannot compute natively runs in the next wider format."""
    if precision is Precision.FP4 and gpu.fp4_tflops:
        return gpu.fp4_tflops
    if precision is Precision.FP8 and gpu.fp8_tflops:
        return gpu.fp8_tflops
    return gpu.bf16_tflops
