"""advise speculative: a workload in; methods, what each would gain, and which to use out."""

import json
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from pilothouse.cli.showing import ask_gateway
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.journal.day import read_day
from pilothouse.journal.log import segments
from pilothouse.perf.acceptance import Kind
from pilothouse.perf.catalog import gpu_named, model_named, precision_named
from pilothouse.perf.speculation import Method, method_named
from pilothouse.plan import speculative as planner
from pilothouse.plan.machine import Wanted, machine
from pilothouse.plan.source import read_source
from pilothouse.plugins import load_plugins


class Asked(msgspec.Struct, frozen=True):
    """What `advise speculative` was asked."""

    source: Path
    machine: Wanted
    replicas: int  # 0 = as many as the source knows
    work: str
    served: str
    gateway: str
    draft_tokens: int
    seed: int
    load: float
    as_json: bool


def speculative(asked: Asked) -> None:
    load_plugins()
    if asked.work not in list(Kind):
        raise ConfigError([Problem("--work", f"{asked.work!r} is none of: {', '.join(Kind)}")])
    made = machine(asked.machine, {})  # of things that are known, and fit
    source = read_source(asked.source, asked.served, asked.seed, asked.load)
    accepted, notes = _accepted(asked)
    advice = planner.advise(
        planner.Asked(
            source.workload,
            model_named(made.model),
            gpu_named(made.gpu),
            made.tp,
            precision_named(made.precision),
            made.step_time,
            asked.replicas or source.engines or 1,
            Kind(asked.work),
            accepted,
            asked.draft_tokens,
            asked.seed,
        )
    )
    if asked.as_json:
        typer.echo(json.dumps(msgspec.to_builtins(advice), indent=1))
        return
    _show(advice, [*source.notes, *notes])


def _accepted(asked: Asked) -> tuple[dict[Method, float], list[str]]:
    """What engines accept of what they draft, by a running gateway, else by the journal."""
    counts: dict[str, tuple[float, float]] = {}
    if asked.gateway:
        for endpoint in ask_gateway(asked.gateway, "/status")["endpoints"]:
            if endpoint["speculation"] and endpoint["acceptance"] is not None:
                drafted, accepted = counts.get(endpoint["speculation"], (0.0, 0.0))
                counts[endpoint["speculation"]] = drafted + 1.0, accepted + endpoint["acceptance"]
    elif asked.source.is_dir() and segments(asked.source):
        for engine in read_day(asked.source).engines.values():
            drafted, accepted = counts.get(engine.seen.speculation, (0.0, 0.0))
            counts[engine.seen.speculation] = drafted + engine.drafted_tokens, accepted + engine.accepted_tokens
    found: dict[Method, float] = {}
    notes: list[str] = []
    for told, (drafted, accepted) in counts.items():
        method = method_named(told)
        if method is None and drafted:
            notes.append(
                f"engines accept {accepted / drafted:.0%} of what {told or 'an unnamed method'} drafts: no method known"
            )
        elif method is not None and drafted:
            found[method] = accepted / drafted
    return found, notes


def _show(advice: planner.Advice, notes: list[str]) -> None:
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in (
        "method", "drafts", "acceptance", "tokens/step", "gain", "simulated", "constrained", "vanishes at",
        "GiB/GPU", "KV lost", "drafts with",
    ):  # fmt: skip
        table.add_column(column)
    for o in advice.options:
        unknown = o.method == Method.DRAFT_MODEL and not o.available
        memory = ("?", "?") if unknown else (f"{o.weights_gib:.2f}", f"{o.kv_lost:.1%}")
        table.add_row(
            o.method, str(o.draft_tokens), f"{o.acceptance:.2f} {o.label}", f"{o.tokens_per_step:.2f}", f"{o.gain:.2f}",
            "-" if o.simulated is None else f"{o.simulated:.2f}", f"{o.gain_constrained:.2f}",
            "never" if o.vanishes_at is None else str(o.vanishes_at), *memory, o.drafts_with,
            style="bold" if o.method == advice.method else "" if o.available else "dim",
        )  # fmt: skip
    console.print(table)
    said = f"use {advice.method}, {advice.draft_tokens} tokens" if advice.method else "do not speculate"
    console.print(f"[bold]{said}[/]", highlight=False)
    rest = [
        f"{advice.batch:.1f} sequences of {advice.context} tokens decode together on an engine [Simulated]",
        f"step times {advice.step_time}",
    ]
    for sentence in [*advice.reasons, *rest, *notes]:
        console.print(f"- {sentence}", highlight=False, markup=False, soft_wrap=True)
