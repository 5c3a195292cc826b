"""Quick sums, without a search: what a GPU holds of a model, how many tokens of KV and how many sessions that makes.

A session here is a running sequence of a given length, its KV all resident. Sessions that think between two turns need
no KV while they do, if losing the prefix is acceptable; sequences of different lengths are `plan/occupancy.py`'s.
"""

from collections.abc import Sequence

from msgspec import Struct

from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import GIB, KV_BYTES, Precision, default_limits, kv_bytes_per_token
from pilothouse.perf.models import Model
from pilothouse.plan.document import Layout
from pilothouse.plan.memory import UTILISATION, Held, context_bytes, held, sequences, too_long

INDEX_SCALE_BYTES = 4  # beside one byte a value: the index is FP8, as vLLM keeps it
CONTEXTS = (32_768, 131_072, 524_288)


class Sessions(Struct, frozen=True):
    """Of one length, on one engine."""

    context: int  # tokens
    sequences: float  # that fit at once; whole ones are what counts
    gb: float  # of each one, all GPUs of its rank together [1e9 B]


class Size(Struct, frozen=True, kw_only=True):
    """The sums of one engine. GB are 1e9 B, GiB 2^30 B."""

    model: str
    parameters_b: float  # [1e9]
    active_b: float  # that one token uses [1e9]
    source: str  # of what is known of the model
    gpu: str
    layout: Layout
    precision: str
    kv_precision: str
    utilisation: float
    memory_gib: float  # of each GPU, as far as it is usable
    held: Held  # of each GPU
    kv_gb: float  # space for KV, all GPUs together
    kv_token_bytes: float  # growth per token of context, all GPUs together, copies counted
    state_mb: float  # per running sequence, whatever its length, all GPUs together [1e6 B]
    tokens: int  # of growing KV alone, states and windows left aside; 0 = none fits, or no layer's KV grows
    sessions: list[Sessions]
    headroom: float | None = None  # of the space, with so many sessions of the first length; below 0 = too many
    refusal: str = ""  # why it cannot start; the sums are then those of what is missing
    notes: list[str] = []
    confidence: str = "estimated"


def size(
    model: Model,
    gpu: Gpu,
    layout: Layout,
    precision: Precision,
    kv_precision: str = "bf16",
    contexts: Sequence[int] = CONTEXTS,
    sessions: int = 0,
    utilisation: float = UTILISATION,
    max_num_seqs: int | None = None,
    kv_gb: float | None = None,
) -> Size:
    """sessions: for the headroom; kv_gb: take this space for KV [1e9 B, all GPUs together], whatever the GPUs leave."""
    parts = held(model, gpu, layout, precision, utilisation, max_num_seqs)
    room_gib = parts.kv if kv_gb is None else kv_gb * 1e9 / GIB / layout.gpus
    byte = KV_BYTES[kv_precision]
    ranks = layout.gpus // layout.dp  # GPUs that hold one sequence
    growing = kv_bytes_per_token(model, layout.tp, byte) / layout.dcp / layout.pp
    state = context_bytes(model, layout, 0, byte)
    found = [
        Sessions(context, sequences(model, layout, room_gib, context, byte), ranks * per_gpu / 1e9)
        for context in contexts
        for per_gpu in (context_bytes(model, layout, context, byte),)
    ]
    return Size(
        model=model.name,
        parameters_b=model.parameters_b,
        active_b=model.active_b,
        source=model.source,
        gpu=gpu.name,
        layout=layout,
        precision=precision.value,
        kv_precision=kv_precision,
        utilisation=utilisation,
        memory_gib=gpu.memory_gib * utilisation,
        held=parts,
        kv_gb=max(0.0, room_gib) * GIB * layout.gpus / 1e9,
        kv_token_bytes=growing * ranks,
        state_mb=state * ranks / 1e6,
        tokens=int(max(0.0, room_gib) * GIB * layout.dp / growing) if growing else 0,
        sessions=found,
        headroom=1 - sessions / found[0].sequences if sessions and found and found[0].sequences else None,
        refusal=_refusal(model, gpu, layout, precision, utilisation, parts) if kv_gb is None else "",
        notes=_notes(
            model, gpu, layout, kv_precision, max_num_seqs, parts, state * ranks / 1e6, max(contexts, default=0)
        ),
    )


def _refusal(model: Model, gpu: Gpu, layout: Layout, precision: Precision, utilisation: float, parts: Held) -> str:
    if parts.kv > 0:
        return ""
    usable = gpu.memory_gib * utilisation
    what = "weights do not fit" if parts.weights >= usable else "weights fit, but nothing is left for KV"
    each = "each GPU" if layout.gpus > 1 else f"one {gpu.name}"
    sums = (
        f"{parts.weights:.1f} GiB of {precision} weights and {parts.activation + parts.other:.1f} GiB of working memory"
    )
    return f"{what}: {sums} on {each}, usable are {usable:.1f} of {gpu.memory_gib:.1f} GiB; {_instead(model, gpu, utilisation)}"


def _instead(model: Model, gpu: Gpu, utilisation: float) -> str:
    """The fewest of these GPUs that hold it, in each precision."""
    ways = []
    for precision in (Precision.BF16, Precision.FP8, Precision.FP4):
        for tp in (1, 2, 4, 8):
            layout = Layout(tp=tp, expert_parallel=bool(model.experts) and tp > 1)
            if model.heads % tp == 0 and held(model, gpu, layout, precision, utilisation).kv > 0:
                ways.append(f"{tp} in {precision}")
                break
    return f"GPUs that hold it: {', '.join(ways)}" if ways else "eight of them do not hold it in any precision"


def _notes(
    model: Model,
    gpu: Gpu,
    layout: Layout,
    kv_precision: str,
    max_num_seqs: int | None,
    parts: Held,
    state_mb: float,
    longest: int,
) -> list[str]:
    """What the sums leave out, and what is easily taken for something else."""
    notes = []
    if model.linear_state_mb:
        running = max_num_seqs or default_limits(gpu)[0]
        notes.append(
            f"linear layers keep {state_mb:.0f} MB for each running sequence, however short: the engine's limit of "
            f"{running:,} sequences alone would take {running * state_mb / 1e3:.0f} GB, so that tokens tell the capacity "
            f"only for few long sequences"
        )
    if model.kept_share < 1:
        notes.append(
            f"one vector stands for several tokens: {model.kept_share:.1%} of the context is kept, and all of the last "
            f"{model.window:,} tokens"
        )
    elif model.window_layers:
        notes.append(
            f"{model.window_layers} layers keep the last {model.window:,} tokens only; counted once a sequence"
        )
    copies = layout.tp if model.latent else layout.tp / model.kv_heads
    if copies / layout.dcp > 1:
        notes.append(
            f"TP={layout.tp} keeps the KV {copies / layout.dcp:g} times; decode context parallelism would share it"
        )
    if model.index_width:
        each = round((model.index_width + INDEX_SCALE_BYTES) * model.attention_layers * model.kept_share)
        share = each / kv_bytes_per_token(model, 1, KV_BYTES[kv_precision])
        notes.append(
            f"sparse attention keeps an index of about {each:,} B a token beside the KV, which is in no figure here: "
            f"{share / (1 + share):.0%} fewer tokens fit"
        )
    if model.context and longest > model.context:
        notes.append(too_long(model, longest))
    if kv_precision == "fp4":
        notes.append("FP4 KV is counted with its scales: 4.5 bits a value; not every engine and GPU has it")
    if parts.kv > 0:
        notes.append(
            "published sums often leave out working memory, which the engine measures as it starts and keeps free"
        )
    return notes
