"""plan --blueprint, plan PLAN.yaml: fleets that somebody chose already: what they promise, and whether they keep it."""

from pathlib import Path
from typing import Any

import msgspec
import typer
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from pilothouse.cli.plan_judging import How, Judged, asks_other, judge, missed
from pilothouse.cli.plan_page import write_page
from pilothouse.cli.plan_table import show
from pilothouse.cli.planning import Answer, write_plan
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.blueprint import NAMES, Blueprint, load
from pilothouse.plan.plan_file import holds_plans, read_plans
from pilothouse.plan.promise import expected_of
from pilothouse.plan.search import Found
from pilothouse.plugins import load_plugins

BROKEN = 1  # exit status where a promise does not hold
OF_A_SEARCH = ("gpus", "goal", "without")  # what is said already where there is a fleet
OWN = (
    "model",
    "gpu",
    "workload",
    "prompt_tokens",
    "output_tokens",
    "concurrency",
    "classes",
)  # of one plan: several are not changed alike


def is_there(file: Path | None) -> bool:
    """Whether a plan is given, and no question."""
    return file is not None and holds_plans(file)


def list_blueprints() -> None:
    for name in NAMES:
        typer.echo(f"{name:8}{load(name).title}")


def check(blueprint: str, file: Path | None, given: dict[str, Any], how: How) -> None:
    own = {name: value for name, value in given.items() if value not in (None, "", [])}
    problems = [Problem(f"--{name}", "is for a search: this fleet is chosen") for name in OF_A_SEARCH if name in own]
    if blueprint and file is not None:
        problems.append(Problem("--blueprint", f"and {file}: one of the two"))
    if "gpu" in own:
        if len(own["gpu"]) > 1 or "=" in own["gpu"][0]:
            problems.append(Problem("--gpu", "one kind, without a number: this fleet is chosen"))
        own["gpu"] = own["gpu"][0]
    if problems:
        raise ConfigError(problems)
    load_plugins()
    found = load(blueprint) if blueprint else None
    plans = read_plans(file) if found is None and file is not None else found.plans if found else []
    if len(plans) > 1 and (mine := [name for name in OWN if name in own]):
        names = ", ".join(plan.name for plan in plans)
        raise ConfigError(
            [
                Problem(
                    f"--{mine[0].replace('_', '-').replace('classes', 'class')}",
                    f"for which of {names}? Write the plans with -o and change them there",
                )
            ]
        )
    if how.out is not None and len(plans) > 1 and how.out.suffix in (".yaml", ".yml"):
        raise ConfigError([Problem("-o", "there are several plans: name a folder")])
    base = Path() if file is None else file.parent
    judged = [judge(plan, own, base, how, "" if file is None else str(file)) for plan in plans]
    if how.json:
        answer = Answer([one.plan for one in judged], [])
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())
    else:
        if found is not None:
            explain(found)
        for one in judged:
            told = one.plan if found is None else replace(one.plan, why=[])  # explained above
            show(one.question, Found([told], []), one.source, why=False)
            Console().print(_verdict(one), soft_wrap=True)
    for one in judged:
        _write(one, len(judged) > 1, how, Path() if asks_other(own) else base)
    if any(missed(one) for one in judged):
        raise typer.Exit(BROKEN)


def _verdict(one: Judged) -> Text:
    label = expected_of(one.plan).confidence.value.capitalize()
    if broken := missed(one):
        return Text(f"{one.plan.name}: not kept: {'; '.join(broken)} [{label}]", style="red")
    return Text(f"{one.plan.name}: what it promises is kept [{label}]", style="green")


def _write(one: Judged, several: bool, how: How, base: Path) -> None:
    """Of several plans, `-o` is a folder, and each has a page of its own."""
    if how.out is not None:
        path = how.out / f"{one.plan.name}.yaml" if several or how.out.is_dir() else how.out
        write_plan(path, one.plan, base)
        if not how.json:
            typer.echo(f"plan: {path}")
    if how.page is not None:
        path = how.page.with_stem(f"{how.page.stem}-{one.plan.name}") if several else how.page
        write_page(path, one.question, Found([one.plan], []), one.hardware)
        if not how.json:
            typer.echo(f"page: {path}")


def explain(found: Blueprint) -> None:
    console = Console()

    def line(words: str, style: str = "") -> None:
        console.print(Text(words, style=style), soft_wrap=True)

    line(f"{found.name}: {found.title}", "bold")
    line("known by:")
    for sign in found.signature:
        line(f"- {sign}")
    line(f"what counts: {', '.join(found.priority)}")
    line(f"topology: {found.topology.strip()}")
    line("mechanisms:")
    for what, why in found.mechanisms.items():
        line(f"- {what}: {why}")
    line(f"cost: {found.cost.strip()}")
    line(f"not for: {found.avoid.strip()}")
