"""calibrate: asks a running engine how long its steps take; a table of coefficients, and a file for the simulator."""

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.experiments.calibrate import Asked, Measured, calibrate
from pilothouse.live.clock import Clock
from pilothouse.perf.step_time import StepTime
from pilothouse.perf.sweep import Reading

SECONDS, SECONDS_QUICK = 180.0, 45.0
console = Console(stderr=True)
UNITS = {
    "a_us": ("per step", 1e3, "ms"),
    "b_us": ("per sequence", 1.0, "µs"),
    "c_ns": ("per 1,000 tokens of context", 1.0, "µs"),
    "p_us": ("per prefilled token", 1.0, "µs"),
    "q_ps": ("per squared prefilled token", 1.0, "ps"),
    "rho": ("of context reads are of distinct tokens", 1.0, "share"),
    "request_us": ("per request, beside its steps", 1e3, "ms"),
}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asked for."""

    url: str
    model: str
    out: Path
    quick: bool
    seconds: float | None
    batched_tokens: int
    machine: str
    api_key_env: str


def run(wanted: Wanted) -> None:
    """Measures, fits, prints, writes. Raises what the command line turns into messages."""
    fit = _fitter()
    _check(wanted)
    key = os.environ.get(wanted.api_key_env) if wanted.api_key_env else None
    asked = Asked(
        url=wanted.url.rstrip("/"),
        model=wanted.model,
        seconds=wanted.seconds or (SECONDS_QUICK if wanted.quick else SECONDS),
        quick=wanted.quick,
        batched_tokens=wanted.batched_tokens,
        key=key,
    )
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("asking the engine", total=1.0)
        measured = asyncio.run(
            calibrate(asked, lambda what, share: bar.update(task, description=what, completed=share))
        )
    try:
        found = fit(measured.readings, asked.batched_tokens, source(measured, wanted))
    except ValueError as error:
        what = f"{error}; give it more time with --seconds"
        raise PilothouseError(f"{len(measured.readings)} trials in {measured.seconds:.0f} s: {what}") from None
    label = "Emulated" if "emulated" in measured.version else "Measured"
    found = msgspec.structs.replace(found, label=label)
    wanted.out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    show(measured, found)
    typer.echo(str(wanted.out))


def source(measured: Measured, wanted: Wanted) -> str:
    """Where the figures come from, in words."""
    day = datetime.fromtimestamp(Clock().wall_s(), UTC).date().isoformat()
    parts = [
        f"pilothouse calibrate, {day}",
        f"{measured.model} on {measured.version or 'an engine of unknown version'}",
    ]
    parts += [wanted.machine] if wanted.machine else []
    return ", ".join([*parts, f"{len(measured.readings)} trials", *measured.notes])


def show(measured: Measured, found: StepTime) -> None:
    """Coefficients with their errors."""
    title = f"step time of {measured.model} ({found.label}, {measured.seconds:.0f} s)"
    table = Table("", "value", "± standard error", title=title, title_justify="left", box=None, header_style="bold")
    for name, (meaning, scale, unit) in UNITS.items():
        value, deviation = getattr(found, name) / scale, found.deviations.get(name)
        table.add_row(
            f"{name.split('_')[0]}: {unit} {meaning}",
            f"{value:.3g}",
            "not told" if deviation is None else f"{deviation / scale:.2g}",
        )
    console.print(table)
    console.print(f"error in fit {found.error or 0:.1%}, of trials left out of it {found.error_left_out or 0:.1%}")
    for note in measured.notes:
        console.print(f"note: {note}", markup=False)


def _check(wanted: Wanted) -> None:
    problems = []
    if urlsplit(wanted.url).scheme not in ("http", "https"):
        problems.append(Problem("URL", f"must begin with http:// or https://, not {wanted.url!r}"))
    if wanted.api_key_env and wanted.api_key_env not in os.environ:
        problems.append(Problem("--api-key-env", f"the environment has no {wanted.api_key_env}"))
    if not wanted.out.absolute().parent.is_dir():
        problems.append(Problem("--out", f"there is no directory {wanted.out.absolute().parent}"))
    if problems:
        raise ConfigError(problems)


def _fitter() -> Callable[[Sequence[Reading], int, str], StepTime]:
    """Imported late: numpy and scipy are an extra."""
    try:
        from pilothouse.perf.fit import fit_readings
    except ModuleNotFoundError as error:
        what = f"fitting needs {error.name}; install it with: pip install 'pilothouse[fit]'"
        raise ConfigError([Problem("calibrate", what)]) from None
    return fit_readings
