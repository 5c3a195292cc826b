"""What every benchmark prints: a table for people, or one JSON object of figures and targets."""

import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

Target = tuple[str, float]  # ("<=" or ">=", value)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """To standard error, so that `--json` leaves standard output to the JSON."""
    shown = Table(*columns, title=title, title_justify="left", box=None, header_style="bold")
    for row in rows:
        shown.add_row(*row)
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 160
    console.print(shown)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def finish(figures: Mapping[str, float], targets: Mapping[str, Target], as_json: bool) -> None:
    """Targets met or missed; with `as_json` the object. Exits with 1 when a target that was measured is missed."""
    missed = []
    for name, (sign, wanted) in targets.items():
        if name not in figures:
            say(f"  not measured: {name}")
            continue
        good = figures[name] <= wanted if sign == "<=" else figures[name] >= wanted
        say(f"  {'met   ' if good else 'MISSED'} {name} = {figures[name]:.6g}, target {sign} {wanted:g}")
        missed += [] if good else [name]
    if as_json:
        print(
            json.dumps({"figures": dict(figures), "targets": {name: list(target) for name, target in targets.items()}})
        )
    sys.exit(1 if missed else 0)
