"""`fleet check`: whether engines that should be alike are, asked of the engines and of what their manifests pin."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from pilothouse.cli.problems import FAILED, exits_with_problems
from pilothouse.cli.running import prepare, read_config
from pilothouse.config import disaggregation
from pilothouse.config.load import read_documents
from pilothouse.config.schema import Config
from pilothouse.core.errors import PilothouseError
from pilothouse.live.consistency.asking import Asked, ask_fleet
from pilothouse.live.consistency.comparing import WORST_FIRST, Difference, differences
from pilothouse.live.consistency.facts import Breaks, Facts, Member, contradictions, member
from pilothouse.live.consistency.manifest import launches
from pilothouse.live.consistency.pinned import Engine, completed, drifts, matching
from pilothouse.serving.picker import engine_keys

fleet_app = typer.Typer(no_args_is_help=True, help="Look at the engines of a configuration.")


class EngineReport(msgspec.Struct, frozen=True):
    """One engine as it was compared."""

    name: str
    url: str
    pool: str
    role: str
    error: str
    manifest: str
    facts: Facts


class Report(msgspec.Struct, frozen=True):
    """All of a check."""

    engines: list[EngineReport]
    differences: list[Difference]

    @property
    def counts(self) -> dict[Breaks, int]:
        return {breaks: sum(d.breaks is breaks for d in self.differences) for breaks in WORST_FIRST}


@fleet_app.command("check")
@exits_with_problems
def fleet_check(
    config: Annotated[Path, typer.Option("--config", "-c", help="configuration file (YAML)")] = Path("pilothouse.yaml"),
    manifest: Annotated[
        list[Path] | None,
        typer.Option(help="how engines are started: Kubernetes, compose, or a YAML of command lines; repeatable"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Compare engines that should be alike: exit status 1 if a difference breaks KV exchange or comparability."""
    settings = prepare(read_config(config), str(config))
    report = check(settings, asyncio.run(ask_fleet(settings, engine_keys(settings))), manifest or [])
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=1).decode())
    else:
        show(report)
    if report.counts[Breaks.EXCHANGE] or report.counts[Breaks.COMPARABILITY]:
        raise typer.Exit(FAILED)


def check(config: Config, asked: list[Asked], manifests: list[Path]) -> Report:
    """Compares what engines tell and manifests pin. Raises PilothouseError if nothing is known of any engine."""
    starts = [
        launch for path in manifests for launch in launches(read_documents(read_config(path), str(path)), str(path))
    ]
    of, found = matching(starts, [Engine(a.name, a.pool.name, a.url) for a in asked])
    if all(a.error for a in asked) and not of:
        raise PilothouseError("no engine answers, and no manifest names one: " + "; ".join(a.error for a in asked))
    found += [Difference(Breaks.NOTE, "", f"{a.name} does not answer: {a.error}") for a in asked if a.error]
    found += [d for a in asked if a.name in of for d in drifts(a.name, a.facts, of[a.name])]
    found += [Difference(Breaks.EXCHANGE, "", str(remark)) for remark in disaggregation.remarks(config)]
    facts = {a.name: completed(a.facts, of[a.name]) if a.name in of else a.facts for a in asked}
    found += differences([_member(a, facts[a.name]) for a in asked if not a.error or a.name in of])
    engines = [
        EngineReport(
            a.name, a.url, a.pool.name, a.pool.role, a.error, of[a.name].source if a.name in of else "", facts[a.name]
        )
        for a in asked
    ]
    return Report(engines, sorted(found, key=lambda d: WORST_FIRST.index(d.breaks)))


def _member(engine: Asked, facts: Facts) -> Member:
    """Of an engine that was not reached, silence means nothing."""
    known = member(engine.name, engine.pool, facts, engine.models)
    return msgspec.structs.replace(known, doubts=contradictions(facts, engine.pool)) if engine.error else known


def show(report: Report) -> None:
    """By what differences break, worst first."""
    console = Console(highlight=False)
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 400
    for breaks in WORST_FIRST:
        if report.counts[breaks]:
            console.print(f"[bold]{breaks}[/]")
        for difference in report.differences:
            if difference.breaks is breaks:
                console.print(f"  {difference.sentence}", markup=False)
    answered = sum(not engine.error for engine in report.engines)
    said = ", ".join(f"{count} x {breaks}" for breaks, count in report.counts.items())
    console.print(f"{answered} of {len(report.engines)} engines asked: {said}")
