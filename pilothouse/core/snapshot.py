"""The dispatcher's whole state as bytes, so that a segment of a long journal can be replayed by itself."""

from typing import TYPE_CHECKING

import msgspec

from pilothouse.core.fleet import Endpoint
from pilothouse.core.handover import Handover
from pilothouse.core.kvstate import IndexState
from pilothouse.core.request import Request
from pilothouse.core.retries import RetryBudget
from pilothouse.core.speed import Lengths, Speed
from pilothouse.core.units import EndpointId, Micros, RequestId

if TYPE_CHECKING:
    from pilothouse.core.dispatcher import Dispatcher


class DispatcherState(msgspec.Struct, frozen=True):
    """Everything `handle` reads or writes, except settings and profile. Lists keep their order."""

    now_us: Micros
    turns: dict[str, int]
    policy_failures: int
    endpoints: list[Endpoint]
    releases: list[tuple[Micros, RequestId, int]]
    requests: list[Request]
    waiting: list[RequestId]
    sessions: list[tuple[int, EndpointId]]
    retries: RetryBudget
    index: IndexState
    decisions: int = 0
    speeds: dict[str, Speed] = {}
    lengths: Lengths = msgspec.field(default_factory=Lengths)
    handovers: dict[str, Handover] = {}


def save(dispatcher: "Dispatcher") -> bytes:
    """MessagePack of the state."""
    return msgspec.msgpack.encode(
        DispatcherState(
            dispatcher.now_us,
            dispatcher.turns,
            dispatcher.policy_failures,
            list(dispatcher.fleet.endpoints.values()),
            dispatcher.fleet.releases,
            list(dispatcher.requests.values()),
            list(dispatcher.waiting.line),
            list(dispatcher.sessions.last.items()),
            dispatcher.retries,
            dispatcher.index.snapshot(),
            dispatcher.decisions,
            dispatcher.fleet.speeds,
            dispatcher.fleet.lengths,
            dispatcher.fleet.handovers,
        )
    )


def restore(dispatcher: "Dispatcher", data: bytes) -> None:
    """Puts a new dispatcher into a saved state. Raises msgspec.DecodeError on bytes that `save` did not write."""
    state = msgspec.msgpack.decode(data, type=DispatcherState)
    dispatcher.now_us, dispatcher.turns = state.now_us, state.turns
    dispatcher.chooser.failures, dispatcher.decisions = state.policy_failures, state.decisions
    dispatcher.fleet.endpoints.update((endpoint.id, endpoint) for endpoint in state.endpoints)
    dispatcher.fleet.releases[:] = state.releases
    dispatcher.fleet.speeds.update(state.speeds)
    dispatcher.fleet.lengths = state.lengths
    dispatcher.fleet.handovers.update(state.handovers)
    dispatcher.requests.update((request.arrived.request, request) for request in state.requests)
    dispatcher.waiting.count_from(state.requests)
    for request_id in state.waiting:
        dispatcher.waiting.join(dispatcher.requests[request_id])
    dispatcher.sessions.last.update(state.sessions)
    dispatcher.retries = state.retries
    dispatcher.index.restore(state.index)
