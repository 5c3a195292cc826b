"""Reads from an engine's log what a person needs: the latest line, the last ones, the one that says what went wrong."""

import re
from pathlib import Path

TAIL_BYTES = 256 * 1024
PREFIX = r"(?:\([^)]*\) )?(?:ERROR [\d-]+ [\d:]+ \[[^\]]*\] )?"  # (EngineCore pid=1) ERROR 11-21 08:06:34 [core.py:133]
ERROR = re.compile(rf"^{PREFIX}((?:[\w.]+(?:Error|Exception)|[\w ]+: error): .*)$")
CONSEQUENCE = "Engine core initialization failed"  # what the front process says after the engine process has failed


class EngineLog:
    """The part of a log file that belongs to the present run of an engine."""

    __slots__ = ("path", "start")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = 0

    def begin(self) -> None:
        """A new run: what is in the file now belongs to earlier ones."""
        self.start = self.path.stat().st_size if self.path.exists() else 0

    def lines(self) -> list[str]:
        """The run's lines that are not blank, of a long log only the end."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(self.start, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]

    def latest(self) -> str:
        """The last line, without the prefix that vLLM puts before each."""
        lines = self.lines()
        return re.sub(r"^(?:\([^)]*\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] )?", "", lines[-1]) if lines else ""


def error_line(lines: list[str]) -> str:
    """The first error that is a cause and not a consequence; empty if there is none.

    The first one counts, because an engine fails in one process and then in those that wait for it.
    """
    for number, line in enumerate(lines):
        found = ERROR.match(line)
        if found and CONSEQUENCE not in line:
            more = lines[number + 1 : number + 2] if "validation error" in line else []
            return " ".join([found[1], *(text.strip() for text in more)])
    return ""
