"""tune: a scenario in; what was found, whether it is better, and a policy to paste out."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pilothouse import __version__
from pilothouse.cli.running import read_config
from pilothouse.config.scenario import Slo
from pilothouse.config.scenario_load import Ready, load_scenario, policy_named
from pilothouse.config.spelled import spelled
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.experiments import tune as tuner
from pilothouse.experiments.parameters import Space, space
from pilothouse.experiments.search import Found
from pilothouse.experiments.tasks import Ended, Task
from pilothouse.experiments.tune import OBJECTIVES, Settings, Tuned, metric_named
from pilothouse.plugins import load_plugins
from pilothouse.report.files import Saved, save
from pilothouse.report.metrics import METRICS
from pilothouse.report.tables import print_runs
from pilothouse.workload.outcomes import Run

INTERRUPTED = 130  # exit status of what Ctrl-C ended, as shells have it
EDGE = 0.02  # share of a range at its ends: what lies there may be better still beyond


class Asked(msgspec.Struct, frozen=True):
    """What `tune` was asked for beside its scenario."""

    policy: str
    objective: str
    parameters: tuple[str, ...]
    seeds_train: int
    seeds_held_back: int
    evaluations: int
    seed: int
    out: Path | None
    json: Path | None
    jobs: int | None


def tune(path: Path, asked: Asked) -> None:
    load_plugins()
    text = read_config(path)
    ready = load_scenario(text, str(path), path.parent)
    settings, searched = _settings(ready, asked), _space(ready, asked)
    _check_files(asked)
    tables = _console()
    _say_plan(searched, settings, ready, tables)
    with _Progress(settings, _console(stderr=True)) as progress:
        tuned = tuner.tune(ready, searched, settings, progress)
    _show(tuned, searched, settings, tables)
    if asked.json is not None and tuned.before:
        save(Saved([*tuned.before, *_renamed(tuned.after)], _command(path, asked), text), asked.json)
    _write(tuned, searched, settings, path, asked)
    if tuned.found.stopped:
        raise typer.Exit(INTERRUPTED)


def _settings(ready: Ready, asked: Asked) -> Settings:
    scenario, name = ready.scenario, asked.objective
    has_objectives = scenario.objectives != Slo() or any(slo != Slo() for slo in scenario.tenants.values())
    name = name or ("goodput" if has_objectives else "ttft")
    metric = metric_named(name)
    if metric is None or not metric.better:
        known = ", ".join([*OBJECTIVES, *(key for key in METRICS if key not in OBJECTIVES.values())])
        raise ConfigError([Problem("--objective", f"unknown objective {name!r}, known: {known}")])
    if name == "goodput" and not has_objectives:
        what = "goodput needs `objectives` in the scenario: without them every served request counts"
        raise ConfigError([Problem("--objective", what)])
    return Settings(metric, asked.seed, asked.seeds_train, asked.seeds_held_back, asked.evaluations, asked.jobs)


def _space(ready: Ready, asked: Asked) -> Space:
    named = {policy_named(policy).name: policy for policy in ready.scenario.policies}
    try:
        base = policy_named(named.get(asked.policy, asked.policy) if asked.policy else ready.scenario.policies[0])
    except ConfigError as error:
        raise ConfigError([Problem("--policy", problem.what) for problem in error.problems]) from None
    return space(base, asked.parameters)


def _check_files(asked: Asked) -> None:
    problems = [
        Problem(option, f"there is no directory {path.absolute().parent}")
        for option, path in (("--out", asked.out), ("--json", asked.json))
        if path is not None and not path.absolute().parent.is_dir()
    ]
    if problems:
        raise ConfigError(problems)


def _say_plan(searched: Space, settings: Settings, ready: Ready, console: Console) -> None:
    direction = "more" if settings.metric.better == "high" else "less"
    console.print(
        f"policy {searched.base.name}: {len(searched.parameters)} numbers, for {direction} {settings.metric.title} [Simulated]; "
        f"at most {settings.evaluations} candidates x seeds, each under {len(ready.scenario.loads)} loads, on seeds "
        f"{settings.training[0]} to {settings.training[-1]}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    for why in searched.left_out:
        console.print(f"not searched: {why}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _show(tuned: Tuned, searched: Space, settings: Settings, console: Console) -> None:
    for failure in tuned.failures:
        console.print(f"a candidate failed: {failure}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if tuned.before:
        print_runs([*tuned.before, *_renamed(tuned.after)], console)
    if tuned.found.best is not None:
        console.print(_values(searched, tuned))
    sentence, style = verdict(tuned, settings)
    console.print(sentence, style=style, highlight=False, markup=False, soft_wrap=True)


def verdict(tuned: Tuned, settings: Settings) -> tuple[str, str]:
    """What to do, in words, and their colour."""
    found, metric, gained = tuned.found, settings.metric.title, tuned.held_back
    said = f"{found.points} candidates, {found.looks} looks"
    if found.stopped:
        if tuned.policy is None:
            return f"stopped after {said}: nothing better was found so far, keep the defaults", "yellow"
        return (
            (
                f"stopped after {said}: the best so far gains {tuned.training:+.1%} of {metric} on training seeds, not "
                "confirmed on others"
            ),
            "yellow",
        )
    if tuned.policy is None or gained is None:
        return f"keep the defaults: none of {said} was better on all training seeds together", "yellow"
    mean, *ends = (_said(part, settings) for part in (gained.mean, gained.low, gained.high))
    figures = (
        f"{metric} {mean} on {gained.count} held-back seeds (95 % interval of the paired change: {' to '.join(ends)}; "
        f"{_said(tuned.training, settings)} on the training seeds it was chosen by)"
    )
    if tuned.is_better:
        return f"the tuned policy is better: {figures}", "green"
    if gained.low > 0:
        return f"keep the defaults: {figures} is certain, but too little to matter", "yellow"
    if gained.high < 0:
        return f"keep the defaults: the tuned policy is worse on seeds it was not chosen by: {figures}", "yellow"
    return f"keep the defaults: the difference is within noise: {figures}", "yellow"


def _said(gained: float, settings: Settings) -> str:
    return f"{tuner.change(gained, settings.metric):+.1%}"


def _values(searched: Space, tuned: Tuned) -> Table:
    assert tuned.found.best is not None
    table = Table(box=None, header_style="dim", pad_edge=False, title_justify="left")
    for column in ("parameter", "default", "found", "searched", ""):
        table.add_column(column, no_wrap=column == "parameter")
    found = searched.values(tuned.found.best)
    for p, share in zip(searched.parameters, tuned.found.best, strict=True):
        edge = "at the end of its range" if min(share, 1 - share) < EDGE and found[p.path] != p.default else ""
        ends = f"{p.shown(p.low)} to {p.shown(p.high)}"
        table.add_row(p.path, p.shown(p.default), p.shown(found[p.path]), ends, edge)
    return table


def _renamed(runs: Sequence[Run]) -> list[Run]:
    """A series of its own. The simulated policy keeps its name, by which it is given what it may know."""
    return [msgspec.structs.replace(run, name=f"{run.name}, tuned") for run in runs]


def _write(tuned: Tuned, searched: Space, settings: Settings, path: Path, asked: Asked) -> None:
    """Only what is better, or was not told apart for want of time."""
    if asked.out is None:
        return
    if tuned.policy is None or not (tuned.is_better or tuned.found.stopped):
        typer.echo(f"{asked.out} is not written: there is nothing better than the defaults to put in it", err=True)
        return
    written = spelled(msgspec.structs.replace(tuned.policy, name=f"{searched.base.name}_tuned"))
    head = [
        f"Found by pilothouse {__version__}: {_command(path, asked)}",
        f"Simulated: {verdict(tuned, settings)[0]}",
        "Goes into pilothouse.yaml, or into `pilothouse replay JOURNAL --what-if`.",
    ]
    text = "".join(f"# {line}\n" for line in head) + yaml.safe_dump({"policy": written}, sort_keys=False)
    try:
        asked.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(asked.out), f"cannot be written: {error.strerror}")]) from None
    typer.echo(f"policy: {asked.out}")


def _command(path: Path, asked: Asked) -> str:
    """What finds this again."""
    parts = ["pilothouse", "tune", str(path)]
    for option, value in (("--policy", asked.policy), ("--objective", asked.objective)):
        parts += [option, value] if value else []
    for parameter in asked.parameters:
        parts += ["--parameter", parameter]
    parts += ["--seeds-train", str(asked.seeds_train), "--seeds-held-back", str(asked.seeds_held_back)]
    return shlex.join([*parts, "--evaluations", str(asked.evaluations), "--seed", str(asked.seed)])


class _Progress:
    """A bar per batch of runs on a terminal; a line per batch and per round anywhere else."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings, self._console = settings, console
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar = self._bars.add_task("", total=1)
        self._best = ""

    def __enter__(self) -> "_Progress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begins(self, what: str, tasks: Sequence[Task]) -> None:
        self._bars.reset(self._bar, total=len(tasks), description=f"{what}{self._best}")
        if not self._console.is_terminal:
            self._console.print(f"{len(tasks)} runs: {what}", highlight=False)

    def searched(self, found: Found) -> None:
        self._best = f"; best so far {_said(found.gain, self._settings)}"
        line = f"round {len(found.rounds)}: {found.looks} of {self._settings.evaluations} looks{self._best} on training seeds"
        self._console.print(line, highlight=False)

    def started(self, place: int) -> None:
        pass

    def progressed(self, place: int, share: float) -> None:
        pass

    def ended(self, place: int, ended: Ended) -> None:
        self._bars.advance(self._bar)


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    return console
