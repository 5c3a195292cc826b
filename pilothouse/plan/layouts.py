"""Which ways of spreading an engine over GPUs are worth a closer look, by rules alone; each way with its reason.

The rules, in the order in which they are asked:
1. Quantise first. Of the precisions allowed, the narrowest that the GPU computes in.
2. Tensor parallelism stays within a node, and is the least that holds a copy of the model and leaves room for KV. A
   copy's experts are counted on its own GPUs, although data-parallel ranks share them: what they share is what
   redundant experts, uneven routing and a lost rank need. Latent attention (MLA) is the exception: its KV is the same
   on all tensor-parallel ranks, so that more of them win nothing.
3. More tensor parallelism only where one request alone, on an idle engine, would miss its objectives.
4. Pipeline stages only where a node does not hold the model with room for KV; one stage to a node.
5. The rest of a node is data parallelism: of experts, ranks of one engine that share them (EP = TP x DP of a stage); of
   dense models, engines of their own, which vLLM asks for and which routes better. EPLB waits for a measured imbalance.
6. Decode context parallelism for long contexts, where tensor parallelism would keep the same KV heads several times.
7. Prefill context parallelism for long prompts whose first token would be late. It takes GPUs: TP x PCP to a copy.

source   rules published by vLLM's and llm-d's guides; divisibility as vLLM 0.32 checks it
"""

from collections.abc import Iterator, Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.perf.coefficients import step_time
from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import KV_BYTES, Precision, default_limits
from pilothouse.perf.models import Model
from pilothouse.perf.step_time import step_us
from pilothouse.plan.document import Layout
from pilothouse.plan.memory import UTILISATION, held, sequences

ROOM = 0.25  # of a GPU's memory is left for KV: with less, batches stay so small that weights are read for few tokens
IDLE = 0.5  # of an objective is what one request alone may take: waiting and the batch need the rest
LONG_TOKENS = 128_000  # from here on context parallelism pays, as published


class Needs(Struct, frozen=True, kw_only=True):
    """What the rules look at beside the model and the GPUs. 0 or None = nobody said."""

    prompt_tokens: int = 0  # of a long prompt, one that must still be quick
    context_tokens: int = 0  # of a long sequence at its end
    ttft_s: float | None = None
    tpot_s: float | None = None
    kv_precision: str = "bf16"
    utilisation: float = UTILISATION


class Candidate(Struct, frozen=True):
    """One way, kept or not, and why. Engines are equal; `replicas` of them use what they can of the GPUs."""

    layout: Layout
    replicas: int
    precision: Precision
    kept: bool
    reason: str

    @property
    def data_parallel(self) -> int:
        """Copies of the attention, in one engine or in several."""
        return self.replicas * self.layout.dp

    def __str__(self) -> str:
        return f"{described(self.layout, self.replicas)}, {self.precision}"


class Case(Struct, frozen=True):
    """What all candidates of one question have in common."""

    model: Model
    gpu: Gpu
    gpus: int
    per_node: int
    needs: Needs

    @property
    def nodes(self) -> int:
        return self.gpus // self.per_node


def recommended(
    model: Model, gpu: Gpu, gpus: int, nodes: int = 1, precision: Precision | None = None, needs: Needs | None = None
) -> Candidate | None:
    """What the rules alone choose; None = the model does not fit. precision: None = as `precisions` allows."""
    allowed = () if precision is None else (precision,)
    kept = [c for c in candidates(model, gpu, gpus, nodes, allowed, needs) if c.kept]
    return kept[0] if kept else None


def candidates(
    model: Model, gpu: Gpu, gpus: int, nodes: int = 1, precisions: Sequence[Precision] = (), needs: Needs | None = None
) -> list[Candidate]:
    """All ways with the reasons, those kept first and the rules' own choice before all others."""
    if gpus < 1 or nodes < 1 or gpus % nodes:
        raise ValueError(f"{gpus} GPUs do not make {nodes} equal nodes")
    case = Case(model, gpu, gpus, gpus // nodes, needs or Needs())
    found: list[Candidate] = []
    allowed = tuple(precisions) or usual_precisions(model)
    for precision in allowed:
        wider = _refused_precision(gpu, precision, allowed)
        found += [Candidate(Layout(), 0, precision, False, wider)] if wider else _spread(case, precision)
    return [c for c in found if c.kept] + [c for c in found if not c.kept]


def usual_precisions(model: Model) -> tuple[Precision, ...]:
    """What is allowed where nobody says: as published, and of bf16 also fp8, which costs next to no quality."""
    published = Precision(model.published)
    return (published, Precision.FP8) if published is Precision.BF16 else (published,)


def described(layout: Layout, replicas: int = 1) -> str:
    """`TP=2, DP=4, EP=8`: what is more than one; data parallelism counts engines in."""
    sizes = {"PP": layout.pp, "TP": layout.tp, "DP": replicas * layout.dp, "EP": layout.ep}
    sizes |= {"DCP": layout.dcp, "PCP": layout.pcp}
    return ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1 or name == "TP")


def _refused_precision(gpu: Gpu, precision: Precision, allowed: Sequence[Precision]) -> str:
    native = [p for p in (Precision.FP4, Precision.FP8) if p in allowed and _computes(gpu, p)]
    if native and precision is not native[0]:
        return f"quantise first: {gpu.name} computes in {native[0]}, with less to hold and to read"
    if not native and precision is not Precision.BF16 and Precision.BF16 in allowed:
        return f"{gpu.name} does not compute in {precision}"
    return ""


def _computes(gpu: Gpu, precision: Precision) -> bool:
    return bool(gpu.fp4_tflops if precision is Precision.FP4 else gpu.fp8_tflops)


def _spread(case: Case, precision: Precision) -> list[Candidate]:
    """All layouts in one precision, the rules' choice first."""
    refused: list[Candidate] = []
    tight: list[Candidate] = []  # these hold the model, with little room
    for pp in _powers(case.nodes):
        fitting: list[Candidate] = []
        for tp in _powers(case.per_node):
            layout = _filled(case, Layout(tp=tp, pp=pp))
            way = Candidate(layout, _replicas(case, layout), precision, False, "")
            if why_not := indivisible(case.model, layout) or _too_small(case, layout, precision, 0.0):
                refused.append(replace(way, reason=why_not))
            elif little := _too_small(case, layout, precision, ROOM):
                tight.append(replace(way, reason=little))
            else:
                fitting.append(way)
        if fitting:
            kept, more = _least_tp(case, fitting)
            wide = [] if pp == 1 else _wide(case, precision)
            return [*_with_context(case, kept), *wide, *more, *tight, *refused, *_needless(case, pp, precision)]
    if not tight:
        return refused
    best = min(tight, key=lambda way: (-way.layout.pp * way.layout.tp, way.layout.pp))
    last = replace(best, kept=True, reason=f"nothing leaves more room: {best.reason}")
    return [last, *(way for way in tight if way is not best), *refused]


def _least_tp(case: Case, fitting: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """(kept, refused): from the least TP up to the one that an idle engine needs; the rules' choice first."""
    idle = [_idle(case, way) for way in fitting]
    enough = next((at for at, (share, _) in enumerate(idle) if share <= IDLE), None)
    chosen = idle.index(min(idle)) if enough is None else enough
    room = f"leaves {_room(case, fitting[0])} for KV"
    if not chosen:
        reason = f"least TP that holds the model: {room}" + (f"; {idle[0][1]}" if enough is None else "")
    else:
        reason = f"TP={fitting[0].layout.tp} holds the model, but {idle[0][1]}; here {idle[chosen][1]}"
    kept = [replace(fitting[chosen], kept=True, reason=reason)]
    kept += [
        replace(way, kept=True, reason=f"fewer GPUs to a copy, which {room if not at else 'holds the model'}; {said}")
        for at, (way, (_, said)) in enumerate(zip(fitting[:chosen], idle, strict=False))
    ]
    less = f"TP={fitting[chosen].layout.tp} is enough: more waits for all-reduce and makes fewer copies"
    return kept, [replace(way, reason=less) for way in fitting[chosen + 1 :]]


def _wide(case: Case, precision: Precision) -> list[Candidate]:
    """Experts shared by the ranks of all nodes, instead of stages; where KV does not divide over TP anyway."""
    model = case.model
    for tp in _powers(case.per_node) if model.latent and model.experts else ():
        layout = Layout(tp=tp, dp=case.gpus // tp, expert_parallel=True)
        if not (indivisible(model, layout) or _too_small(case, layout, precision, ROOM)):
            reason = "experts over all nodes instead of stages: needs RDMA between nodes, keeps no stage waiting"
            return [Candidate(layout, 1, precision, True, reason)]
    return []


def _needless(case: Case, enough: int, precision: Precision) -> list[Candidate]:
    reason = "one node holds the model" if enough == 1 else f"{enough} stages hold the model"
    more = [_filled(case, Layout(pp=pp)) for pp in _powers(case.nodes) if pp > enough]
    return [Candidate(wide, 0, precision, False, f"{reason}: more stages only add latency") for wide in more]


def _with_context(case: Case, kept: list[Candidate]) -> list[Candidate]:
    """With context parallelism where the rules ask for it; the plain layout stays as an alternative."""
    first = kept[0]
    chosen, reason = first.layout, ""
    if case.needs.prompt_tokens >= LONG_TOKENS and (case.needs.ttft_s is None or _idle(case, first)[0] > IDLE):
        halved = _prefill_context(case, first)
        if halved is not None:
            chosen, reason = halved, f"PCP=2 for prompts of {case.needs.prompt_tokens:,} tokens"
    if case.needs.context_tokens >= LONG_TOKENS:
        dcp = _decode_context(case, first, chosen)
        if dcp > 1:
            chosen = replace(chosen, dcp=dcp)
            heads = "one latent vector" if case.model.latent else f"{case.model.kv_heads} KV heads"
            why = f"DCP={dcp} as TP={chosen.tp} keeps copies of {heads} of {case.needs.context_tokens:,} tokens"
            reason = f"{reason}; {why}" if reason else why
    if chosen == first.layout:
        return kept
    way = replace(first, layout=chosen, replicas=_replicas(case, chosen), reason=f"{first.reason}; {reason}")
    return [way, *kept]


def _prefill_context(case: Case, way: Candidate) -> Layout | None:
    """Two ranks to a prompt: of the copy's own GPUs where its experts allow, else of twice as many in the node."""
    for tp in (way.layout.tp // 2, way.layout.tp):
        layout = _filled(case, replace(way.layout, tp=tp, pcp=2)) if tp and 2 * tp <= case.per_node else None
        if layout and not (indivisible(case.model, layout) or _too_small(case, layout, way.precision, ROOM)):
            return layout
    return None


def _decode_context(case: Case, way: Candidate, layout: Layout) -> int:
    """2, or more where a sequence would not fit otherwise; 1 where nothing is kept twice. With PCP as its ranks ask."""
    most = layout.tp if case.model.latent else layout.tp // case.model.kv_heads
    sizes = [dcp for dcp in _powers(most) if dcp > 1 and not indivisible(case.model, replace(layout, dcp=dcp))]
    for dcp in sizes:
        wide = replace(layout, dcp=dcp)
        room = held(case.model, case.gpu, wide, way.precision, case.needs.utilisation).kv
        byte = KV_BYTES[case.needs.kv_precision]
        if sequences(case.model, wide, room, case.needs.context_tokens, byte) >= wide.dp:
            return dcp
    return sizes[-1] if sizes else 1


def _filled(case: Case, layout: Layout) -> Layout:
    """With the rest of the node as data-parallel ranks, where ranks share experts; one GPU has nobody to share with."""
    if not case.model.experts:
        return layout
    dp = max(1, case.per_node // (layout.tp * layout.pcp))
    return replace(layout, dp=dp, expert_parallel=layout.tp * layout.pcp * dp > 1)


def _replicas(case: Case, layout: Layout) -> int:
    """Engines that the nodes hold, each with its stages on nodes of their own."""
    return (case.nodes // layout.pp) * (case.per_node // (layout.gpus // layout.pp))


def indivisible(model: Model, layout: Layout) -> str:
    """Why vLLM would not start it."""
    heads, kv_heads, tp = model.heads, model.kv_heads, layout.tp
    if heads % tp:
        return f"{heads} attention heads do not divide by TP={tp}"
    if not model.latent and max(kv_heads, tp) % min(kv_heads, tp):
        return f"{kv_heads} KV heads and TP={tp} do not divide"
    if layout.pp > model.layers:
        return f"{model.layers} layers do not make {layout.pp} stages"
    ranks = (layout.pcp, tp * layout.pcp) if layout.pcp > 1 else tuple(_powers(tp))
    if layout.dcp > 1 and layout.dcp not in ranks:
        return f"DCP={layout.dcp} does not divide the ranks"
    if layout.dcp > 1 and not model.latent and layout.dcp > tp // kv_heads:
        return f"DCP={layout.dcp} shares copies of KV heads, and TP={tp} keeps {max(1, tp // kv_heads)} of each"
    if layout.dcp > 1 and not model.latent and (heads // kv_heads) % layout.dcp:
        return f"{heads // kv_heads} queries to a KV head do not divide by DCP={layout.dcp}"
    return ""


def _too_small(case: Case, layout: Layout, precision: Precision, share: float) -> str:
    """Why a copy of the model does not leave this share of a GPU for KV; "" = it does."""
    copy = layout if case.model.latent else replace(layout, dp=1)
    parts = held(case.model, case.gpu, copy, precision, case.needs.utilisation)
    usable = case.gpu.memory_gib * case.needs.utilisation
    if parts.kv <= 0:
        return (
            f"does not fit: {parts.weights:.1f} GiB of weights and {parts.activation + parts.other:.1f} GiB of working "
            f"memory on each GPU, usable are {usable:.1f}"
        )
    if parts.kv < share * case.gpu.memory_gib:
        return f"weights of {parts.weights:.1f} GiB on each GPU leave {parts.kv:.1f} GiB for KV, under {share:.0%}"
    byte = KV_BYTES[case.needs.kv_precision]
    context = case.needs.context_tokens
    dcp = max(1, layout.tp if case.model.latent else layout.tp // case.model.kv_heads)  # the most there can be
    wide = replace(copy, dp=1, dcp=dcp)
    if context and sequences(case.model, wide, parts.kv, context, byte) < 1:
        return f"KV of one sequence of {context:,} tokens does not fit into {parts.kv:.1f} GiB on each GPU"
    return ""


def _idle(case: Case, way: Candidate) -> tuple[float, str]:
    """What one request alone takes of the tighter objective [share], and in words; 0 where there is none."""
    needs, layout = case.needs, way.layout
    times = step_time(case.model, case.gpu, layout.tp, way.precision)
    found = (0.0, "")
    if needs.ttft_s is not None and needs.prompt_tokens:
        steps = ceil(needs.prompt_tokens / default_limits(case.gpu)[1])
        work_us = step_us(times, 0, 0, chunks=[(needs.prompt_tokens, 0)]) + (steps - 1) * times.a_us
        ttft_s = work_us / layout.pcp / 1e6
        said = f"a prompt of {needs.prompt_tokens:,} tokens alone takes {ttft_s:.2f} s of {needs.ttft_s:g} s"
        found = max(found, (ttft_s / needs.ttft_s, said))
    if needs.tpot_s is not None:
        tpot_s = step_us(times, 1, needs.context_tokens) / 1e6
        said = f"a step alone takes {tpot_s * 1e3:.1f} ms of {needs.tpot_s * 1e3:g} ms"
        found = max(found, (tpot_s / needs.tpot_s, said))
    return found


def _room(case: Case, way: Candidate) -> str:
    parts = held(case.model, case.gpu, way.layout, way.precision, case.needs.utilisation)
    return f"{parts.kv:.0f} of {case.gpu.memory_gib:.0f} GiB"


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4, ... up to `most`."""
    size = 1
    while size <= most:
        yield size
        size *= 2
