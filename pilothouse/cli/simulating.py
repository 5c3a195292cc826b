"""sim and report: scenario in, table and page out."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console

from pilothouse.cli.plan_trials import Defaults, Planned
from pilothouse.cli.run_progress import RunProgress
from pilothouse.cli.running import read_config
from pilothouse.config.scenario_load import Ready, load_scenario, policy_named
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.experiments.pool import cores, run_all
from pilothouse.experiments.tasks import STOPPED, Ended, tasks_of
from pilothouse.plan.plan_file import holds_plans
from pilothouse.plugins import load_plugins
from pilothouse.report.files import Mark, Saved, merged, read, save
from pilothouse.report.page import check_extra, write_page
from pilothouse.report.tables import print_runs

FAILED, INTERRUPTED = 1, 130  # exit statuses; the latter is what shells make of Ctrl-C
SOURCE_MAX = 40_000  # characters of a workload file that a report quotes


class Asked(msgspec.Struct, frozen=True):
    """What `sim` was asked for beside its scenario."""

    seeds: str
    policies: str
    loads: str
    out: Path | None
    json: Path | None
    jobs: int | None


class Written(msgspec.Struct, frozen=True):
    """A scenario, as `Planned` is a plan."""

    ready: Ready

    @property
    def defaults(self) -> Defaults:
        scenario = self.ready.scenario
        return Defaults(scenario.policies, scenario.loads, scenario.seeds)

    @property
    def workload(self) -> Any:
        return self.ready.scenario.workload

    def subject(self, _loads: Sequence[float], _seeds: Sequence[int]) -> Ready:
        return self.ready


def sim(path: Path, asked: Asked) -> None:
    load_plugins()
    text = read_config(path)
    given = Planned(path) if holds_plans(path) else Written(load_scenario(text, str(path), path.parent))
    policies, loads, seeds = _wanted(given.defaults, asked)
    out = _page_path(path, asked)
    tasks = tasks_of(policies, loads, seeds)
    subject = given.subject(loads, seeds)
    with RunProgress(tasks, _console(stderr=True)) as progress:
        ended = run_all([subject], tasks, asked.jobs or cores(), progress)
    runs = [part.run for part in ended if part.run is not None]
    if runs:
        marks = _marks(given.ready) if isinstance(given, Written) else []
        saved = Saved(runs, _command(path, asked), _source(text, given.workload, path.parent), marks)
        print_runs(runs, _console())
        if asked.json:
            save(saved, asked.json)
        if out:
            write_page(runs, out, saved)
            typer.echo(f"report: {out}")
    _exit_status(ended)


def report(paths: Sequence[Path], out: Path) -> None:
    saved = merged([read(path) for path in paths])
    write_page(saved.runs, out, saved)
    print_runs(saved.runs, _console())
    typer.echo(f"report: {out}")


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    return console


def _wanted(given: Defaults, asked: Asked) -> tuple[list[Any], list[float], list[int]]:
    """The file's policies, loads and seeds, or those of the command line. Raises ConfigError."""
    problems: list[Problem] = []
    spelled = {policy_named(policy).name: policy for policy in given.policies}
    policies: list[Any] = []
    for name in _parts(asked.policies):
        try:
            policies.append(spelled[name] if name in spelled else policy_named(name).name)
        except ConfigError as error:
            problems += [Problem("--policy", problem.what) for problem in error.problems]
    loads = _numbers("--load", asked.loads, float, problems)
    seeds = _numbers("--seed", asked.seeds, int, problems)
    problems += [Problem("--load", f"{load:g} is not more than 0") for load in loads if not 0 < load < float("inf")]
    if problems:
        raise ConfigError(problems)
    wanted = policies or given.policies, loads or given.loads, seeds or given.seeds
    return list(wanted[0]), list(wanted[1]), list(wanted[2])


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(option: str, text: str, kind: Any, problems: list[Problem]) -> list[Any]:
    found = []
    for part in _parts(text):
        try:
            found.append(kind(part))
        except ValueError:
            problems.append(Problem(option, f"{part!r} is not {'a whole number' if kind is int else 'a number'}"))
    return list(dict.fromkeys(found))


def _page_path(path: Path, asked: Asked) -> Path | None:
    """Where the report goes. Whether it can be made is found out before the runs, not after them."""
    try:
        check_extra()
    except PilothouseError as error:
        if asked.out:
            raise
        typer.echo(f"pilothouse: {error}", err=True)
        return None
    return asked.out or Path(f"{path.stem}.html")


def _command(path: Path, asked: Asked) -> str:
    """What makes these runs again."""
    parts = ["pilothouse", "sim", str(path)]
    for option, value in (("--seed", asked.seeds), ("--policy", asked.policies), ("--load", asked.loads)):
        parts += [option, value] if value else []
    return shlex.join(parts)


def _source(text: str, workload: Any, base: Path) -> str:
    """The scenario, or the plan, as written, and its workload where that is another file."""
    if isinstance(workload, str) and (base / workload).is_file():
        quoted = (base / workload).read_text(encoding="utf-8", errors="replace")[:SOURCE_MAX]
        return f"{text.rstrip()}\n\n# {workload}\n{quoted}"
    return text


def _marks(ready: Ready) -> list[Mark]:
    """Faults, for charts over time; these show one stage from its beginning, which is the run's if it is the only one."""
    scenario = ready.scenario
    if not scenario.faults or len(ready.recipe.make(scenario.seeds[0], min(scenario.loads)).stages) > 1:
        return []
    pools = {f"{pool.name}-{i}": pool for pool in scenario.pools for i in range(pool.replicas)}
    pools |= {pool.name: pool for pool in scenario.pools}
    marks = []
    for fault in scenario.faults:
        lasts = pools[fault.endpoint].start_up if fault.kind == "crash" else fault.lasts
        until_s = None if lasts is None else (fault.at + lasts) / 1_000_000
        marks.append(Mark(fault.at.seconds, until_s, f"{fault.kind.replace('_', ' ')}: {fault.endpoint}"))
    return marks


def _exit_status(ended: Sequence[Ended]) -> None:
    stopped = sum(part.error == STOPPED for part in ended)
    failed = [part for part in ended if part.error not in ("", STOPPED)]
    for part in failed:
        typer.echo(f"pilothouse: {part.task.title}: {part.error}", err=True)
    if stopped:
        typer.echo(
            f"pilothouse: stopped; {len(ended) - stopped - len(failed)} of {len(ended)} runs were finished", err=True
        )
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(FAILED)
