"""Everything the dispatcher can ask for. A refusal is a command with a reason, not an exception."""

from enum import StrEnum

import msgspec

from pilothouse.core.units import EndpointId, Micros, RequestId


class RejectReason(StrEnum):
    """Why a request gets no engine. `serving/status.py` makes it HTTP."""

    UNKNOWN_MODEL = "unknown_model"  # no endpoint lists it
    NO_ENDPOINT = "no_endpoint"  # none healthy, and none came back in time
    BUSY = "busy"  # every engine refused: their queues are full
    TOO_MANY_WAITING = "too_many_waiting"  # the gateway's own waiting room is full
    RETRIES_EXHAUSTED = "retries_exhausted"  # attempts or retry budget used up
    NO_PREFILL = "no_prefill"  # it must be split, and no prefill endpoint is there for it
    PINNED_GONE = "pinned_gone"  # the engine that holds the request's state is not there


class Scored(msgspec.Struct, frozen=True, array_like=True):
    """One candidate of a decision: what was known of it, and what each scorer made of that.

    Tokens are counts; ages are microseconds, None where there never was a report.
    """

    endpoint: EndpointId
    total: float
    scores: list[float]  # aligned with Why.scorers
    cached_tokens: int  # of this prompt, expected in its KV cache
    prefill_tokens: int  # uncached prompt tokens dispatched to it and not yet computed
    in_flight: int  # our requests on it
    reported_running: int | None = None
    reported_waiting: int | None = None
    kv_used_ratio: float | None = None
    report_age_us: Micros | None = None
    lower_tokens: list[int] = []  # of `cached_tokens`, in DRAM, on disk, remote: to be fetched; empty = all in HBM


class Reuse(msgspec.Struct, frozen=True, array_like=True):
    """Whose the tokens in the chosen endpoint's HBM are: a conversation's own, or a beginning that many share."""

    own_tokens: int  # that no other candidate holds
    shared_tokens: int  # before these, that others hold as well
    others: int  # candidates that hold all of the shared ones
    served_by: EndpointId | None = None  # where this conversation was last; None = not known

    def told(self, chosen: EndpointId) -> str:
        """For people."""
        parts = []
        if self.own_tokens:
            holds = "holds this conversation" if self.served_by == chosen else "alone holds more of this prompt"
            beyond = "" if not self.shared_tokens else " beyond the shared prefix"
            parts.append(f"{holds}: {self.own_tokens} tokens{beyond}")
        if self.shared_tokens:
            also = f"also on {self.others} other{'s' if self.others > 1 else ''}"
            parts.append(f"shared prefix: {self.shared_tokens} tokens, {also}")
        if self.served_by not in (None, chosen):
            parts.append(f"this conversation was on {self.served_by} before")
        return "; ".join(parts)


class Split(msgspec.Struct, frozen=True, array_like=True):
    """Whether somebody else computes the prompt, and why. Times are predictions [microseconds]."""

    decider: str
    split: bool
    reason: str
    local_us: int = 0  # until the first token, all in one place
    remote_us: int = 0  # the same with the prefill elsewhere: queue, prefill, transfer
    transfer_us: int = 0  # of that, moving the KV


class Why(msgspec.Struct, frozen=True, array_like=True):
    """The receipt of one choice: every candidate (the best ones of a large fleet), every score, and who was left out."""

    profile: str
    scorers: list[str]
    candidates: list[Scored]  # best first
    considered: int  # candidates scored, more than listed in a large fleet
    left_out: dict[str, int] = {}  # filter -> endpoints it removed
    note: str = ""
    split: Split | None = None  # only where there is a prefill pool
    reuse: Reuse | None = None  # only where something is reused


class Command(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base."""

    request: RequestId


class PrefillStep(msgspec.Struct, frozen=True, array_like=True):
    """Somebody else computes the prompt first, and hands its KV over."""

    endpoint: EndpointId
    url: str
    connector: str
    cached_tokens: int  # expected to be reused there
    why: Why


class Route(Command, frozen=True, tag=True, array_like=True):
    """Send the request there, after `prefill` if there is one. The ledger is charged already, for both."""

    endpoint: EndpointId
    url: str
    attempt: int  # 1 for the first
    cached_tokens: int  # expected to be served from the endpoint's KV cache
    why: Why
    prefill: PrefillStep | None = None


class Reject(Command, frozen=True, tag=True, array_like=True):
    """Answer the client with an error."""

    reason: RejectReason
    retry_after_us: Micros | None = None


class Abort(Command, frozen=True, tag=True, array_like=True):
    """Give up this attempt: the endpoint hangs. If no byte reached the client, answer with `Failed(TIMEOUT, sent=False)`."""

    endpoint: EndpointId


AnyCommand = Route | Reject | Abort
