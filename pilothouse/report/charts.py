"""Charts as data for plotly: what is drawn, not how it is themed (`page.js` knows light and dark)."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Any

import msgspec

from pilothouse.report.estimates import Estimate
from pilothouse.report.grouping import Book, Series
from pilothouse.report.metrics import Metric, shown

Figure = dict[str, Any]  # plotly's own vocabulary: {"data": traces, "layout": layout}
SYMBOLS = {"Simulated": "circle", "Emulated": "diamond", "Measured": "square"}
LOG_SPAN = 20.0  # figures that differ by more than this factor are drawn on a logarithmic axis
FEW_DECADES = 2
DIGITS = 4  # of numbers in the page


class Choice(msgspec.Struct, frozen=True):
    """Buttons above a chart. Those of one `group` are pressed together, all over the page."""

    group: str
    options: list[str]
    chosen: int = 0


class Chart(msgspec.Struct, frozen=True):
    """One card of the page. `figures` are by the options chosen, in order, e.g. "0/2"; a part may be "*"."""

    key: str
    title: str
    note: str
    labels: list[str]  # Simulated, Measured, Emulated: where its figures come from
    choices: list[Choice]
    figures: dict[str, Figure]
    wide: bool = False


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def spans_far(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more of them."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > LOG_SPAN * min(positive)


def log_axis(values: Sequence[float]) -> Figure:
    """With a line at 1, 2, 5, 10 ... of every decade, or at the decades alone where there are many."""
    positive = [value for value in values if value > 0]
    low, high = floor(log10(min(positive))), ceil(log10(max(positive)))
    steps = (1, 2, 5) if high - low <= FEW_DECADES else (1,)
    ticks = [step * 10.0**decade for decade in range(low - 1, high + 2) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def axis(title: str, **more: Any) -> Figure:
    return {"title": {"text": title}, **more}


def line(series: Series, place: int, xs: Sequence[float], ys: Sequence[float], unit: str, **more: Any) -> Figure:
    """A line of one series; `place` lets the page's legend find it."""
    return {
        "type": "scatter",
        "x": [rounded(x) for x in xs],
        "y": [rounded(y) for y in ys],
        "name": series.title,
        "meta": place,
        "line": {"color": series.colour, "width": 2.5, "dash": series.dash},
        "hovertemplate": f"%{{y:.4g}} {unit}<extra>{plain(series.title)}</extra>",
        **more,
    }


def band(series: Series, place: int, xs: Sequence[float], figures: Sequence[Estimate], lowest: float = 0.0) -> Figure:
    """The 95 % interval around a line, down to `lowest`: a logarithmic axis has no zero."""
    highs, lows = [f.high for f in figures], [max(f.low, lowest) for f in figures]
    return {
        "type": "scatter",
        "x": [rounded(x) for x in [*xs, *reversed(xs)]],
        "y": [rounded(y) for y in [*highs, *reversed(lows)]],
        "fill": "toself",
        "fillcolor": faint(series.colour),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "meta": place,
    }


def bars(book: Book, names: Sequence[str], metrics: Sequence[Metric], title: str) -> Figure:
    """Where there is one load only: a group of bars per metric, a bar per series, its interval as a whisker."""
    data = []
    for i, series in enumerate(book.series):
        figures = [book.curve(i, metric)[0][1] for metric in metrics]
        halves = {"type": "data", "array": [rounded(f.half or 0.0) for f in figures]}
        data.append(
            {
                "type": "bar",
                "x": list(names),
                "y": [rounded(figure.mean) for figure in figures],
                "error_y": halves | {"visible": any(figure.half for figure in figures)},
                "marker": {"color": series.colour},
                "meta": i,
                "text": [shown(figure.mean) for figure in figures],
                "textposition": "outside" if book.seeds < 2 else "none",
                "cliponaxis": False,
                "hovertemplate": f"%{{x}} %{{y:.4g}} {metrics[0].unit}<extra>{plain(series.title)}</extra>",
            }
        )
    y = axis(f"{title} [{metrics[0].unit}]", rangemode="tozero")
    return {"data": data, "layout": {"xaxis": {"type": "category", "showgrid": False}, "yaxis": y, "bargap": 0.3}}


def faint(colour: str) -> str:
    """The same, mostly transparent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def plain(title: str) -> str:
    """Plotly reads a little HTML in texts."""
    return title.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")
