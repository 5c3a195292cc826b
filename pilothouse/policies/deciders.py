"""Deciders: whether a prompt is computed by a prefill endpoint and its KV handed to the decode endpoint."""

from typing import ClassVar

from pilothouse.core.commands import Split
from pilothouse.core.events import Arrived
from pilothouse.core.fleet import FIRST_STEPS
from pilothouse.core.policy import Decider, Side, deciders
from pilothouse.core.units import Micros

OVERTAKEN = 4  # requests held for an endpoint that are more than so many times as long let this one pass


@deciders.register("pays")
class Pays(Decider, frozen=True):
    """Splits when everybody together is better off. Compared are, all in one place and split:

    own      time until the first token: prefill queued before it, its own, and for a split the handover
    others   what its prefill takes from others, weighed by `others`: whoever decodes in the same place pauses for as
             long as it lasts, and so do those who come to wait behind it, as many as are expected to wait there now

    With `others` 1 what counts is the mean time to the last token over all requests, with 0 the request's own first
    token. Short prompts and those that are cached at the decode endpoint stay whole where few decode, and so does what
    the prefill pool has no time for; where many decode, even short prompts are computed elsewhere. The default is a
    little below 1, so that first tokens stay in time when both pools are full: chosen on `benchmarks/pd_decider.py`, one
    value for all its workloads and fleets.
    Signals: KV index, in-flight ledger, learned speeds and handover times (all current).
    Source of the form: marginal cost of a job in a shared server, as `marginal_cost`.
    """

    name: ClassVar[str] = "pays"
    uses_speeds: ClassVar[bool] = True

    others: float = 0.7
    margin_us: Micros = Micros(0)  # by which splitting has to win

    def __post_init__(self) -> None:
        if not 0 <= self.others < 1e6:
            raise ValueError("others must lie between 0 and a million")

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        local_us, remote_us = _times_us(arrived, whole, prefill, handover_us)
        spared_us = self.others * (_taken_us(arrived, whole) - _taken_us(arrived, prefill))
        split = remote_us + self.margin_us < local_us + spared_us
        name = decode.endpoint.id if split else whole.endpoint.id
        less = "less" if spared_us > 0 else "more"
        others = f", and others wait {abs(spared_us) / 1000:.0f} ms {less}" if abs(spared_us) >= 1000 else ""
        reason = (
            f"first token after {remote_us / 1000:.0f} ms by {prefill.endpoint.id} and {decode.endpoint.id}{others}, "
            f"{local_us / 1000:.0f} ms by {whole.endpoint.id} alone: {'split' if split else 'whole'} at {name}"
        )
        return Split(self.name, split, reason, int(local_us), int(remote_us), handover_us)


@deciders.register("always")
class Always(Decider, frozen=True):
    """Splits every request that can be. With no prefill endpoint for it, `fallback` decides: `local` serves it whole,
    `error` refuses it after the time that requests may wait for an endpoint."""

    name: ClassVar[str] = "always"

    fallback: str = "local"

    def __post_init__(self) -> None:
        if self.fallback not in ("local", "error"):
            raise ValueError("fallback must be local or error")

    @property
    def required(self) -> bool:
        return self.fallback == "error"

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        return Split(self.name, True, "every prompt is computed by a prefill endpoint", 0, 0, handover_us)


@deciders.register("never")
class Never(Decider, frozen=True):
    """Splits nothing: prefill endpoints stay idle."""

    name: ClassVar[str] = "never"

    def keeps(self, whole: Side) -> str:
        return "no prompt is computed elsewhere"


@deciders.register("threshold")
class Threshold(Decider, frozen=True):
    """Splits requests with at least so many prompt tokens that the endpoint would have to compute itself."""

    name: ClassVar[str] = "threshold"

    uncached_tokens: int = 512

    def __post_init__(self) -> None:
        if self.uncached_tokens < 0:
            raise ValueError("uncached_tokens must not be negative")

    def keeps(self, whole: Side) -> str:
        uncached, least = whole.uncached_tokens, self.uncached_tokens
        return f"{uncached} tokens to compute, below {least}" if uncached < least else ""

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        reason = f"{whole.uncached_tokens} tokens to compute, at least {self.uncached_tokens}"
        return Split(self.name, True, reason, 0, 0, handover_us)


def _times_us(arrived: Arrived, whole: Side, prefill: Side, handover_us: Micros) -> tuple[float, float]:
    """Until the first token: in one place, and split. The handover includes the decode endpoint's own first step."""
    step_us = FIRST_STEPS * _step_us(whole)
    local_us = _queued_us(whole) + _prefill_us(arrived, whole) + step_us
    remote_us = _queued_us(prefill) + _prefill_us(arrived, prefill) + FIRST_STEPS * _step_us(prefill) + handover_us
    return local_us + whole.load_us, remote_us + prefill.load_us


def _queued_us(side: Side) -> float:
    """Until what stands before it is computed. Who is held at the gateway for the same endpoint is not before it when
    far longer: lines let short ones pass."""
    endpoint, (_, _, _, p, q) = side.endpoint, side.speed.theta
    held = min(endpoint.held_tokens, OVERTAKEN * endpoint.held * side.uncached_tokens)
    return endpoint.slowness * (p * (endpoint.prefill_tokens + held) + q * endpoint.prefill_squares)


def _taken_us(arrived: Arrived, side: Side) -> float:
    """By how much all others there together are later."""
    endpoint = side.endpoint
    waiting = endpoint.in_flight - endpoint.decoding + endpoint.held
    return (endpoint.decoding + waiting) * _prefill_us(arrived, side)


def _prefill_us(arrived: Arrived, side: Side) -> float:
    uncached, (_, _, _, p, q) = side.uncached_tokens, side.speed.theta
    return side.endpoint.slowness * uncached * (p + q * (arrived.prompt_tokens - uncached / 2))


def _step_us(side: Side) -> float:
    endpoint, (a, b, c, _, _) = side.endpoint, side.speed.theta
    return endpoint.slowness * (a + b * endpoint.decoding + c * endpoint.distinct_tokens)
