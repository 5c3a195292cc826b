"""How much of a node an engine's pod takes beside its GPUs, and how long it takes to start. All of it is a judgement."""

from pilothouse.perf.catalog import gpu_named
from pilothouse.perf.memory import weight_bytes
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.flags import DISK, DRAM
from pilothouse.plan.manifests.order import Order, nodes
from pilothouse.plan.model_source import usual_precision

CPU_PER_GPU, MEMORY_GIB_PER_GPU = 4, 32  # one busy process per GPU; weights pass through in pieces
SHM_GIB = 16  # NCCL's rings, and vLLM's messages between its processes
SCRATCH_GIB = 16  # compiled kernels, logs
GPU_GIB = 80.0  # of one that the catalogue does not have
START_S = 600  # compiling and capturing graphs, without the weights
WEIGHTS_GIB_PER_S = 0.2  # over a slow line, or of a disk that several engines read


def dram_gib(pool: PoolPlan) -> int:
    """KV tier in DRAM of each node, rounded up."""
    return _gib(sum(size for tier, size in pool.tiers.items() if tier in DRAM) * 1e9 / nodes(pool))


def disk_gib(pool: PoolPlan) -> int:
    return _gib(sum(size for tier, size in pool.tiers.items() if tier in DISK) * 1e9 / nodes(pool))


def checkpoint_gib(order: Order, pool: PoolPlan) -> int:
    """As it is stored; of a model that is not known here, as much as its engine's GPUs hold."""
    if order.model is None:
        return -int(-pool.layout.gpus * _gpu_gib(pool.gpu) // 1)
    return _gib(weight_bytes(order.model, usual_precision(order.model, order.weights.uri)))


def scratch_gib(order: Order, pool: PoolPlan) -> int:
    """Of the node's own disk: with what is downloaded."""
    return SCRATCH_GIB + (checkpoint_gib(order, pool) if order.weights.scheme == "hf" else 0)


def starting_s(order: Order, pool: PoolPlan) -> int:
    """Until it answers, at the longest: what takes longer is started anew."""
    return START_S + int(checkpoint_gib(order, pool) / WEIGHTS_GIB_PER_S)


def _gpu_gib(name: str) -> float:
    try:
        return gpu_named(name).memory_gib
    except KeyError:
        return GPU_GIB


def _gib(size: float) -> int:
    return -int(-size // (1 << 30))
