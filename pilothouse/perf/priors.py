"""Step time from physics, for a configuration that nobody measured: a roofline with stated efficiencies. Estimated.

accuracy   dense models on Hopper: TPOT within 3 to 6 % of the published rows, a within 5 %, c within 20 %, p within
           25 %; mixtures of experts and Blackwell within 10 to 30 %. Print bands of 10 % on TPOT and 30-40 % on TTFT
           until one measured point rescales it
source     efficiencies are middles of what non-negative fits on published rows give (`benchmarks/fidelity.py`); peaks
           from the catalogue
"""

from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import MXFP4_BYTES, Precision, kv_bytes_per_token, weight_bytes
from pilothouse.perf.models import Model
from pilothouse.perf.step_time import StepTime

WEIGHT_READ = 1.09  # weight bytes over nominal bandwidth take this much longer
LAYER_US = 68.0  # launches, norms, all-reduce latency and host work per layer
MOE_LAYER_US = 85.0  # the same with experts: gpt-oss needs 66 to 92
MLA_LAYER_US = 130.0  # the same with latent attention: Kimi-K2.5 needs 125 to 140
KV_READ = 0.9  # of nominal bandwidth
EXPERT_READ = 1.2  # nominal time to read an expert takes this much longer: between 0.8 and 2.2 in the rows
PREFILL = 0.70  # of dense peak, Hopper
PREFILL_BLACKWELL = 0.40  # of dense peak, Blackwell: between 0.35 and 0.45 in the rows
PREFILL_MOE = 0.4  # of what a dense model reaches: between 0.33 and 0.45 in most rows
SEQUENCE_US = 60.0  # per scheduled sequence: the middle of the fitted rows of dense models
MOE_SEQUENCE_US = 45.0  # the same of mixtures of experts


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
    return 2 * model.active_b * 1e9 / (tp * peak_tflops(gpu, precision) * 1e6)


def all_reduce_us(model: Model, gpu: Gpu, tp: int) -> float:
    """Ring all-reduce of one token's activations, two per layer [microseconds]."""
    return 2 * model.layers * model.hidden * 2 * 2 * (tp - 1) / tp / (gpu.link_gbps * 1e3)


def layer_us(model: Model) -> float:
    """What a layer costs however small the batch, beside reading its weights [microseconds]."""
    return MLA_LAYER_US if model.latent else MOE_LAYER_US if model.experts else LAYER_US


def estimate(model: Model, gpu: Gpu, tp: int, precision: Precision, kv_byte: float = 2.0) -> StepTime:
    """Coefficients for a configuration without measured rows. rho is 0: physics says nothing about it."""
    reached = PREFILL_BLACKWELL if gpu.blackwell else PREFILL
    work_us = prefill_compute_us(model, gpu, tp, precision) / (reached * (PREFILL_MOE if model.experts else 1.0))
    attention_ps = 4 * model.heads * model.head_dim / (tp * gpu.bf16_tflops * reached)  # per layer and pair of tokens
    window_us = attention_ps * model.window_layers * model.window / 1e6
    return StepTime(
        a_us=WEIGHT_READ * weight_read_us(model, gpu, tp, precision) + layer_us(model) * model.layers,
        b_us=MOE_SEQUENCE_US if model.experts else SEQUENCE_US,
        c_ns=kv_read_ns(model, gpu, tp, kv_byte) / KV_READ,
        p_us=work_us + window_us + all_reduce_us(model, gpu, tp),
        q_ps=attention_ps * model.attention_layers,
        expert_us=EXPERT_READ * expert_read_us(model, gpu, tp, precision),
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        label="Estimated (prior)",
        source=f"physics prior for {model.name} {precision} on {gpu.name} TP{tp}",
    )


def peak_tflops(gpu: Gpu, precision: Precision) -> float:
    """Dense peak [1e12/s] for these weights; what a GPU cannot compute natively runs in the next wider format."""
    if precision is Precision.FP4 and gpu.fp4_tflops:
        return gpu.fp4_tflops
    if precision is Precision.FP8 and gpu.fp8_tflops:
        return gpu.fp8_tflops
    return gpu.bf16_tflops
