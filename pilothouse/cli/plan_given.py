"""plan --blueprint, plan PLAN.yaml: fleets that somebody chose already: what they promise, and whether they keep it."""

from pathlib import Path
from typing import Any

import msgspec
import typer
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from pilothouse.cli.plan_page import write_page
from pilothouse.cli.plan_question import prices_of, question_of
from pilothouse.cli.plan_table import show
from pilothouse.cli.plan_wanted import Asked, Wanted, read_wanted
from pilothouse.cli.planning import Answer, rehearsed, write_plan
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.blueprint import NAMES, Blueprint, load
from pilothouse.plan.document import Plan
from pilothouse.plan.plan_file import read_plan
from pilothouse.plan.promise import Terms, expected_of, promised
from pilothouse.plan.rehearsal import confirmed, job
from pilothouse.plan.search import Found, Question
from pilothouse.plan.simulated import Hardware, hardware_of
from pilothouse.plan.source import Source
from pilothouse.plugins import load_plugins

DOUBT = 1.5  # times the highest rate by sums: beyond, simulation need not say that queues grow, and would take long
BROKEN = 1  # exit status where a promise does not hold
OF_A_SEARCH = ("gpus", "goal")  # what is said already where there is a fleet
OWN = (
    "model",
    "gpu",
    "workload",
    "prompt_tokens",
    "output_tokens",
    "concurrency",
    "classes",
)  # of one plan: several are not changed alike


class How(msgspec.Struct, frozen=True):
    """What is to be done with them."""

    simulate: bool = True
    seed: int = 1
    out: Path | None = None
    page: Path | None = None
    json: bool = False


class Judged(msgspec.Struct, frozen=True):
    """A plan with what it promises, and what that was found out with."""

    plan: Plan
    question: Question
    source: Source
    hardware: Hardware


def list_blueprints() -> None:
    for name in NAMES:
        typer.echo(f"{name:8}{load(name).title}")


def check(blueprint: str, file: Path | None, given: dict[str, Any], how: How) -> None:
    own = {name: value for name, value in given.items() if value not in (None, "", [])}
    problems = [Problem(f"--{name}", "is for a search: this fleet is chosen") for name in OF_A_SEARCH if name in own]
    if blueprint and file is not None:
        problems.append(Problem("--blueprint", f"and {file}: one of the two"))
    if problems:
        raise ConfigError(problems)
    load_plugins()
    found = load(blueprint) if blueprint else None
    plans = [read_plan(file)] if found is None and file is not None else found.plans if found else []
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
    if found is not None and not how.json:
        explain(found)
    base = Path() if file is None else file.parent
    judged = [judge(_changed(plan, own), own, base, how) for plan in plans]
    if how.json:
        answer = Answer([one.plan for one in judged], [])
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())
    else:
        for one in judged:
            told = one.plan if found is None else replace(one.plan, why=[])  # explained above
            show(one.question, Found([told], []), one.source, why=False)
            Console().print(_verdict(one), soft_wrap=True)
    for one in judged:
        _write(one, len(judged) > 1, how, Path() if _asks_other(own) else base)
    if any(missed(one) for one in judged):
        raise typer.Exit(BROKEN)


def missed(one: Judged) -> list[str]:
    """What a plan does not keep of what is asked of it."""
    objective, expected, asked = one.plan.objective, expected_of(one.plan), one.question.asks.rate
    pairs = (("TTFT", expected.ttft_s, objective.ttft_s), ("TPOT", expected.tpot_s, objective.tpot_s))
    found = [
        f"{name} p{objective.percentile} {value:.3g} s of {limit:g} s"
        for name, value, limit in pairs
        if limit is not None and value > limit and not expected.classes
    ]
    found += [f"an objective of {name}" for name, met in expected.classes.items() if not met.keeps]
    if expected.requests_per_s < asked and one.question.asks.closed is None:
        found.append(f"{expected.requests_per_s:.3g} of {asked:.3g} requests/s can be served")
    return found


def _asks_other(own: dict[str, Any]) -> bool:
    """Whether a workload of one's own is in the place of the plan's."""
    return any(name in own for name in ("workload", "prompt_tokens", "output_tokens", "shared_prefix", "concurrency"))


def _verdict(one: Judged) -> Text:
    label = expected_of(one.plan).confidence.value.capitalize()
    if broken := missed(one):
        return Text(f"{one.plan.name}: not kept: {'; '.join(broken)} [{label}]", style="red")
    return Text(f"{one.plan.name}: what it promises is kept [{label}]", style="green")


def _changed(plan: Plan, own: dict[str, Any]) -> Plan:
    """With what is one's own in place of what it says."""
    wanted, _ = read_wanted(None, own)
    pools = [
        replace(
            pool,
            gpu=own.get("gpu", pool.gpu),
            precision=wanted.precisions[0] if "precisions" in own else pool.precision,
            kv_precision=own.get("kv_precision", pool.kv_precision),
        )
        for pool in plan.pools
    ]
    if len(own.get("precisions", ())) > 1:
        raise ConfigError([Problem("--precision", "one, where the fleet is chosen")])
    objective = replace(
        plan.objective,
        percentile=own.get("percentile", plan.objective.percentile),
        ttft_s=plan.objective.ttft_s if wanted.ttft is None else wanted.ttft.seconds,
        tpot_s=plan.objective.tpot_s if wanted.tpot is None else wanted.tpot.seconds,
    )
    return replace(
        plan,
        model=own.get("model", plan.model),
        pools=pools,
        objective=objective,
        rate=own.get("rate", None if _asks_other(own) else plan.rate),
    )


def judge(plan: Plan, own: dict[str, Any], base: Path, how: How) -> Judged:
    hardware, (given, _) = hardware_of(plan), read_wanted(None, own)
    first = plan.pools[0]
    wanted: Wanted = replace(
        given, model=plan.model, gpu=first.gpu, gpus=plan.gpus, gpus_per_node=first.gpus_per_node, rate=plan.rate,
        workload=given.workload if _asks_other(own) else plan.workload,
        precisions=[first.precision], kv_precision=first.kv_precision,
    )  # fmt: skip
    asked = Asked(wanted, Path() if _asks_other(own) else base, seed=how.seed, at_once=True)
    question, source = question_of(asked)
    classes = plan.classes | question.classes
    plan = replace(plan, workload=question.workload)
    question = replace(question, name=plan.name, objective=plan.objective, classes=classes)
    prices = prices_of(asked, list(hardware.gpus.values()))
    terms = Terms(question.asks, prices, question.buying)
    made = promised(replace(plan, classes=classes), hardware, terms)
    if question.asks.rate > (DOUBT if how.simulate else 1.0) * expected_of(made).requests_per_s_max:
        made = promised(replace(plan, classes=classes), hardware, terms, capped=True)
    if how.simulate and expected_of(made).requests_per_s_max:
        task = job(made, hardware, question.asks, source.workload, how.seed)
        made = confirmed(made, rehearsed([task], Console(stderr=True))[0])
    return Judged(made, question, source, hardware)


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
