"""How long one engine step takes, from a handful of coefficients.

    T = a + b x sequences + c x [(1 - rho) x sum of contexts + rho x distinct contexts]
          + p x prefill tokens + q x sum over chunks of n x (before + n / 2)
          + w_e x E x (1 - (1 - k/E)^tokens)

Whole picoseconds inside: every term but the last is linear in integers, so the sum over many steps has a closed form
that agrees with adding the steps one by one, to the last digit. The last term is constant while the batch is.
"""

from dataclasses import dataclass, field

import msgspec

from pilothouse.core.units import Micros

PS_PER_US = 1_000_000


class StepTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Coefficients of one model on one engine, GPU and parallelism. Zero = not identified, not free.

    accuracy   as its label and `error` say; a and b trade off against each other
    source     `source`, in words
    """

    a_us: float  # per step: weight read, launches, sampling, scheduler
    b_us: float  # per scheduled sequence
    c_ns: float  # per context token of a decoding sequence
    p_us: float  # per prefilled token
    q_ps: float = 0.0  # per squared prefill token
    expert_us: float = 0.0  # per distinct expert touched, all layers together
    experts: int = 0  # per layer; 0 = dense
    experts_per_token: int = 0
    rho: float = 0.0  # share of context reads that follows the distinct resident context
    label: str = "Estimated"  # Measured, or Estimated and how
    source: str = ""
    error: float | None = None  # mean absolute relative error where it was fitted
    error_left_out: float | None = None  # the same for points that the fit had not seen
    deviations: dict[str, float] = {}  # standard error of each coefficient, by name, where it was measured
    request_us: float = 0.0  # what a request takes beside its steps: client, HTTP, scheduling; in no step's time
    sequence_tokens: float = 1.0  # that a decoding sequence has computed in a step: more where drafts are verified

    def __post_init__(self) -> None:
        if min(self.a_us, self.b_us, self.c_ns, self.p_us, self.q_ps, self.expert_us) < 0:
            raise ValueError("coefficients must not be negative")
        if not 0 <= self.rho <= 1:
            raise ValueError("rho must lie between 0 and 1")
        if self.sequence_tokens < 1:
            raise ValueError("sequence_tokens must be at least 1")
        if self.expert_us and not 0 < self.experts_per_token <= self.experts:
            raise ValueError("experts_per_token must lie between 1 and experts")


def distinct_experts(experts: int, per_token: int, tokens: int) -> float:
    """Experts of one layer that so many tokens touch, if each draws uniformly."""
    return experts * (1.0 - (1.0 - per_token / experts) ** tokens) if experts else 0.0


@dataclass(slots=True)
class StepClock:
    """The same coefficients in whole picoseconds, ready for the inner loop."""

    of: StepTime
    parts: int = 1  # in which contexts are told: as many to a token
    a: int = 0
    b: int = 0
    alone: int = 0  # per context token, whoever shares it
    part: int = 0  # the same, per part of a token
    shared: int = 0  # per distinct context token
    p: int = 0
    q: int = 0
    _experts: dict[int, int] = field(default_factory=dict)  # tokens -> time of the experts they touch

    def __post_init__(self) -> None:
        of = self.of
        self.a, self.b, self.p = (round(value * PS_PER_US) for value in (of.a_us, of.b_us, of.p_us))
        self.alone, self.shared = round(of.c_ns * 1000 * (1 - of.rho)), round(of.c_ns * 1000 * of.rho)
        self.part = round(of.c_ns * 1000 * (1 - of.rho) / self.parts)
        self.q = round(of.q_ps)

    def fixed_ps(self, decoding: int, chunks: int = 0, prefill_tokens: int = 0, prefill_squares: int = 0) -> int:
        """All terms but the context's. `prefill_squares`: sum over chunks of n x (2 x before + n) [tokens²]."""
        time_ps = self.a + self.b * (decoding + chunks) + self.p * prefill_tokens + self.q * prefill_squares // 2
        if not self.of.expert_us:
            return time_ps
        return time_ps + self.experts_ps(round(decoding * self.of.sequence_tokens) + prefill_tokens)

    def experts_ps(self, tokens: int) -> int:
        found = self._experts.get(tokens)
        if found is None:
            of = self.of
            found = round(of.expert_us * distinct_experts(of.experts, of.experts_per_token, tokens) * PS_PER_US)
            self._experts[tokens] = found
        return found

    def context_ps(self, sum_context: int, distinct_context: int) -> int:
        """`sum_context` in parts of a token, `distinct_context` in tokens."""
        return self.part * sum_context + self.shared * distinct_context


def step_us(
    coefficients: StepTime,
    decoding: int,
    sum_context: int,
    distinct_context: int | None = None,
    chunks: list[tuple[int, int]] | None = None,
) -> Micros:
    """Time of one engine step.

    decoding           sequences that decode [count]
    sum_context        context of the decoding sequences, added up [tokens]
    distinct_context   the same with shared blocks counted once [tokens]; None = nothing is shared
    chunks             prefills in this step: (tokens computed, tokens of context before them)
    returns            microseconds, at least 1, rounded up
    ignores            gaps between steps, jitter between ranks
    """
    clock, parts = StepClock(coefficients), chunks or []
    squares = sum(n * (2 * before + n) for n, before in parts)
    time_ps = clock.fixed_ps(decoding, len(parts), sum(n for n, _ in parts), squares)
    time_ps += clock.context_ps(sum_context, sum_context if distinct_context is None else distinct_context)
    return Micros(max(1, -(-time_ps // PS_PER_US)))
