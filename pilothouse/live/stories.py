"""What happened to each request, as the dispatcher saw it: the ones in flight and the last ones that ended.

`pilothouse explain`, the log line and the request metrics all read a story; nothing else keeps one.
"""

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from pilothouse.core.commands import AnyCommand, Reject, Route
from pilothouse.core.events import AnyEvent, Arrived, Cancelled, Failed, Finished, FirstToken, PrefillDone
from pilothouse.core.units import Micros, RequestId

ENDED_MAX = 4096  # stories kept after their end
_CONTINUE = frozenset([PrefillDone, FirstToken, Finished, Failed, Cancelled])


class Story(msgspec.Struct):
    """One request. Times are microseconds after its arrival, None for what did not happen."""

    request: RequestId
    model: str
    prompt_tokens: int
    blocks: int
    stream: bool
    arrived_at_us: Micros
    routes: list[Route] = []
    routed_us: list[int] = []  # aligned with `routes`
    failures: list[str] = []  # how earlier attempts ended
    rejected: Reject | None = None
    prefilled_us: int | None = None  # of the last attempt, by another endpoint
    first_token_us: int | None = None
    ended_us: int | None = None
    outcome: str = ""  # finished, cancelled, failed or rejected
    cached_tokens: int | None = None  # as the engine reported
    output_tokens: int | None = None

    @property
    def endpoint(self) -> str:
        return self.routes[-1].endpoint if self.routes else ""

    @property
    def prefill(self) -> str:
        """Endpoint that computes the prompt of the last attempt, if it is another one."""
        step = self.routes[-1].prefill if self.routes else None
        return "" if step is None else step.endpoint


class Stories:
    """A watcher of the driver. `ended` is called with each story at its end."""

    def __init__(self, ended: Callable[[Story], None]) -> None:
        self.in_flight: dict[RequestId, Story] = {}
        self.ended: OrderedDict[RequestId, Story] = OrderedDict()
        self._tell = ended

    def find(self, request_id: str) -> Story | None:
        """By the id that the client knows; with several, the last one. Ids made unique by us have a `~` suffix."""
        found = self.in_flight.get(RequestId(request_id)) or self.ended.get(RequestId(request_id))
        if found is not None:
            return found
        for stories in (self.in_flight, self.ended):
            for name in reversed(stories):
                if name.rpartition("~")[0] == request_id:
                    return stories[name]
        return None

    def watch(self, event: AnyEvent, commands: list[AnyCommand], decision_us: int) -> None:
        kind = type(event)
        if kind is Arrived:
            self._begin(event)  # type: ignore[arg-type]
        elif kind in _CONTINUE:
            story = self.in_flight.get(event.request)  # type: ignore[union-attr]
            if story is not None:
                self._continue(story, event)
        for command in commands:
            story = self.in_flight.get(command.request)
            if story is None:
                continue
            if type(command) is Route:
                story.routes.append(command)
                story.routed_us.append(event.at_us - story.arrived_at_us)
                story.prefilled_us = None
            elif type(command) is Reject:
                story.rejected = command
                self._end(story, "rejected", event.at_us)

    def _begin(self, event: Arrived) -> None:
        self.in_flight[event.request] = Story(
            event.request, event.model, event.prompt_tokens, len(event.blocks), event.stream, event.at_us
        )

    def _continue(self, story: Story, event: AnyEvent) -> None:
        kind = type(event)
        if kind is Finished:
            story.cached_tokens, story.output_tokens = event.cached_tokens, event.output_tokens  # type: ignore[union-attr]
            self._end(story, "finished", event.at_us)
        elif kind is PrefillDone:
            story.prefilled_us = event.at_us - story.arrived_at_us
        elif kind is FirstToken:
            story.first_token_us = event.at_us - story.arrived_at_us
        elif kind is Cancelled:
            self._end(story, "cancelled", event.at_us)
        elif isinstance(event, Failed):
            story.failures.append(f"prefill {event.kind.value}" if event.prefill else event.kind.value)
            if event.sent:
                self._end(story, "failed", event.at_us)

    def _end(self, story: Story, outcome: str, at_us: Micros) -> None:
        story.outcome, story.ended_us = outcome, at_us - story.arrived_at_us
        del self.in_flight[story.request]
        self.ended[story.request] = story
        if len(self.ended) > ENDED_MAX:
            self.ended.popitem(last=False)
        self._tell(story)
