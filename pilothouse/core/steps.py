"""The prefill of a split request, done by somebody else: charged there like a request of its own, until it is done."""

from dataclasses import dataclass

import msgspec

from pilothouse.core.choosing import Plan
from pilothouse.core.commands import PrefillStep
from pilothouse.core.fleet import Endpoint, Fleet
from pilothouse.core.kvindex import KvIndex
from pilothouse.core.request import Request
from pilothouse.core.units import Micros, RequestId


@dataclass(slots=True)
class Steps:
    """Keeps ledger and index right about prefills that others do."""

    fleet: Fleet
    index: KvIndex

    def begin(self, request: Request, plan: Plan, now_us: Micros) -> PrefillStep | None:
        """Charges it to its endpoint; None for a request that is served whole."""
        request.step, request.handed_at_us = None, Micros(0)
        first, arrived = plan.prefill, request.arrived
        if first is None:
            return None
        seen = first.endpoint.seen
        part = msgspec.structs.replace(arrived, request=RequestId(f"{arrived.request}/prefill"), stream=True)
        request.step, request.splits = Request(part, loads=first.load_us > 0), request.splits + 1
        request.handed_tokens, request.handed_by = arrived.prompt_tokens - plan.choice.cached_tokens, seen.endpoint
        self.fleet.charge(request.step, first.endpoint, first.uncached_tokens, now_us)
        self.index.routed(part.request, seen.endpoint, arrived.blocks, now_us, arrived.block_size)
        return PrefillStep(seen.endpoint, seen.url, seen.connector, first.cached_tokens, first.why)

    def done(self, request: Request, now_us: Micros) -> Endpoint | None:
        """The prompt is computed, its KV about to be fetched."""
        step = request.step
        assert step is not None and not request.handed_at_us, f"request {request.arrived.request} has no prefill to end"
        request.handed_at_us = now_us
        self.fleet.prefilled(step, now_us, seen=True)
        self.index.ended(step.arrived.request, now_us, computed=True)
        return self.fleet.release(step, now_us)

    def drop(self, request: Request, now_us: Micros) -> Endpoint | None:
        """The attempt is over. Returns who was still at its prefill, if anybody was."""
        step = request.step
        if step is None or request.handed_at_us:
            return None
        self.index.ended(step.arrived.request, now_us, computed=False)
        return self.fleet.release(step, now_us)
