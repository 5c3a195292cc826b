"""What fits: weights, activation and KV cache of one replica, as vLLM sizes them.

KV space = device memory x utilisation - weights - activation - what is not torch's, each per GPU.
accuracy   within 3 % of the published measurements on H100, see `benchmarks/fidelity.py`
source     measured rows published by llm-d-planner (Apache-2.0), vLLM 0.11; activation constants fitted to seven rows
"""

from enum import StrEnum

from pilothouse.perf.gpus import Gpu
from pilothouse.perf.models import Model

GIB = 1 << 30
LOGITS_BYTES = 38.2  # activation per sequence slot and vocabulary entry: fitted at the default limits
HIDDEN_BYTES = 2.7  # activation per batched token and hidden unit: fitted at the default limits
NON_TORCH_GIB = (0.13, 0.55)  # at TP 1, at TP 2; larger TP not measured, taken as at 2
KV_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}  # per value; NVFP4 has one scale of 8 bits for 16 values
MXFP4_BYTES = 0.53125  # 4 bits, and one scale of 8 bits for 32 weights
SEQUENCE_TOKENS = 8192  # context of one sequence, where nobody says; matters for models with windows or states only
LARGE_GIB = 70.0  # from here on vLLM takes the larger limits per step (its `arg_utils`), A100 excepted
PADDED_TO = 256  # expert matrices are padded to a multiple of this on GPUs without native MXFP4


class Precision(StrEnum):
    """Of the weights."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT4 = "int4"


def kv_bytes_per_token(model: Model, tp: int, kv_byte: float = 2.0) -> float:
    """Growing KV cache per context token and GPU [bytes]. Window layers are constant and not in it."""
    if model.latent:
        return model.attention_layers * model.kept_share * model.latent * kv_byte  # latent vectors lie on every rank
    return model.attention_layers * 2 * _heads_per_gpu(model.kv_heads, tp) * model.head_dim * kv_byte


def weight_bytes(model: Model, precision: Precision, *, padded: bool = False) -> float:
    """Of the whole model [bytes]: quantised matrices small, embedding and output head in bf16, unless it says otherwise."""
    parameters = model.parameters_b * 1e9
    if model.published_gb and precision == model.published:
        padding = expert_bytes(model, precision, padded=padded) - expert_bytes(model, precision)
        return model.published_gb * 1e9 + padding
    if precision is Precision.BF16:
        return 2 * parameters
    ends = (1 if model.tied_embeddings else 2) * model.vocab * model.hidden
    if precision is Precision.FP8:
        return (parameters - ends) + 2 * ends
    if not model.experts:
        return MXFP4_BYTES * (parameters - ends) + 2 * ends
    others = parameters - model.experts * model.expert_parameters
    return expert_bytes(model, precision, padded=padded) + 2 * others


def expert_bytes(model: Model, precision: Precision, *, padded: bool = False) -> float:
    """Of all routed experts of the whole model [bytes], a part of `weight_bytes`; 0 for dense models."""
    experts = model.experts * model.expert_parameters
    if precision in (Precision.BF16, Precision.FP8) or not experts:
        return experts * (2.0 if precision is Precision.BF16 else 1.0)
    pad = -(-model.expert_intermediate // PADDED_TO) * PADDED_TO / model.expert_intermediate if padded else 1.0
    return MXFP4_BYTES * pad * experts


def activation_bytes(model: Model, max_num_seqs: int = 1024, max_num_batched_tokens: int = 8192) -> float:
    """Peak of the profiling run, on every GPU of the replica [bytes]. How it scales with the limits is a hypothesis."""
    return LOGITS_BYTES * max_num_seqs * model.vocab + HIDDEN_BYTES * max_num_batched_tokens * model.hidden


def default_limits(gpu: Gpu) -> tuple[int, int]:
    """(sequences, tokens) that one step of vLLM's server may hold, where nobody sets them: large on large GPUs."""
    large = gpu.memory_gib >= LARGE_GIB and not gpu.name.startswith("a100")
    return (1024, 8192) if large else (256, 2048)


def kv_gib(
    model: Model,
    gpu: Gpu,
    tp: int,
    precision: Precision,
    utilisation: float = 0.9,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
) -> float:
    """KV space per GPU [GiB]; below zero, the model does not fit. Limits of a step: None = the engine's defaults."""
    sequences, tokens = default_limits(gpu)
    weights = weight_bytes(model, precision, padded=gpu.pads_mxfp4) / tp / GIB
    activation = activation_bytes(model, max_num_seqs or sequences, max_num_batched_tokens or tokens) / GIB
    return gpu.memory_gib * utilisation - weights - activation - NON_TORCH_GIB[min(tp, 2) - 1]


def kv_tokens(
    model: Model,
    gpu: Gpu,
    tp: int,
    precision: Precision,
    utilisation: float = 0.9,
    sequence_tokens: int = SEQUENCE_TOKENS,
    kv_byte: float = 2.0,
) -> int:
    """KV capacity of one replica [tokens], all of its GPUs together; 0 if the model does not fit.

    What does not grow with the context (windows, linear states) is paid once per sequence, so the capacity in tokens
    depends on how long sequences are: `sequence_tokens` [tokens of context]. Without such layers it does not matter.
    """
    room = kv_gib(model, gpu, tp, precision, utilisation) * GIB
    return max(0, int(room * sequence_tokens / sequence_bytes(model, tp, sequence_tokens, kv_byte=kv_byte)))


def sequence_bytes(model: Model, tp: int, context: float, block_size: int = 16, kv_byte: float = 2.0) -> float:
    """What one sequence of so much context takes per GPU [bytes], with its windows and states."""
    growing = context * kv_bytes_per_token(model, tp, kv_byte)
    heads, width = model.window_kv_heads or model.kv_heads, model.window_head_dim or model.head_dim
    per_window = (model.latent or 2 * _heads_per_gpu(heads, tp) * width) * kv_byte
    windows = model.window_layers * min(context, model.window + block_size) * per_window
    return growing + windows + model.linear_state_mb * 1e6 / tp


def _heads_per_gpu(kv_heads: int, tp: int) -> float:
    """KV heads on one GPU: once there are more GPUs than heads, heads are replicated."""
    return max(1.0, kv_heads / tp)
