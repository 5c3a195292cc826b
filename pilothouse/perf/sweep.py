"""What to ask a running engine so that its step time can be told: few trials that differ in one thing at a time.

Decoding: so many sequences of so long a context, each prompt its own; gives a, b, c. Prefill: one prompt of so many
tokens, one token of answer; gives p, q and what a request costs beside its steps. Sharing: sequences that have most of
their context in common; against the same without, it gives rho.
"""

from enum import StrEnum

import msgspec

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)  # sequences
COUNTS_QUICK = (1, 4, 12)
CONTEXT_MAX, CONTEXT_MAX_QUICK = 8192, 2048  # tokens: longer prompts take too long on slow engines
SHORT = 48  # tokens
STEPS = 24  # that are timed in a decoding trial
MARGIN_STEPS = 6  # at its two ends
OWN = 32  # tokens of each prompt that are not shared
CONTEXT_LEAST = 768  # tokens: shorter ones tell context from noise no more
ROUNDS_WANTED = 3
OUTPUT_WEIGHT = 30  # prompt tokens that take as long as one step of decoding, roughly
KV_SHARE = 0.8  # of the cache that one trial may fill: preempted sequences would spoil it


class Kind(StrEnum):
    """What a trial tells."""

    PREFILL = "prefill"
    DECODE = "decode"
    SHARED = "shared"


class Limits(msgspec.Struct, frozen=True):
    """What the engine can do."""

    context: int  # tokens of one sequence
    kv_tokens: int  # of all sequences together; 0 = unknown
    batched_tokens: int  # of one step


class Trial(msgspec.Struct, frozen=True):
    """One question."""

    kind: Kind
    sequences: int
    prompt: int  # tokens of each
    output: int  # tokens of each
    shared: int = 0  # leading tokens of the prompt that all have in common

    @property
    def steps(self) -> int:
        """Timed steps."""
        return 1 if self.kind is Kind.PREFILL else STEPS

    @property
    def title(self) -> str:
        if self.kind is Kind.PREFILL:
            return f"prefill of {self.prompt} tokens"
        common = f", {self.shared} in common" if self.shared else ""
        return f"{self.sequences} decoding, {self.prompt} tokens each{common}"


class Reading(msgspec.Struct, frozen=True):
    """A trial's answer, middle of its repeats."""

    trial: Trial
    us: float  # PREFILL: until the first token; else of one step [microseconds]
    context: float = 0.0  # tokens of all decoding sequences, added up, in the middle of the trial
    distinct: float = 0.0  # the same with what is shared counted once
    repeats: int = 1


def plan(limits: Limits, quick: bool = False) -> list[Trial]:
    """The trials that fit the engine, the cheap ones first."""
    longest = min(CONTEXT_MAX_QUICK if quick else CONTEXT_MAX, limits.context - 4 * STEPS)
    contexts = [SHORT, longest // 2] if quick else [SHORT, longest // 4, longest // 2]
    prompts = [SHORT, longest // 4, longest // 2, longest] if quick else [SHORT, longest // 8, longest // 4,
                                                                          longest // 2, 3 * longest // 4, longest]  # fmt: skip
    trials = [Trial(Kind.PREFILL, 1, prompt, 1) for prompt in sorted(set(prompts)) if prompt >= SHORT]
    counts = COUNTS_QUICK if quick else COUNTS
    trials += [_decoding(count, context, limits) for count in counts for context in contexts]
    several = [count for count in counts if 4 <= count <= 16]
    trials += [_decoding(count, contexts[-1], limits, contexts[-1] - OWN) for count in several[-2:]]
    return [trial for trial in trials if _fits(trial, limits)]


def affordable(limits: Limits, quick: bool, token_us: float, seconds: float) -> Limits:
    """Shorter contexts for a slow engine, so that every trial can be asked `ROUNDS_WANTED` times."""
    while limits.context > CONTEXT_LEAST:
        tokens = sum(trial.prompt * trial.sequences + trial.output * OUTPUT_WEIGHT for trial in plan(limits, quick))
        if tokens * token_us * ROUNDS_WANTED <= seconds * 1e6:
            break
        limits = msgspec.structs.replace(limits, context=int(limits.context * 0.8))
    return limits


def _decoding(count: int, context: int, limits: Limits, shared: int = 0) -> Trial:
    """Long enough that all are decoding while the steps are timed."""
    prefills = count * (context - shared) // limits.batched_tokens + 1
    kind = Kind.SHARED if shared > 0 else Kind.DECODE
    return Trial(kind, count, context, STEPS + MARGIN_STEPS + prefills, max(0, shared))


def _fits(trial: Trial, limits: Limits) -> bool:
    own = trial.prompt - trial.shared + trial.output
    together = trial.shared + trial.sequences * own
    fits_cache = not limits.kv_tokens or together <= KV_SHARE * limits.kv_tokens
    return fits_cache and trial.prompt + trial.output <= limits.context
