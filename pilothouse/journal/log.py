"""The journal on disk: a directory of segments, each a header, perhaps a snapshot, and entries of event and commands.

A segment can be replayed by itself: its header holds the settings, and its snapshot the state at its beginning. Frames
are a 4-byte big-endian length and MessagePack. When all segments together exceed the limit, the oldest go.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import msgspec

from pilothouse.core.commands import AnyCommand
from pilothouse.core.errors import JournalError
from pilothouse.core.events import VERSION, AnyEvent

MAGIC = "pilothouse journal"
SUFFIX = ".journal"
FRAME_MAX = 1 << 30  # bytes: more than any snapshot; a longer frame is damage


class Header(msgspec.Struct, frozen=True, array_like=True):
    """First frame of a segment."""

    magic: str
    version: int
    run: str  # of one process: segments of the same run with adjacent indices follow each other without a gap
    index: int
    settings: dict[str, Any]  # DispatcherSettings
    policy: Any  # as in the configuration


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One event and the commands it led to."""

    event: AnyEvent
    commands: list[AnyCommand]


class Segment(msgspec.Struct, frozen=True):
    """What can be read of one file. `snapshot` is empty in the first segment of a run."""

    path: Path
    header: Header
    snapshot: bytes
    entries: Iterator[Entry]


class Writer:
    """Appends entries; starts a new segment when the current one is full. Not thread-safe."""

    def __init__(
        self, directory: Path, segment_bytes: int, bytes_max: int, settings: dict[str, Any], policy: Any
    ) -> None:
        self._directory, self._segment_bytes, self._bytes_max = directory, segment_bytes, bytes_max
        self._settings, self._policy = settings, policy
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._written = 0  # bytes of entries in the current segment; its snapshot does not count, it may be larger
        self._run = uuid4().hex
        self.begun = False  # a segment of this run exists
        try:
            directory.mkdir(parents=True, exist_ok=True)
            os.chmod(directory, 0o700)
            self._index = max((int(path.stem) for path in segments(directory)), default=0)
        except (OSError, ValueError) as error:
            raise JournalError(f"journal.directory {directory}: {error}") from error

    @property
    def full(self) -> bool:
        """The segment is as long as it may be: the next entry belongs into a new one, begun by `rotate`."""
        return self._file is None or self._written + len(self._buffer) >= self._segment_bytes

    def rotate(self, snapshot: bytes) -> None:
        """Begins the next segment with the state before its first entry; `snapshot` may be empty for an empty state."""
        self.close()
        self._index += 1
        self.begun = True
        path = self._directory / f"{self._index:08d}{SUFFIX}"
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        self._frame(self._encoder.encode(Header(MAGIC, VERSION, self._run, self._index, self._settings, self._policy)))
        self._frame(snapshot)
        self.flush()
        self._written = 0
        self._forget_oldest()

    def append(self, event: AnyEvent, commands: list[AnyCommand]) -> None:
        self._frame(self._encoder.encode((event, commands)))
        if len(self._buffer) >= 1 << 16:
            self.flush()

    def flush(self) -> None:
        if self._file is not None and self._buffer:
            self._file.write(self._buffer)
            self._file.flush()
            self._written += len(self._buffer)
            self._buffer.clear()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _frame(self, data: bytes) -> None:
        self._buffer += len(data).to_bytes(4, "big")
        self._buffer += data

    def _forget_oldest(self) -> None:
        paths = segments(self._directory)
        total = sum(path.stat().st_size for path in paths)
        for path in paths[:-1]:
            if total + self._segment_bytes <= self._bytes_max:
                return
            total -= path.stat().st_size
            path.unlink()


def segments(path: Path) -> list[Path]:
    """The segment files of a journal, oldest first, perhaps none; `path` may also be one segment."""
    return [path] if path.is_file() else sorted(path.glob(f"*{SUFFIX}"))


def read(path: Path) -> Segment | None:
    """Opens one segment; None if it was cut off, as by a kill, before its header was complete.

    Raises JournalError when it is not one, or of another version.
    """
    frames = _frames(path)
    try:
        first = next(frames, None)
        if first is None:
            return None
        header = msgspec.msgpack.decode(first, type=Header)
    except msgspec.MsgspecError as error:
        raise JournalError(f"{path}: is not a Pilothouse journal") from error
    if header.magic != MAGIC or header.version != VERSION:
        raise JournalError(f"{path}: is a journal of version {header.version}, this program reads version {VERSION}")
    return Segment(path, header, next(frames, b""), _entries(path, frames))


def _entries(path: Path, frames: Iterator[bytes]) -> Iterator[Entry]:
    decoder = msgspec.msgpack.Decoder(Entry)
    for number, frame in enumerate(frames):
        try:
            yield decoder.decode(frame)
        except msgspec.MsgspecError as error:
            raise JournalError(f"{path}: entry {number} is damaged: {error}") from error


def _frames(path: Path) -> Iterator[bytes]:
    """A last frame that was cut off, as by a kill, ends the segment without complaint."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    with file:
        while len(prefix := file.read(4)) == 4:
            length = int.from_bytes(prefix, "big")
            if length > FRAME_MAX:
                raise JournalError(f"{path}: is not a Pilothouse journal, or damaged near byte {file.tell()}")
            frame = file.read(length)
            if len(frame) < length:
                return
            yield frame
