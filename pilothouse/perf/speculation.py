"""Speculative decoding: tokens that a step yields, what drafting and verifying cost, and when that pays.

A step drafts `draft_tokens` tokens for each sequence; the target computes them all in one step, and keeps those up to
the first that it would not have said, and one of its own. In a small batch the step reads weights anyway, so a few
tokens more are nearly free; in a large one each costs what any computed token costs, and the gain shrinks, for poor
drafts below 1. Costs are a transformation of the target's `StepTime`: a simulated engine needs nothing else.

ignores    acceptance that varies between sequences and with the position in an answer; KV slots of drafted tokens; that
           drafts which a grammar forbids are dropped before they are verified, so bound requests look dearer than they are
accuracy   published speed-ups on H100 within 15 % on step times that were measured there, and 25 % on the priors, which
           overrate large batches: `tests/perf/test_perf_speculation.py`
source     Leviathan et al., Fast Inference from Transformers via Speculative Decoding, ICML 2023
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import Precision, kv_bytes_per_token
from pilothouse.perf.models import Model
from pilothouse.perf.priors import CONSTANTS, kv_read_ns, layers_us, peak_tflops
from pilothouse.perf.step_time import StepTime, step_us

BENCH = "Liu et al., Speculative Decoding: Performance or Illusion?, arXiv 2601.11580 (vLLM, H100)"
PASS_US = (
    150.0  # of one draft pass beside its reads: what BENCH's fit of EAGLE on Llama-3.1-8B leaves, 2.1 ms for three
)
LOOKUP = 0.006  # time of a step that looking drafts up takes: BENCH, n-gram
EAGLE_VOCAB = 32_000  # tokens that published EAGLE-3 heads can draft
DRAFT_TOKENS_MAX = 32
BATCH_MAX = 4096  # beyond it no engine batches


class Method(StrEnum):
    """Who drafts. Names are those of vLLM's `--speculative-config`."""

    EAGLE3 = "eagle3"  # a trained layer on the target's hidden states; EAGLE-3.1 runs under this name too
    MTP = "mtp"  # the prediction head that the model was trained with
    DRAFT_MODEL = "draft_model"  # a smaller model of the family
    NGRAM = "ngram"  # what followed the same tokens earlier in this request
    MEDUSA = "medusa"  # several heads, each for one position, at once
    SUFFIX = "suffix"  # as ngram, also from earlier answers


LOOKS_UP = (Method.NGRAM, Method.SUFFIX)


def method_named(told: str) -> Method | None:
    """By what engines call it: `eagle3`, `deepseek_mtp`, ...; None = none that is known here."""
    word = told.lower()
    if "mtp" in word or word == "nextn":
        return Method.MTP
    return next((method for method in Method if word in (method, f"{method}_gpu")), None)


class Speculation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an engine speculates, and how well."""

    method: Method
    draft_tokens: int  # per sequence and step
    acceptance: float  # chance that a drafted token is kept if those before it were
    constrained: float = 0.0  # the same for answers that a grammar binds
    drafted: float = 1.0  # share of steps with a draft: lookups do not always find one

    def __post_init__(self) -> None:
        if not 1 <= self.draft_tokens <= DRAFT_TOKENS_MAX:
            raise ValueError(f"draft_tokens must be 1 to {DRAFT_TOKENS_MAX}")
        if not all(0 <= share <= 1 for share in (self.acceptance, self.constrained, self.drafted)):
            raise ValueError("acceptance, constrained and drafted must lie between 0 and 1")

    def tokens(self, *, constrained: bool = False) -> float:
        """Expected tokens of one step of one sequence, from 1 to draft_tokens + 1."""
        rate = self.constrained if constrained else self.acceptance
        return 1.0 + self.drafted * (expected_tokens(rate, self.draft_tokens) - 1.0)

    def variance(self) -> float:
        """Of the tokens of one step."""
        squares = sum((2 * i + 1) * self.acceptance**i for i in range(self.draft_tokens + 1))
        return 1.0 + self.drafted * (squares - 1.0) - self.tokens() ** 2


def expected_tokens(acceptance: float, draft_tokens: int) -> float:
    """Mean of a geometric distribution cut off behind the last draft, the target's own token included."""
    return sum(acceptance**i for i in range(draft_tokens + 1))


def acceptance_of(tokens: float, draft_tokens: int) -> float:
    """The constant acceptance that gives so many tokens per step: undoes `expected_tokens`."""
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, draft_tokens) < tokens else (low, middle)
    return (low + high) / 2


def acceptance_counted(drafted_tokens: int, accepted_tokens: int, draft_tokens: int) -> float:
    """From an engine's counters. They count every drafted token, also those behind the first wrong one."""
    return acceptance_of(1.0 + draft_tokens * accepted_tokens / drafted_tokens, draft_tokens)


# Cost


def speculative(target: StepTime, draft: StepTime | None, speculation: Speculation) -> StepTime:
    """Step times of the target with drafting and verification in them.

    draft      one pass of who drafts (`draft_pass`, or a whole model's step time); None = drafts are looked up
    """
    verified = speculation.draft_tokens * speculation.drafted  # per sequence, beside the token there is anyway
    shared_ns = target.c_ns * target.rho
    a_us, b_us = target.a_us * (1.0 + LOOKUP), target.b_us + verified * target.p_us
    alone_ns, p_us, q_ps = target.c_ns - shared_ns + verified * target.q_ps / 1000, target.p_us, target.q_ps
    if draft is not None:
        passes = 1 if speculation.method is Method.MEDUSA else speculation.draft_tokens
        a_us, b_us = target.a_us + passes * draft.a_us, b_us + passes * draft.p_us
        alone_ns, p_us, q_ps = alone_ns + passes * draft.c_ns, p_us + draft.p_us, q_ps + draft.q_ps
    return msgspec.structs.replace(
        target,
        a_us=a_us,
        b_us=b_us,
        c_ns=alone_ns + shared_ns,
        p_us=p_us,
        q_ps=q_ps,
        rho=shared_ns / (alone_ns + shared_ns) if alone_ns + shared_ns else 0.0,
        sequence_tokens=1.0 + verified,
        source=f"{target.source}; with {speculation.method} of {speculation.draft_tokens} tokens, Estimated",
    )


def draft_pass(method: Method, model: Model, gpu: Gpu, tp: int, draft_tokens: int) -> StepTime | None:
    """One pass of a head on top of `model`; None where nothing is computed. A draft model is asked like any model."""
    if method in LOOKS_UP:
        return None
    assert method is not Method.DRAFT_MODEL, "a draft model's steps are those of a model"
    layer, head = head_parameters(method, model)
    count = draft_tokens if method is Method.MEDUSA else 1
    read_us = 2.0 * count * (layer + head) / (tp * gpu.bandwidth_tbps * 1e6)
    reached = CONSTANTS.prefill_blackwell if gpu.blackwell else CONSTANTS.prefill
    compute_us = reached * 2.0 * count * layer / (tp * peak_tflops(gpu, Precision.BF16) * 1e6)
    attends = method is not Method.MEDUSA
    return StepTime(
        a_us=CONSTANTS.weights * read_us + layers_us(model, gpu, Precision.BF16) / model.layers + PASS_US,
        b_us=0.0,
        c_ns=CONSTANTS.kv * kv_read_ns(model, gpu, tp) / max(1, model.attention_layers) if attends else 0.0,
        p_us=compute_us,
        label="Estimated (prior)",
        source=f"one {method} pass on {model.name}: weights of a layer and a head read, {PASS_US:g} us beside ({BENCH})",
    )


def head_parameters(method: Method, model: Model) -> tuple[float, float]:
    """(a pass's layer, its output head) [weights]."""
    hidden = model.hidden
    if method is Method.MEDUSA:
        return float(hidden * hidden), float(hidden * model.vocab)
    if method is Method.MTP:
        return model.active_b * 1e9 / model.layers, float(hidden * model.vocab)
    attention = 2 * hidden * (model.heads + model.kv_heads) * model.head_dim
    return attention + 3.0 * hidden * (model.intermediate or 4 * hidden), float(hidden * min(EAGLE_VOCAB, model.vocab))


def memory_bytes(method: Method, model: Model, tp: int, draft_tokens: int, draft: Model | None) -> tuple[float, float]:
    """What it takes per GPU: (weights, KV per token of context) [bytes]. Weights in 16 bits; MTP's are in the model."""
    if method in LOOKS_UP:
        return 0.0, 0.0
    if draft is not None:
        return 2e9 * draft.parameters_b / tp, kv_bytes_per_token(draft, tp)
    layer, head = head_parameters(method, model)
    kv = 0.0 if method is Method.MEDUSA else kv_bytes_per_token(model, tp) / max(1, model.attention_layers)
    if method is Method.MTP:  # a whole layer with its experts; embedding and head are the target's
        return 2e9 * model.parameters_b / model.layers / tp, kv
    return 2.0 * (layer + head) * (draft_tokens if method is Method.MEDUSA else 1) / tp, kv


# Gain


def gain(
    target: StepTime,
    with_drafts: StepTime,
    speculation: Speculation,
    batch: int,
    context: int,
    constrained: float = 0.0,
) -> float:
    """How many times as fast answers grow in a batch that only decodes; below 1 speculation costs.

    context      of each sequence [tokens]
    constrained  share of the output tokens that a grammar binds
    """
    free = speculation.tokens() / _step_us(with_drafts, batch, context) * _step_us(target, batch, context)
    bound = speculation.tokens(constrained=True) / speculation.tokens() * free
    return 1.0 / ((1.0 - constrained) / free + constrained / bound)  # by tokens: time per token adds up


def vanishes_at(gain_at: Callable[[int], float]) -> int | None:
    """The smallest batch, within 5 %, at which speculation is no gain; None if there is none. With experts the gain may
    come back beyond it: once all are read anyway, more tokens touch no more of them."""
    batch = 1
    while batch <= BATCH_MAX:
        if gain_at(batch) <= 1.0:
            return batch
        batch = max(batch + 1, batch * 21 // 20)
    return None


def _step_us(times: StepTime, batch: int, context: int) -> float:
    return step_us(times, batch, batch * context)
