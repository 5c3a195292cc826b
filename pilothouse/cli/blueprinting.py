"""advise blueprint: the deployments that ship as starting points: what each is for, its plans, and whether its promises hold."""

import msgspec
import typer
import yaml
from rich.console import Console
from rich.text import Text

from pilothouse import build
from pilothouse.plan.blueprint import NAMES, Blueprint, load, to_plans
from pilothouse.plan.document import Plan
from pilothouse.plan.plan_scenario import keeps, to_scenario
from pilothouse.report.tables import print_runs

BROKEN = 1  # exit status where a promise does not hold


class Wanted(msgspec.Struct, frozen=True):
    """What `advise blueprint` was asked for."""

    name: str  # "" = which there are
    model: str
    gpu: str
    seed: int
    plan: bool
    simulate: bool


def blueprint(wanted: Wanted) -> None:
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    if not wanted.name:
        for name in NAMES:
            console.print(Text(f"{name:8}{load(name).title}"), soft_wrap=True)
        return
    found = load(wanted.name)
    plans = to_plans(found, model=wanted.model, gpu=wanted.gpu)
    if wanted.plan:
        documents = [msgspec.to_builtins(plan) for plan in plans]
        typer.echo(yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True), nl=False)
        return
    _explain(found, plans, console)
    if wanted.simulate:
        _simulate(plans, wanted.seed, console)


def _explain(found: Blueprint, plans: list[Plan], console: Console) -> None:
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
    for plan in plans:
        line(_said(plan), "bold")


def _said(plan: Plan) -> str:
    pools = [
        f"{pool.name}: {pool.replicas} x {pool.layout.gpus} {pool.gpu}, weights {pool.precision}, KV {pool.kv_precision}"
        for pool in plan.pools
    ]
    limits = (("TTFT", plan.objective.ttft_s, 1.0, "s"), ("TPOT", plan.objective.tpot_s, 1e3, "ms"))
    asked = [f"{name} {limit * scale:g} {unit}" for name, limit, scale, unit in limits if limit is not None]
    return f"plan {plan.name}: {plan.model}; {'; '.join(pools)}; p{plan.objective.percentile}: {', '.join(asked)}"


def _simulate(plans: list[Plan], seed: int, console: Console) -> None:
    kept = []
    for plan in plans:
        ready = to_scenario(plan, seed=seed)
        run = build.simulated(ready.scenario, ready.recipe.make(seed, 1.0), plan.policy, 1.0, seed)
        print_runs([run], console)
        kept.append(keeps(plan, run))
        said = (
            f"{plan.name}: {run.good_ratio:.1%} of the requests meet all objectives; {plan.objective.percentile} % must"
        )
        console.print(Text(f"{said} [{run.label}]", style="green" if kept[-1] else "red"), soft_wrap=True)
    if not all(kept):
        raise typer.Exit(BROKEN)
