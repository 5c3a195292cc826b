"""replay --what-if: a journal and another configuration in, three rows of one table and a page out."""

import shlex
from functools import partial
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pilothouse import build
from pilothouse.cli.benching import LABELS, objectives_of
from pilothouse.cli.running import read_config
from pilothouse.config.load import read_yaml
from pilothouse.config.scenario_load import read_step_time
from pilothouse.config.values import Duration
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.experiments import what_if as trying
from pilothouse.experiments.what_if import Case
from pilothouse.journal.asked import Asked as Arrivals
from pilothouse.journal.asked import asked as arrivals_of
from pilothouse.journal.day import Day, read_day
from pilothouse.journal.learned import learn
from pilothouse.perf.step_time import StepTime
from pilothouse.plugins import load_plugins
from pilothouse.report.files import Saved, save
from pilothouse.report.page import check_extra, write_page
from pilothouse.report.tables import print_runs
from pilothouse.workload.outcomes import Objectives, Run

INTERRUPTED = 130  # exit status of what Ctrl-C ended, as shells have it


class Asked(msgspec.Struct, frozen=True):
    """What `replay --what-if` was asked for."""

    journal: Path
    other: Path
    begin: str
    until: str
    model: str
    step_time: Path | None
    objectives: str
    label: str
    out: Path | None
    json: Path | None


def what_if(wanted: Asked) -> None:
    """Everything that can be wrong is said before anything is simulated."""
    load_plugins()
    begin_us, until_us, objectives = _checked(wanted)
    text = read_config(wanted.other)
    data = read_yaml(text, str(wanted.other))
    console = _console(stderr=True)
    with console.status(f"reading {wanted.journal}"):
        day = read_day(wanted.journal)
        given = arrivals_of(day, wanted.model, begin_us, until_us)
    with console.status("learning step times from it"):
        times, notes = _step_times(wanted, day)
    cases = [trying.as_recorded(day, given, times), *trying.other(data, wanted.other, day, given, times)]
    own = next((case.objectives for case in cases if case.objectives is not None), Objectives())
    objectives = objectives or own
    console.print(
        f"{wanted.journal}: {len(given.counted)} requests to {', '.join(given.models)} in "
        f"{(given.window_us[1] - given.window_us[0]) / 1e6:.0f} s; {len(given.asks)} are simulated",
        highlight=False,
    )
    scenario = wanted.journal.resolve().stem
    runs = [trying.recorded_run(day, given, objectives, wanted.label, scenario)]
    finished = _simulate(cases, given, objectives, scenario, runs, console)
    if len(runs) > 1:
        _show(runs, notes, wanted, text)
    if not finished:
        typer.echo(f"pilothouse: stopped; {len(runs) - 1} of {len(cases)} configurations were simulated", err=True)
        raise typer.Exit(INTERRUPTED)


def _checked(wanted: Asked) -> tuple[int, int | None, Objectives | None]:
    """(--from, --until, --objectives)."""
    problems: list[Problem] = []
    begin = _duration("--from", wanted.begin, problems) or 0
    until = _duration("--until", wanted.until, problems)
    if until is not None and until <= begin:
        problems.append(Problem("--until", "must be later than --from"))
    objectives = objectives_of(wanted.objectives, problems) if wanted.objectives else None
    if wanted.label not in LABELS:
        problems.append(Problem("--label", f"unknown label {wanted.label!r}, known: {', '.join(LABELS)}"))
    for option, path in (("--out", wanted.out), ("--json", wanted.json)):
        if path is not None and not path.absolute().parent.is_dir():
            problems.append(Problem(option, f"there is no directory {path.absolute().parent}"))
    if problems:
        raise ConfigError(problems)
    if wanted.out is not None:
        check_extra()
    return begin, until, objectives


def _duration(option: str, text: str, problems: list[Problem]) -> int | None:
    if not text:
        return None
    try:
        return Duration.parse(text).us
    except ValueError as error:
        problems.append(Problem(option, str(error)))
        return None


def _step_times(wanted: Asked, day: Day) -> tuple[dict[str, StepTime], list[str]]:
    """Of each recorded pool, and what they stand on."""
    if wanted.step_time is not None:
        try:
            times = read_step_time(wanted.step_time)
        except ConfigError as error:
            raise ConfigError([Problem("--step-time", problem.what) for problem in error.problems]) from None
        said = f"step times of the recorded engines: {wanted.step_time}, {times.label}: {times.source}"
        return {engine.seen.pool: times for engine in day.engines.values()}, [said]
    found = learn(wanted.journal, build.replayed_dispatcher)
    return {one.pool: one.step_time for one in found}, trying.learned_notes(found)


def _simulate(
    cases: list[Case], given: Arrivals, objectives: Objectives, scenario: str, runs: list[Run], console: Console
) -> bool:
    """Adds a run for each case; False if Ctrl-C came first. The first one is as recorded: it says how far off it is."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        for case in cases:
            bar = bars.add_task(f"simulating {case.name}", total=1.0)
            try:
                run = trying.simulated_run(case, given, objectives, scenario, partial(_move, bars, bar))
            except KeyboardInterrupt:
                return False
            bars.update(bar, completed=1.0)
            if not console.is_terminal:
                console.print(f"simulated: {case.name}", highlight=False)
            runs.append(run)
    return True


def _move(bars: Progress, bar: TaskID, share: float) -> None:
    bars.update(bar, completed=share)


def _show(runs: list[Run], notes: list[str], wanted: Asked, text: str) -> None:
    said = trying.compared(runs[0].stages[0].summary, runs[1].stages[0].summary)
    runs[1] = msgspec.structs.replace(runs[1], notes=[*notes, *runs[1].notes, *said])
    tables = _console()
    print_runs(runs, tables)
    if len(said) > 1:
        tables.print(f"{wanted.journal}: {said[1]}", style="yellow", highlight=False, soft_wrap=True)
    saved = Saved(runs, _command(wanted), text)
    if wanted.json is not None:
        save(saved, wanted.json)
    if wanted.out is not None:
        write_page(runs, wanted.out, saved)
        typer.echo(f"report: {wanted.out}")


def _command(wanted: Asked) -> str:
    """What makes these runs again."""
    parts = ["pilothouse", "replay", str(wanted.journal), "--what-if", str(wanted.other)]
    options = (
        ("--from", wanted.begin), ("--until", wanted.until), ("--model", wanted.model),
        ("--step-time", str(wanted.step_time or "")), ("--objectives", wanted.objectives), ("--label", wanted.label),
    )  # fmt: skip
    for option, value in options:
        parts += [option, value] if value else []
    return shlex.join(parts)


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    return console
