"""A recorded day: who asked for what and when, what came of it, and which engines there were. Nothing is decided anew.

A journal names the blocks of prompts, not of answers. What an answer added is seen when the conversation goes on: the next
prompt begins with the last one and what was answered. Where engines report their blocks, it counts as added only if one
of them held it by then; a client that alters what it was answered would otherwise make hits that never were.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pilothouse.core.commands import AnyCommand, Reject, Route
from pilothouse.core.errors import JournalError
from pilothouse.core.events import (
    AnyEvent,
    Arrived,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    Cancelled,
    EndpointGone,
    EndpointSeen,
    Failed,
    Finished,
    FirstToken,
    LoadReported,
)
from pilothouse.core.snapshot import DispatcherState
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId
from pilothouse.journal.log import Header, Segment, read, segments

REPORTS_MAX = 240  # load reports kept of one engine, spread over the day: twice the columns of a report's heat maps
CANCELLED = "cancelled"


@dataclass(slots=True, eq=False)
class Ask:
    """One request as it went."""

    arrived: Arrived
    endpoint: EndpointId | None = None  # of its last attempt
    cached_tokens: int = 0  # as the gateway expected
    first_us: Micros | None = None
    end_us: Micros | None = None  # None: the journal ends before it
    done: Finished | None = None
    error: str = ""  # why it was not served
    output_blocks: list[BlockKey] = field(
        default_factory=list
    )  # that its answer added, as far as anybody asked for them

    @property
    def tokens(self) -> int:
        """Of prompt and answer."""
        return self.arrived.prompt_tokens + ((self.done.output_tokens if self.done is not None else None) or 0)


@dataclass(slots=True)
class Engine:
    """One engine as the gateway knew it."""

    seen: EndpointSeen  # the last description
    ready_us: Micros  # when it was first known
    gone_us: Micros | None = None  # when it left and did not come back
    blocks: set[BlockKey] = field(default_factory=set)  # it holds, by its own reports
    reports: list[LoadReported] = field(default_factory=list)
    reported: int = 0
    every: int = 1  # of its reports is kept
    first_report_us: Micros = Micros(0)
    last_report_us: Micros = Micros(0)
    drafted_tokens: int = 0  # by speculation, over all reports
    accepted_tokens: int = 0  # of those


@dataclass(slots=True)
class Day:
    """All segments of a journal, one after the other."""

    headers: list[Header] = field(default_factory=list)
    first_us: Micros = Micros(0)
    last_us: Micros = Micros(0)
    events: int = 0
    asks: list[Ask] = field(default_factory=list)
    engines: dict[EndpointId, Engine] = field(default_factory=dict)
    is_warm: bool = False  # the gateway had been running when the first segment that is left began
    gaps: int = 0  # segments that are missing between others
    altered: int = 0  # conversations that went on otherwise than they were answered, or whose blocks were gone by then
    _open: dict[RequestId, Ask] = field(default_factory=dict)
    _ends: dict[BlockKey, list[Ask]] = field(default_factory=dict)  # last block of a prompt -> its answers

    @property
    def scrape_us(self) -> Micros:
        """Mean time between two load reports of an engine; 0 = there were none."""
        told = [engine for engine in self.engines.values() if engine.reported > 1]
        spans_us = sum(engine.last_report_us - engine.first_report_us for engine in told)
        return Micros(round(spans_us / sum(engine.reported - 1 for engine in told))) if told else Micros(0)

    @property
    def there(self) -> list[Engine]:
        """Engines that were there to the last: a gateway that ends in order takes leave of all of them."""
        last_us = max((ask.end_us or ask.arrived.at_us for ask in self.asks), default=self.first_us)
        return [engine for engine in self.engines.values() if engine.gone_us is None or engine.gone_us >= last_us]

    def take(self, event: AnyEvent, commands: list[AnyCommand]) -> None:
        """The next entry of the journal."""
        self.first_us = self.first_us if self.events else event.at_us
        self.events, self.last_us = self.events + 1, event.at_us
        match event:
            case Arrived():
                self._arrived(event)
            case FirstToken() if event.request in self._open:
                self._open[event.request].first_us = event.at_us
            case Finished() if event.request in self._open:
                self._open[event.request].done = event
                self._end(event.request, event.at_us, "")
            case Failed() if event.request in self._open and event.sent:
                self._end(event.request, event.at_us, event.kind.value)
            case Cancelled() if event.request in self._open:
                self._end(event.request, event.at_us, CANCELLED)
            case _:
                self._of_engine(event)
        for command in commands:
            ask = self._open.get(command.request)
            if ask is not None and isinstance(command, Route):
                ask.endpoint, ask.cached_tokens = command.endpoint, command.cached_tokens
            elif ask is not None and isinstance(command, Reject):
                self._end(command.request, event.at_us, command.reason.value)

    def _of_engine(self, event: AnyEvent) -> None:
        if isinstance(event, EndpointSeen):
            known = self.engines.get(event.endpoint)
            if known is None:
                self.engines[event.endpoint] = Engine(event, event.at_us)
            else:
                known.seen, known.gone_us = event, None
            return
        name = getattr(event, "endpoint", None)
        engine = self.engines.get(name) if name is not None else None
        if engine is None:
            return
        match event:
            case EndpointGone():
                engine.gone_us = event.at_us
                engine.blocks.clear()
            case BlocksStored():
                engine.blocks.update(event.blocks)
            case BlocksRemoved():
                engine.blocks.difference_update(event.blocks)
            case BlocksCleared():
                engine.blocks.clear()
            case LoadReported():
                _report(engine, event)

    def _arrived(self, event: Arrived) -> None:
        ask = self._open[event.request] = Ask(event)
        self.asks.append(ask)
        self._continue(event)

    def _continue(self, event: Arrived) -> None:
        """Finds the answer that this prompt goes on from, the longest prompt first, and names what it added."""
        blocks = event.blocks
        for length in range(len(blocks) - 1, 0, -1):
            answers = self._ends.get(blocks[length - 1])
            if not answers:
                continue
            fitting = [a for a in answers if a.tokens <= event.prompt_tokens]
            if not fitting:
                continue
            same = [a for a in fitting if a.arrived.session == event.session]
            before = (same or fitting)[-1]
            added = blocks[length : before.tokens // event.block_size]
            answers.remove(before)
            before.output_blocks = [key for key in added if self._is_there(key)]
            self.altered += len(before.output_blocks) < len(added)
            return

    def _is_there(self, key: BlockKey) -> bool:
        exact = [engine for engine in self.engines.values() if engine.seen.exact]
        return not exact or any(key in engine.blocks for engine in exact)

    def _end(self, request: RequestId, at_us: Micros, error: str) -> None:
        ask = self._open.pop(request)
        ask.end_us, ask.error = at_us, error
        if ask.done is not None and ask.done.output_tokens and ask.arrived.blocks:
            self._ends.setdefault(ask.arrived.blocks[-1], []).append(ask)


def read_day(path: Path) -> Day:
    """Reads a whole journal. Raises JournalError when there is nothing to read, or where it is damaged."""
    paths, day = segments(path), Day()
    if not paths:
        raise JournalError(f"{path}: holds no journal")
    for segment_path in paths:
        segment = read(segment_path)
        if segment is not None:
            _take_segment(day, segment)
    if not day.events:
        raise JournalError(f"{path}: the journal is empty")
    return day


def _take_segment(day: Day, segment: Segment) -> None:
    header, last = segment.header, day.headers[-1] if day.headers else None
    if last is not None and (last.run, last.index + 1) != (header.run, header.index):
        day.gaps += last.run == header.run
        day._open.clear()  # whatever became of them is not in here
    day.headers.append(header)
    if segment.snapshot:
        _know(day, segment)
    for entry in segment.entries:
        if entry.event.at_us < day.last_us:
            raise JournalError(
                f"{segment.path}: time goes back, as after a restart of the machine: "
                f"put it and the segments after it into a directory of their own"
            )
        day.take(entry.event, entry.commands)


def _know(day: Day, segment: Segment) -> None:
    """Engines that were there before the first entry that is left."""
    day.is_warm = day.is_warm or not day.events
    try:
        state = msgspec.msgpack.decode(segment.snapshot, type=DispatcherState)
    except msgspec.MsgspecError as error:
        raise JournalError(f"{segment.path}: its snapshot cannot be read: {error}") from error
    for endpoint in state.endpoints:
        if endpoint.id not in day.engines:
            day.engines[endpoint.id] = Engine(endpoint.seen, state.now_us)


def _report(engine: Engine, report: LoadReported) -> None:
    """Keeps few of many: when there are too many, every second one goes, and from then on fewer are kept."""
    if not engine.reported:
        engine.first_report_us = report.at_us
    engine.last_report_us = report.at_us
    engine.drafted_tokens += report.drafted_tokens
    engine.accepted_tokens += report.accepted_tokens
    if engine.reported % engine.every == 0:
        engine.reports.append(report)
    engine.reported += 1
    if len(engine.reports) > REPORTS_MAX:
        engine.reports = engine.reports[::2]
        engine.every *= 2
