"""advise tiers: a workload in, a curve, a table of tiers and a verdict out."""

from collections.abc import Sequence
from math import log10
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Tier
from pilothouse.perf.storage import STORAGES, Storage
from pilothouse.plan.machine import Wanted, lasts, machine
from pilothouse.plan.source import Source, read_source
from pilothouse.plan.tiers import TITLES, Point, TierAdvice, advise_tiers
from pilothouse.report.chart_page import write_chart
from pilothouse.report.charts import Figure, axis, log_axis
from pilothouse.workload.demand import context_mean, survey

BAR = 30  # characters of a full bar


class Asked(msgspec.Struct, frozen=True):
    """What `advise tiers` was asked."""

    source: Path
    machine: Wanted | None
    replicas: int  # 0 = as the source knows
    hbm_tokens: int | None
    dram_gb: float | None  # of each GPU
    disk_gb: float | None
    served: str
    seed: int
    load: float
    json: bool
    page: Path | None


def tiers(asked: Asked) -> None:
    source = read_source(asked.source, asked.served, asked.seed, asked.load)
    if asked.hbm_tokens is not None:
        source = msgspec.structs.replace(source, kv_tokens=asked.hbm_tokens)
    found = advice(source, asked.machine, asked.replicas, _storages(asked))
    if asked.page is not None:
        title = f"{found.source}: hits against cache size [{found.label}]"
        write_chart(asked.page, title, _figure(found), [f"10x larger? {found.tenfold}", found.verdict], found.notes)
    if asked.json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    show(found, _console())
    if asked.page is not None:
        typer.echo(f"page: {asked.page}")


def advice(
    source: Source, wanted: Wanted | None, replicas: int = 0, storages: dict[Tier, Storage] = STORAGES
) -> TierAdvice:
    made = machine(wanted, {}, context_mean(source.workload)) if wanted is not None else None
    engines = replicas or source.engines
    found = survey(source.workload, lasts(made), max(1, engines))
    return advise_tiers(source, found, made, engines, storages)


def _storages(asked: Asked) -> dict[Tier, Storage]:
    rooms = {Tier.DRAM: asked.dram_gb, Tier.DISK: asked.disk_gb}
    found = dict(STORAGES)
    for tier, room in rooms.items():
        if room == 0:
            del found[tier]
        elif room is not None:
            if room < 0:
                raise ConfigError([Problem(f"--{tier.value}-gb", "must not be below 0")])
            found[tier] = msgspec.structs.replace(found[tier], room_gb=room)
    return found


def _console() -> Console:
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    return console


def show(found: TierAdvice, console: Console) -> None:
    title = f"{found.source}: {found.requests:,} requests, {found.prompt_tokens:,} prompt tokens [{found.label}]"
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(_curve(found.curve, found.ceiling))
    if found.tiers:
        console.print(_tiers(found))
    if found.measured_ratio is not None:
        told = "" if found.hit_ratio is None else f"; the curve says {found.hit_ratio:.1%} at the engines' capacity"
        console.print(Text(f"engines found {found.measured_ratio:.1%} of prompt tokens cached [Measured]{told}"))
    console.print(
        Text("does a 10x larger cache raise the hit rate? ", style="bold"), Text(found.tenfold), soft_wrap=True
    )
    console.print(Text(found.verdict, style="green" if found.pays else "yellow"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def _figure(found: TierAdvice) -> Figure:
    """The curve with its ceiling, and lines where something has that size."""
    xs, ys = [point.tokens for point in found.curve], [100 * point.hit_ratio for point in found.curve]
    line = {"type": "scatter", "mode": "lines+markers", "hovertemplate": "%{x:,} tokens: %{y:.1f} %<extra></extra>"}
    data = [line | {"x": xs, "y": ys, "name": "one cache for all"}]
    if any(point.apart_ratio is not None for point in found.curve):
        data.append(
            line | {"x": xs, "y": [100 * (p.apart_ratio or 0) for p in found.curve], "name": "caches of their own"}
        )
    named = [point for point in found.curve if point.name]
    top = 100 * found.ceiling
    shapes = [{"type": "line", "x0": p.tokens, "x1": p.tokens, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot"}}
              for p in named]  # fmt: skip
    shapes.append({"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": top, "y1": top, "line": {"dash": "dash"}})
    texts = [{"x": log10(p.tokens), "y": 1.0, "yref": "paper", "text": p.name, "showarrow": False, "textangle": -90,
              "xanchor": "right", "yanchor": "top"} for p in named]  # fmt: skip
    x = axis("capacity [tokens]", **log_axis([float(tokens) for tokens in xs]))
    layout = {"xaxis": x, "yaxis": axis("hits [% of prompt tokens]", rangemode="tozero"), "shapes": shapes}
    return {"data": data, "layout": layout | {"annotations": texts}}


def _curve(points: Sequence[Point], ceiling: float) -> Table:
    apart = any(point.apart_ratio is not None for point in points)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("tokens", "GB", "hits %"):
        table.add_column(head, justify="right")
    if apart:
        table.add_column("apart %", justify="right")
    table.add_column(f"of {ceiling:.1%} without limit")
    table.add_column("")
    for point in points:
        bar = "█" * round(BAR * point.hit_ratio / ceiling) if ceiling else ""
        gb = "" if point.gb is None else f"{point.gb:,.4g}" if point.gb < 1 else f"{point.gb:,.0f}"
        own = [] if not apart else ["" if point.apart_ratio is None else f"{100 * point.apart_ratio:.1f}"]
        style = "bold" if point.name else ""
        table.add_row(f"{point.tokens:,}", gb, f"{100 * point.hit_ratio:.1f}", *own, bar, point.name, style=style)
    return table


def _tiers(found: TierAdvice) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("tier", "holds tokens", "fetch us/token", "compute us/token", "hits %", "saves prefill %", "GPUs",
                 "reads GB/s", "pays", "speed and room from"):  # fmt: skip
        table.add_column(head, justify="left" if head in ("tier", "pays", "speed and room from") else "right")
    for below in found.tiers:
        table.add_row(
            TITLES[below.tier],
            f"{below.tokens:,}" if below.tokens else "any",
            f"{below.fetch_us:.2f}",
            f"{below.compute_us:.2f}",
            f"{100 * below.hit_ratio:.1f}",
            f"{100 * below.saved_ratio:.0f}",
            "?" if below.saved_gpus is None else f"{below.saved_gpus:.2g}",
            "?" if below.gb_per_s is None else f"{below.gb_per_s:.2g}",
            "yes" if below.pays else "no",
            below.source,
        )
    return table
