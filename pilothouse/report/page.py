"""Runs as one HTML file: charts, figures and what was run, drawn by the browser without any network."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.report.charts import Chart
from pilothouse.report.estimates import Estimate
from pilothouse.report.files import Saved
from pilothouse.report.grouping import Book, group
from pilothouse.report.knee import knee
from pilothouse.report.load_charts import load_charts
from pilothouse.report.metrics import METRICS, Metric, shown
from pilothouse.report.tables import COLUMNS, notes, of_tenant
from pilothouse.report.time_charts import replica_charts, time_charts
from pilothouse.workload.outcomes import Run

CARDS = "goodput output ttft_mean ttft_p99 itl_p99 hits".split()
TIMES = " \N{MULTIPLICATION SIGN} "
EXTRA = "pip install 'pilothouse[report]'"
MEANINGS = {
    "Simulated": "virtual engines whose step times follow from coefficients; no GPU was used.",
    "Emulated": "real HTTP, engines that behave as simulated ones would; no GPU was used.",
    "Measured": "real engines.",
}


def write_page(runs: Sequence[Run], path: Path, saved: Saved | None = None) -> None:
    """`saved` tells how the runs were made, for the footer. Raises PilothouseError without the extra `report`."""
    text = page(saved or Saved(list(runs)), runs)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None


def check_extra() -> None:
    """Before a long run rather than after it."""
    _plotly()


def page(saved: Saved, runs: Sequence[Run]) -> str:
    """The whole file."""
    book = group(runs)
    if not book.cells:
        raise PilothouseError("there is nothing to draw: no run has a reported stage")
    parts = [
        ("Over load" if len(book.rungs) > 1 else "Figures", load_charts(book)),
        ("Over time", time_charts(book, saved.marks)),
        ("Replicas", replica_charts(book, saved.marks)),
    ]
    charts = [chart for _, group_ in parts for chart in group_]
    return rendered(
        "page.html",
        charts,
        title=" and ".join(dict.fromkeys(run.scenario for run in runs)),
        about=_about(book),
        labels=book.labels,
        meanings={label: MEANINGS.get(label, "") for label in book.labels},
        series=book.series,
        rungs=book.rungs,
        chosen=telling_rung(book),
        cards=[_cards(book, j) for j in range(len(book.rungs))],
        parts=parts,
        metrics=_columns(),
        tables=[_table(book, j) for j in range(len(book.rungs))],
        tenants=len(book.tenants()) > 1,
        intervals=book.seeds > 1,
        notes=notes(runs),
        command=saved.command,
        source=saved.source,
        version=saved.version,
    )


def rendered(template: str, charts: list[Chart], **values: Any) -> str:
    """A page that needs nothing else: its look and its charts, which `page.js` draws, in it."""
    folder = files("pilothouse.report") / "assets"
    names = ("base.html", template, "page.css", "page.js")
    asset = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    loader = jinja2.DictLoader(asset)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return environment.get_template(template).render(
        css=Markup(asset["page.css"]),
        js=Markup(asset["page.js"]),
        plotly=Markup(_plotly()),
        data=Markup(_json(charts)),
        **values,
    )


def telling_rung(book: Book) -> int:
    """The load at which a page opens: the highest that any series still bears, else the highest."""
    top, found = max(map(book.x, book.rungs)), []
    for i in range(len(book.series)):
        curve = book.curve(i, METRICS["ttft_mean"])
        at = knee([figure.mean for _, figure in curve])
        found.append(top if at is None else curve[at][0])
    wanted = max(found)
    return max(j for j, rung in enumerate(book.rungs) if book.x(rung) == wanted)


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError:
        raise PilothouseError(f"the report's charts need plotly: {EXTRA}; tables and --json do without") from None
    return str(get_plotlyjs())


def _json(charts: list[Chart]) -> str:
    """Inside a script element nothing may look like its end."""
    return (
        msgspec.json.encode(charts)
        .decode()
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def _about(book: Book) -> str:
    def counted(count: int, noun: str, nouns: str) -> str:
        return f"{count} {noun if count == 1 else nouns}"

    policies = book.labels == ["Simulated"]
    parts = [
        counted(len(book.series), *(("policy", "policies") if policies else ("series", "series"))),
        counted(len(book.rungs), "load", "loads"),
        counted(book.seeds, "seed", "seeds"),
    ]
    return f"{TIMES.join(parts)}: {counted(len(book.runs), 'run', 'runs')}"


def _cards(book: Book, rung: int) -> list[dict[str, Any]]:
    return [_card(book, rung, METRICS[key]) for key in CARDS]


def _card(book: Book, rung: int, metric: Metric) -> dict[str, Any]:
    """The best series' figure large, all as bars below."""
    found = [(i, book.cells[i, rung].estimate(metric).mean) for i in range(len(book.series)) if (i, rung) in book.cells]
    pick = max if metric.better == "high" else min
    best = pick(found, key=lambda pair: pair[1])
    longest = max(value for _, value in found) or 1.0
    rows = [
        {
            "series": i,
            "title": book.series[i].title,
            "colour": book.series[i].colour,
            "value": shown(value),
            "width": round(100 * value / longest, 1),
        }
        for i, value in sorted(found, key=lambda pair: pair[1], reverse=metric.better == "high")
    ]
    return {
        "title": f"{metric.title[0].upper()}{metric.title[1:]}",
        "unit": metric.unit,
        "best": shown(best[1]),
        "rows": rows,
        "whose": _whose(book, found, best, metric) if len(found) > 1 else "",
    }


def _whose(book: Book, found: list[tuple[int, float]], best: tuple[int, float], metric: Metric) -> str:
    """Whose figure it is, and how far the worst is from it."""
    shares = [shown(value) for _, value in found]
    if len(set(shares)) == 1:
        return "all the same"
    worst = (min if metric.better == "high" else max)(found, key=lambda pair: pair[1])
    title = book.series[best[0]].title
    if min(best[1], worst[1]) <= 0 or metric.unit == "%":
        return title
    other = book.series[worst[0]].title
    if metric.better == "high":
        return f"{title}, {shown(best[1] / worst[1])} times {other}" if best[1] >= 1.05 * worst[1] else title
    less = 100 * (1 - best[1] / worst[1])
    return f"{title}, {less:.{1 if less > 99 else 0}f} % below {other}" if less >= 5 else title


def _columns() -> list[Metric]:
    return [METRICS[key] for key in COLUMNS]


def _table(book: Book, rung: int) -> list[dict[str, Any]]:
    """Rows of one load: each series, and below it its tenants where there are several."""
    cells = {i: book.cells[i, rung] for i in range(len(book.series)) if (i, rung) in book.cells}
    tenants = book.tenants() if len(book.tenants()) > 1 else []
    best = {m.key: _best([cell.estimate(m) for cell in cells.values()], m) for m in _columns()}
    rows: list[dict[str, Any]] = []
    for i, cell in cells.items():
        series = book.series[i]
        base = {"title": series.title, "dash": series.dash, "colour": series.colour}
        figures = [(m, cell.estimate(m)) for m in _columns()]
        rows.append(
            base
            | {"tenant": "all" if tenants else "", "part": False, "cells": [_cell(f, best[m.key]) for m, f in figures]}
        )
        for tenant in tenants:
            if all(tenant in stage.tenants for stage in cell.stages):
                parts = [cell.estimate(m, of_tenant(tenant)) for m in _columns()]
                rows.append(base | {"tenant": tenant, "part": True, "cells": [_cell(f, None) for f in parts]})
    return rows


def _best(figures: list[Estimate], metric: Metric) -> float | None:
    """The mean that stands out: better than all others by more than the intervals; None if there is none."""
    if len(figures) < 2 or not metric.better:
        return None
    high = metric.better == "high"
    ranked = sorted(figures, key=lambda figure: figure.mean, reverse=high)
    first, second = ranked[0], ranked[1]
    apart = first.low > second.high if high else first.high < second.low
    return first.mean if apart and shown(first.mean) != shown(second.mean) else None


def _cell(figure: Estimate, best: float | None) -> dict[str, Any]:
    half = shown(figure.half) if figure.half is not None else ""
    return {"mean": shown(figure.mean), "half": half, "best": figure.mean == best}
