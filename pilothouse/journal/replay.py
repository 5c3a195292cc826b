"""A journal through a fresh dispatcher: the same events must give the very same commands.

Once the replay has decided otherwise, the recorded events may become impossible for it: the end of a request it has
refused, say. Then the rest of that segment is left out.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pilothouse.core.commands import AnyCommand, Route
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.errors import JournalError
from pilothouse.core.events import AnyEvent
from pilothouse.journal.log import Header, read, segments

MakeDispatcher = Callable[[Header, bytes], Dispatcher]  # (header, snapshot) -> a dispatcher in that state


class Difference(msgspec.Struct, frozen=True):
    """An event that led to other commands than recorded."""

    segment: str
    number: int  # of the entry in its segment, from 0
    event: AnyEvent
    recorded: list[AnyCommand]
    replayed: list[AnyCommand] | None  # None: the event was impossible for the replayed dispatcher


class Verified(msgspec.Struct):
    """Outcome of a verification."""

    segments: int = 0
    events: int = 0
    commands: int = 0
    differences: int = 0
    abandoned: int = 0  # segments not replayed to their end, since they had become impossible
    first: Difference | None = None


def verify(path: Path, make: MakeDispatcher) -> Verified:
    """Replays all segments of a journal. Raises JournalError if there is nothing to read."""
    result = Verified()
    for segment_path, number, event, recorded, replayed in _replayed(path, make):
        result.events += 1
        result.commands += len(recorded)
        result.abandoned += replayed is None
        if recorded != replayed:
            result.differences += 1
            result.first = result.first or Difference(segment_path.name, number, event, recorded, replayed)
    result.segments = len(segments(path))
    return result


def routes(path: Path, make: MakeDispatcher) -> Iterator[Route]:
    """Every routing decision of a journal, decided anew."""
    for *_, replayed in _replayed(path, make):
        yield from (command for command in replayed or () if isinstance(command, Route))


def _replayed(
    path: Path, make: MakeDispatcher
) -> Iterator[tuple[Path, int, AnyEvent, list[AnyCommand], list[AnyCommand] | None]]:
    """Each segment from its own snapshot, so that a lost or damaged one does not make the next ones differ."""
    paths = segments(path)
    if not paths:
        raise JournalError(f"{path}: holds no journal")
    for segment_path in paths:
        segment = read(segment_path)
        if segment is None:
            continue
        dispatcher = make(segment.header, segment.snapshot)
        for number, entry in enumerate(segment.entries):
            try:
                commands = dispatcher.handle(entry.event)
            except (KeyError, AssertionError):
                yield segment_path, number, entry.event, entry.commands, None
                break
            yield segment_path, number, entry.event, entry.commands, commands
