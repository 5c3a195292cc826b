"""Charts over load: throughput and its knee, latency percentiles, goodput, cache hits."""

from pilothouse.report.charts import (
    SYMBOLS,
    Chart,
    Choice,
    Figure,
    axis,
    band,
    bars,
    line,
    log_axis,
    rounded,
    spans_far,
)
from pilothouse.report.grouping import Book
from pilothouse.report.knee import RULE, knee
from pilothouse.report.metrics import METRICS

LATENCIES = (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("mean", "mean"))
TTFT_SAID = "from the scheduled send time to the first token"
UNSAID = "goodput: requests that met every objective"
ITL_SAID = "over every gap between two tokens of one answer"


def load_charts(book: Book) -> list[Chart]:
    """In order of the page."""
    goodput = next((note for run in book.runs for note in run.notes if note.startswith("goodput")), "")
    if len({book.x(rung) for rung in book.rungs}) < 2:
        return [
            _percentiles(book, "ttft", "Time to first token", TTFT_SAID),
            _percentiles(book, "itl", "Inter-token latency", ITL_SAID),
        ]
    return [
        _chart(book, "throughput", "Throughput against offered load", {"output tokens": "output", "requests": "achieved"},
               "over sending and draining", knees=True, wide=True),
        _chart(book, "ttft", "Time to first token over load", {name: f"ttft_{key}" for key, name in LATENCIES},
               TTFT_SAID, knees=True, group="percentile", chosen=2),
        _chart(book, "itl", "Inter-token latency over load", {name: f"itl_{key}" for key, name in LATENCIES},
               ITL_SAID, group="percentile", chosen=2),
        _chart(book, "goodput", "Goodput over load", {"goodput": "goodput"}, goodput or UNSAID),
        _chart(book, "hits", "Prefix cache hit rate over load", {"hits": "hits"}, "share of prompt tokens found in the cache"),
    ]  # fmt: skip


def _chart(
    book: Book, key: str, title: str, metrics: dict[str, str], note: str, *, knees: bool = False, group: str = "",
    chosen: int = 0, wide: bool = False,
) -> Chart:  # fmt: skip
    figures = {str(i): _curves(book, metric, knees) for i, metric in enumerate(metrics.values())}
    notes = [note, _knees_said(book) if knees else "", _interval(book)]
    choices = [Choice(group or key, list(metrics), chosen)] if len(metrics) > 1 else []
    return Chart(key, title, ". ".join(part for part in notes if part), book.labels, choices, figures, wide)


def _curves(book: Book, key: str, knees: bool) -> Figure:
    metric, data = METRICS[key], []
    shapes: list[Figure] = []
    x_title = "offered load [requests/s]" if book.by_rate else "load [x the workload's own]"
    curves = [book.curve(i, metric) for i in range(len(book.series))]
    means = [figure.mean for curve in curves for _, figure in curve]
    far = metric.better == "low" and spans_far(means)
    floor = min(mean for mean in means if mean > 0) / 2 if far else 0.0
    for i, (series, curve) in enumerate(zip(book.series, curves, strict=True)):
        xs, figures = [x for x, _ in curve], [figure for _, figure in curve]
        if any(figure.half for figure in figures):
            data.append(band(series, i, xs, figures, floor))
        mode = {"mode": "lines+markers", "marker": {"size": 7, "symbol": SYMBOLS.get(series.label, "circle")}}
        data.append(line(series, i, xs, [figure.mean for figure in figures], metric.unit, **mode))
        at = _knee_of(book, i) if knees else None
        if at is not None:
            data.append(_knee_mark(book, i, xs[at], figures[at].mean, metric.unit))
    if key == "achieved" and book.by_rate:
        end = max(book.x(rung) for rung in book.rungs)
        shapes = [{"type": "line", "x0": 0, "y0": 0, "x1": end, "y1": end, "line": {"dash": "dot", "width": 1}}]
    y = log_axis(means) if far else {"rangemode": "tozero"}
    if key == "hits":
        y = {"range": [0, 102]}
    layout = {"xaxis": axis(x_title, rangemode="tozero"), "yaxis": axis(f"{metric.title} [{metric.unit}]", **y)}
    return {"data": data, "layout": layout | {"shapes": shapes, "hovermode": "x unified"}}


def _percentiles(book: Book, key: str, title: str, note: str) -> Chart:
    """All of them at the one load there is; what else there is to say of it stands in the cards."""
    names = [name for name, _ in LATENCIES]
    figure = bars(book, names, [METRICS[f"{key}_{name}"] for name in names], key.upper())
    said = note + (f". Whiskers: 95 % intervals of the mean over up to {book.seeds} seeds" if book.seeds > 1 else "")
    return Chart(key, title, said, book.labels, [], {"0": figure})


def _knee_of(book: Book, series: int) -> int | None:
    return knee([figure.mean for _, figure in book.curve(series, METRICS["ttft_mean"])])


def _knee_mark(book: Book, place: int, x: float, y: float, unit: str) -> Figure:
    series = book.series[place]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [rounded(x)],
        "y": [rounded(y)],
        "meta": place,
        "marker": {"size": 17, "symbol": "circle-open", "color": series.colour, "line": {"width": 3}},
        "name": f"knee of {series.title}",
        "hoverinfo": "skip",
    }


def _knees_said(book: Book) -> str:
    found = []
    for i, series in enumerate(book.series):
        at, curve = _knee_of(book, i), book.curve(i, METRICS["ttft_mean"])
        if at is not None:
            found.append(f"{series.title} at {curve[at][0]:.4g}")
    said = f"Knees, ringed: {', '.join(found)}" if found else "No knee within these loads"
    return f"{said}. {RULE.rstrip('.')}"


def _interval(book: Book) -> str:
    return f"Bands: 95 % intervals of the mean over up to {book.seeds} seeds" if book.seeds > 1 else ""
