"""Step time from physics, for a configuration that nobody measured: a roofline with stated efficiencies. Estimated.

accuracy   a within 5 % on average (12 % at most), c within 20 % on Hopper, p within 25 %, on 13 dense configurations;
           print bands of 10 % on TPOT and 30-40 % on TTFT until one measured point rescales it
source     efficiencies fitted on the same published rows as `fit`; peaks from the catalogue
"""

from pilothouse.perf.catalog import Gpu, Model
from pilothouse.perf.memory import MXFP4_BYTES, Precision, kv_bytes_per_token, weight_bytes
from pilothouse.perf.step_time import StepTime

WEIGHT_READ = 1.09  # weight bytes over nominal bandwidth take this much longer
LAYER_US = 68.0  # launches, norms, all-reduce latency and host work per layer
KV_READ = 0.9  # of nominal bandwidth
PREFILL = 0.70  # of dense peak, Hopper
PREFILL_BLACKWELL = 0.40  # of dense peak, Blackwell: between 0.35 and 0.45 in the rows
SEQUENCE_US = 60.0  # per scheduled sequence: the middle of the fitted rows


def weight_read_us(model: Model, gpu: Gpu, tp: int, precision: Precision) -> float:
    """Time to read once, at nominal bandwidth, all weights a step needs whatever its batch [microseconds]."""
    embedding = 0 if model.tied_embeddings else 2 * model.vocab * model.hidden
    experts = expert_read_us(model, gpu, tp, precision) * model.experts
    return (weight_bytes(model, precision) - embedding) / (tp * gpu.bandwidth_tbps * 1e6) - experts


def expert_read_us(model: Model, gpu: Gpu, tp: int, precision: Precision) -> float:
    """Time to read one expert of every layer, at nominal bandwidth [microseconds]; 0 for dense models."""
    per_weight = {Precision.BF16: 2.0, Precision.FP8: 1.0}.get(precision, MXFP4_BYTES)
    return model.expert_parameters * per_weight / (tp * gpu.bandwidth_tbps * 1e6)


def kv_read_ns(model: Model, gpu: Gpu, tp: int, kv_byte: float = 2.0) -> float:
    """Time to read one token's KV, at nominal bandwidth [nanoseconds]."""
    return kv_bytes_per_token(model, tp, kv_byte) / (gpu.bandwidth_tbps * 1e3)


def prefill_compute_us(model: Model, gpu: Gpu, tp: int, precision: Precision) -> float:
    """Matrix work of one prompt token, at peak [microseconds]."""
    return 2 * model.active_b * 1e9 / (tp * _flops(gpu, precision) * 1e6)


def all_reduce_us(model: Model, gpu: Gpu, tp: int) -> float:
    """Ring all-reduce of one token's activations, two per layer [microseconds]."""
    return 2 * model.layers * model.hidden * 2 * 2 * (tp - 1) / tp / (gpu.link_gbps * 1e3)


def estimate(model: Model, gpu: Gpu, tp: int, precision: Precision) -> StepTime:
    """Coefficients for a configuration without measured rows. Labelled Estimated; rho is 0, since nobody measured it."""
    prefill = PREFILL_BLACKWELL if gpu.fp4_tflops else PREFILL
    squares = 4 * model.attention_layers * model.heads * model.head_dim / (tp * gpu.bf16_tflops * prefill)
    return StepTime(
        a_us=WEIGHT_READ * weight_read_us(model, gpu, tp, precision) + LAYER_US * model.layers,
        b_us=SEQUENCE_US,
        c_ns=kv_read_ns(model, gpu, tp) / KV_READ,
        p_us=prefill_compute_us(model, gpu, tp, precision) / prefill + all_reduce_us(model, gpu, tp),
        q_ps=squares,
        expert_us=expert_read_us(model, gpu, tp, precision),
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        source=f"physics prior for {model.name} {precision} on {gpu.name} TP{tp}",
    )


def _flops(gpu: Gpu, precision: Precision) -> float:
    """Dense peak [1e12/s] for these weights; what a GPU cannot compute natively runs in the next wider format."""
    if precision is Precision.FP4 and gpu.fp4_tflops:
        return gpu.fp4_tflops
    if precision is Precision.FP8 and gpu.fp8_tflops:
        return gpu.fp8_tflops
    return gpu.bf16_tflops
