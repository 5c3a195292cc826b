"""Deciders: whether a prompt is computed by a prefill endpoint and its KV handed to the decode endpoint."""

from typing import ClassVar

from pilothouse.core.commands import Split
from pilothouse.core.events import Arrived
from pilothouse.core.fleet import FIRST_STEPS
from pilothouse.core.policy import Decider, Side, deciders
from pilothouse.core.units import Micros


@deciders.register("pays")
class Pays(Decider, frozen=True):
    """Splits when everybody together is better off. Compared are the times until the first token, all in one place (the
    prefill queued there, its own) and split (queue and prefill at the prefill endpoint, then the handover), and what
    either does to others: whoever decodes where a prompt is computed waits `stall_share` of that time. Short prompts and
    those that are cached at the decode endpoint therefore stay whole, as do all when the prefill pool is the busier one.
    Signals: KV index, in-flight ledger, learned speeds and handover times (all current).
    """

    name: ClassVar[str] = "pays"
    uses_speeds: ClassVar[bool] = True

    stall_share: float = 0.3
    margin_us: Micros = Micros(0)  # by which splitting has to win

    def __post_init__(self) -> None:
        if not 0 <= self.stall_share <= 1:
            raise ValueError("stall_share must lie between 0 and 1")

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        local_us, remote_us = _times_us(arrived, whole, prefill, handover_us)
        stalled_us = self.stall_share * whole.endpoint.decoding * _prefill_us(arrived, whole)
        stalled_us -= self.stall_share * prefill.endpoint.decoding * _prefill_us(arrived, prefill)
        split = remote_us + self.margin_us < local_us + stalled_us
        name = whole.endpoint.id if not split else decode.endpoint.id
        others = f", and others wait {stalled_us / 1000:.0f} ms less" if stalled_us >= 1000 else ""
        reason = (
            f"first token after {remote_us / 1000:.0f} ms by {prefill.endpoint.id} and {decode.endpoint.id}, "
            f"{local_us / 1000:.0f} ms by {whole.endpoint.id} alone{others}: {'split' if split else 'whole'} at {name}"
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

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        return Split(self.name, False, "no prompt is computed elsewhere", 0, 0, handover_us)


@deciders.register("threshold")
class Threshold(Decider, frozen=True):
    """Splits requests with at least so many prompt tokens that the endpoint would have to compute itself."""

    name: ClassVar[str] = "threshold"

    uncached_tokens: int = 512

    def __post_init__(self) -> None:
        if self.uncached_tokens < 0:
            raise ValueError("uncached_tokens must not be negative")

    def decide(self, arrived: Arrived, whole: Side, prefill: Side, decode: Side, handover_us: Micros) -> Split:
        uncached = whole.uncached_tokens
        split = uncached >= self.uncached_tokens
        reason = f"{uncached} tokens to compute, {'at least' if split else 'below'} {self.uncached_tokens}"
        return Split(self.name, split, reason, 0, 0, handover_us)


def _times_us(arrived: Arrived, whole: Side, prefill: Side, handover_us: Micros) -> tuple[float, float]:
    """Until the first token: in one place, and split. The handover includes the decode endpoint's own first step."""
    step_us = FIRST_STEPS * _step_us(whole)
    local_us = _queued_us(whole) + _prefill_us(arrived, whole) + step_us
    remote_us = _queued_us(prefill) + _prefill_us(arrived, prefill) + FIRST_STEPS * _step_us(prefill) + handover_us
    return local_us + whole.load_us, remote_us + prefill.load_us


def _queued_us(side: Side) -> float:
    endpoint, (_, _, _, p, q) = side.endpoint, side.speed.theta
    return endpoint.slowness * (p * (endpoint.prefill_tokens + endpoint.held_tokens) + q * endpoint.prefill_squares)


def _prefill_us(arrived: Arrived, side: Side) -> float:
    uncached, (_, _, _, p, q) = side.uncached_tokens, side.speed.theta
    return side.endpoint.slowness * uncached * (p + q * (arrived.prompt_tokens - uncached / 2))


def _step_us(side: Side) -> float:
    endpoint, (a, b, c, _, _) = side.endpoint, side.speed.theta
    return endpoint.slowness * (a + b * endpoint.decoding + c * endpoint.distinct_tokens)
