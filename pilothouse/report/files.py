"""Runs as a file: what `--json` writes and `pilothouse report` puts on one page."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from pilothouse import __version__
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.workload.outcomes import Run


class Mark(msgspec.Struct, frozen=True):
    """Something that happened at a time of the run, e.g. a fault."""

    at_s: float
    until_s: float | None  # None = to the end
    text: str


class Saved(msgspec.Struct, frozen=True):
    """Runs, and how to make them again."""

    runs: list[Run]
    command: str = ""
    source: str = ""  # text of the scenario or workload
    marks: list[Mark] = []
    version: str = __version__


def save(saved: Saved, path: Path) -> None:
    try:
        path.write_bytes(msgspec.json.encode(saved))
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None


def read(path: Path) -> Saved:
    """A file of `save`; a bare list of runs, or a single one, will do."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    try:
        found = msgspec.json.decode(data)
        if isinstance(found, list):
            found = {"runs": found}
        elif isinstance(found, dict) and "runs" not in found:
            found = {"runs": [found]}
        saved = msgspec.convert(found, Saved)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        what = f"is not a file of runs, as `pilothouse sim --json` and `pilothouse bench --json` write them: {error}"
        raise ConfigError([Problem(str(path), what)]) from None
    if not any(run.stages for run in saved.runs):
        raise ConfigError([Problem(str(path), "has no run with a reported stage")])
    return saved


def merged(parts: Sequence[Saved]) -> Saved:
    """All on one page: commands and sources one after the other, each once; marks stay with a page of one run's making."""
    runs = [run for part in parts for run in part.runs]
    commands = "\n".join(dict.fromkeys(part.command for part in parts if part.command))
    sources = "\n---\n".join(dict.fromkeys(part.source.rstrip() for part in parts if part.source))
    return Saved(runs, commands, sources, parts[0].marks if len(parts) == 1 else [])
