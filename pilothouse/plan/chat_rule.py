"""The published rule of thumb for chat with prefill and decode apart, beside what our sums say, and why they differ.

The rule: a H100 of prefill to about 30 requests/s of 800 + 200 tokens, an L40S-class GPU of decode to about 150
sessions, one to three, up to one to five. It names no model and no objective.
"""

from collections.abc import Callable

from msgspec import Struct

from pilothouse.perf.coefficients import step_time
from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import KV_BYTES, Precision, default_limits
from pilothouse.perf.models import Model
from pilothouse.perf.step_time import step_us
from pilothouse.plan.document import Layout
from pilothouse.plan.memory import held, sequences

PROMPT, OUTPUT = 800, 200  # tokens
REQUESTS_PER_S, SESSIONS, DECODERS = 30.0, 150, (3, 5)  # of the rule: to one prefill GPU, to one decode GPU, ratio


class Chat(Struct, frozen=True, kw_only=True):
    """Ours, for one model. Estimated."""

    requests_per_s: float  # that one prefill GPU computes without a pause
    sequences_kv: float  # that the KV of one decode GPU holds
    sequences_tpot: int  # that it decodes within the objective
    running: float  # sequences that decode at once, at the rule's rate
    decoders: float  # decode GPUs to one prefill GPU at the rule's rate
    differences: list[str]


def chat(
    model: Model, prefill: Gpu, decode: Gpu, precision: Precision, kv_precision: str = "bf16", tpot_s: float = 0.05
) -> Chat:
    """tpot_s: the objective of a decode step [s]."""
    fast, slow = step_time(model, prefill, 1, precision), step_time(model, decode, 1, precision)
    prompts = default_limits(prefill)[1] // PROMPT  # to a step
    rate = prompts / (step_us(fast, 0, 0, chunks=[(PROMPT, 0)] * prompts) / 1e6)
    context = PROMPT + OUTPUT / 2  # of a sequence on average
    room = held(model, decode, Layout(), precision).kv
    by_kv = sequences(model, Layout(), room, context, KV_BYTES[kv_precision])
    by_tpot = _most(lambda n: step_us(slow, n, round(n * context)) <= tpot_s * 1e6)
    most = min(by_kv, by_tpot)
    each_s = OUTPUT * (step_us(slow, max(1, int(most)), round(most * context)) / 1e6)
    running = REQUESTS_PER_S * each_s
    decoders = running / most if most else float("inf")
    full = [decoders / ratio for ratio in DECODERS]
    prefill_why = (
        f"prefill: {REQUESTS_PER_S:g} requests/s keep the GPU busy {REQUESTS_PER_S / rate:.0%} of the time with this model; "
        "the rule leaves the rest to queues that keep first tokens quick, and to larger models"
    )
    decode_why = (
        f"decode: {running:.0f} sequences run at that rate, so that {DECODERS[0]} to {DECODERS[1]} GPUs are "
        f"{full[0]:.0%} to {full[1]:.0%} full; the rule's sessions also keep KV while their users read and type"
    )
    return Chat(
        requests_per_s=rate, sequences_kv=by_kv, sequences_tpot=by_tpot, running=running,
        decoders=decoders, differences=[prefill_why, decode_why],
    )  # fmt: skip


def _most(holds: Callable[[int], bool]) -> int:
    """The largest number for which it holds, found by doubling and halving; 0 = for none."""
    low, high = 0, 1
    while holds(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
