"""What an engine is asked for, how far it is with it, and what it says."""

from dataclasses import dataclass, field

import msgspec

from pilothouse.core.events import Tier
from pilothouse.core.units import BlockKey, RequestId
from pilothouse.sim.blocks import Node


class Job(msgspec.Struct, frozen=True):
    """What an engine is asked for."""

    request: RequestId
    blocks: list[BlockKey]  # of the prompt's full blocks
    prompt_tokens: int
    output_tokens: int
    output_blocks: list[BlockKey] = []  # of the full blocks that the answer adds; empty = nobody will ask for them
    group: int = 0  # whose token gaps are counted together
    constrained: bool = False  # a grammar binds the answer
    handed: bool = False  # the prompt's KV comes from another engine
    kept: bool = False  # its blocks stay when it ends, until they are fetched


@dataclass(slots=True, eq=False)
class Sequence:
    """A job on the engine. While it decodes, its numbers hold at step `since` and grow with each step."""

    job: Job
    target: int  # tokens to compute before it decodes: the prompt, and after a preemption what it had generated
    generated: int = 0  # output tokens at `since`
    computed: int = 0  # of `target`
    cached: int = 0  # prompt tokens reused at its first admission
    order: int = -1  # of admission
    since: int = -1  # step at which it began to decode; -1 = not yet
    private: int = 0  # blocks, while it prefills
    told_ps: int = 0  # when it had its last token, if it was preempted since
    group: int = 0  # of its gaps; that of its job, or NOBODY
    stride: int = 1  # what it advances in a step, in the engine's parts of a token
    handed: bool = False  # its KV has yet to come from another engine
    there: int = 0  # tokens that count as computed once the KV is here that is on the way
    eligible: int = 0  # step counter from which on it may be scheduled
    node: Node | None = None  # end of its chain of named blocks


@dataclass(slots=True)
class Done:
    """What one step, or jump, brought about."""

    first: list[RequestId] = field(default_factory=list)  # first tokens
    finished: list[tuple[Job, int]] = field(default_factory=list)  # with the prompt tokens that came from the cache
    stored: list[BlockKey] = field(default_factory=list)
    removed: list[BlockKey] = field(default_factory=list)
    lower: list[tuple[Tier, list[BlockKey], list[BlockKey]]] = field(default_factory=list)  # the same of lower tiers


class Load(msgspec.Struct, frozen=True):
    """What the engine's metrics would say."""

    running: int
    waiting: int
    kv_used_ratio: float
    drafted_tokens: int = 0  # since it started
    accepted_tokens: int = 0  # of those

    def since(self, last: "Load | None") -> tuple[int, int]:
        """(drafted, accepted) tokens since the one before; a counter that has gone back began anew."""
        if last is None or self.drafted_tokens < last.drafted_tokens:
            return self.drafted_tokens, self.accepted_tokens
        return self.drafted_tokens - last.drafted_tokens, max(0, self.accepted_tokens - last.accepted_tokens)
