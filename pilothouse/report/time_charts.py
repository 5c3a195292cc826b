"""Charts over time: latency percentiles, throughput, hits, and each replica's KV use and queue."""

from collections.abc import Callable
from typing import Any

from pilothouse.report.charts import Chart, Choice, Figure, axis, line, log_axis, rounded, spans_far
from pilothouse.report.files import Mark
from pilothouse.report.grouping import Book
from pilothouse.workload.outcomes import Moment, Sample, Spread, StageRun

CELLS_MAX = 400_000  # numbers of all heat maps together: a page of a few megabytes
BINS_MIN, BINS_MAX = 24, 120  # columns of one heat map
ROWS_MAX = 256  # replicas shown; more are less than a pixel each
LINES_REPLICAS = 1  # so few replicas are lines, not heat maps
PERCENTILES: tuple[tuple[str, Callable[[Spread], float]], ...] = (
    ("p50", lambda s: s.p50),
    ("p90", lambda s: s.p90),
    ("p99", lambda s: s.p99),
    ("mean", lambda s: s.mean),
)
OVER_TIME = "requests sent in one slice of time"


def time_charts(book: Book, marks: list[Mark]) -> list[Chart]:
    """Those for which anything was recorded; the first choice of each is the rung."""
    if not any(stage.timeline for cell in book.cells.values() for stage in cell.stages):
        return []
    said = f"{OVER_TIME}, {_seed_said(book)}"
    return [
        _percentiles(book, marks, "ttft_time", "Time to first token over time", "TTFT [s]", lambda m: m.ttft, 1.0, said),
        _percentiles(
            book, marks, "tpot_time", "Time per output token over time", "TPOT [ms]", lambda m: m.tpot, 1000.0,
            f"mean gap of each request; {said}",
        ),
        _one(book, marks, "output_time", "Output over time", "output [tok/s]", lambda m: m.output_per_second, "tok/s",
             f"tokens of the answers that ended in one slice of time, {_seed_said(book)}"),
        _one(book, marks, "hits_time", "Prefix cache hit rate over time", "hits [%]", lambda m: 100 * m.hit_ratio, "%", said),
    ]  # fmt: skip


def replica_charts(book: Book, marks: list[Mark]) -> list[Chart]:
    """KV use and queue. One replica is a line, several are a heat map with a row each."""
    shapes = {(i, j): _replicas(cell.stages[0]) for (i, j), cell in book.cells.items() if cell.stages[0].replicas}
    if not shapes:
        return []
    figures = sum(shapes.values())
    bins = max(BINS_MIN, min(BINS_MAX, CELLS_MAX // (2 * figures)))
    few = max(shapes.values()) <= LINES_REPLICAS
    kinds: tuple[tuple[str, str, str, Callable[[Sample], float], float | None], ...] = (
        ("kv", "KV cache use per replica", "KV used [%]", lambda s: 100 * s.kv_used_ratio, 100.0),
        ("queue", "Queue per replica", "waiting [requests]", lambda s: float(s.waiting), None),
    )
    charts = []
    for key, title, unit, value, top in kinds:
        if few:
            title = title.removesuffix(" per replica")
            charts.append(_lines_of_one(book, marks, key, title, unit, value, bins, top))
        else:
            charts.append(_heat(book, key, title, unit, value, bins, top))
    return charts


def _percentiles(
    book: Book, marks: list[Mark], key: str, title: str, unit: str, of: Callable[[Moment], Spread], factor: float, note: str
) -> Chart:  # fmt: skip
    figures = {}
    for j in range(len(book.rungs)):
        for p, (_, pick) in enumerate(PERCENTILES):

            def value(moment: Moment, pick: Callable[[Spread], float] = pick) -> float:
                return factor * pick(of(moment))

            figures[f"{j}/{p}"] = _timeline(book, marks, j, unit, value, unit.split("[")[1].rstrip("]"))
    choices = [_rungs(book), Choice("percentile", [name for name, _ in PERCENTILES], 2)]
    return Chart(key, title, note, book.labels, choices, figures)


def _one(
    book: Book, marks: list[Mark], key: str, title: str, axis_title: str, value: Callable[[Moment], float], unit: str, note: str
) -> Chart:  # fmt: skip
    figures = {str(j): _timeline(book, marks, j, axis_title, value, unit) for j in range(len(book.rungs))}
    return Chart(key, title, note, book.labels, [_rungs(book)], figures)


def _timeline(
    book: Book, marks: list[Mark], rung: int, title: str, value: Callable[[Moment], float], unit: str
) -> Figure:
    data, end, seen = [], 0.0, list[float]()
    for i, series in enumerate(book.series):
        cell = book.cells.get((i, rung))
        moments = [moment for moment in cell.stages[0].timeline if moment.sent or unit == "tok/s"] if cell else []
        if moments:
            xs, ys = [m.at_s for m in moments], [value(m) for m in moments]
            data.append(line(series, i, xs, ys, unit, mode="lines" if len(xs) > 1 else "markers"))
            end, seen = max(end, xs[-1]), seen + ys
    y: Figure = {"range": [0, 102]} if unit == "%" else {"rangemode": "tozero"}
    if unit in ("s", "ms") and spans_far(seen):
        y = log_axis(seen)
    layout = {"xaxis": axis("time [s]"), "yaxis": axis(title, **y), "hovermode": "x unified"}
    return {"data": data, "layout": layout | _marked(marks, end)}


def _lines_of_one(
    book: Book, marks: list[Mark], key: str, title: str, unit: str, value: Callable[[Sample], float], bins: int,
    top: float | None,
) -> Chart:  # fmt: skip
    figures = {}
    for j in range(len(book.rungs)):
        data, end = [], 0.0
        for i, series in enumerate(book.series):
            cell = book.cells.get((i, j))
            if cell and cell.stages[0].replicas:
                xs, _, rows = _grid(cell.stages[0], value, bins)
                end = max(end, xs[-1])
                data.append(line(series, i, xs, [y or 0.0 for y in rows[0]], unit.split("[")[1][:-1], mode="lines"))
        more: Figure = {"range": [0, top * 1.02]} if top else {}
        y = axis(unit, rangemode="tozero", **more)
        figures[str(j)] = {"data": data, "layout": {"xaxis": axis("time [s]"), "yaxis": y} | _marked(marks, end)}
    return Chart(key, title, f"of the one replica, {_seed_said(book)}", book.labels, [_rungs(book)], figures)


def _heat(
    book: Book, key: str, title: str, unit: str, value: Callable[[Sample], float], bins: int, top: float | None
) -> Chart:
    grids = {
        (j, i): _grid(cell.stages[0], value, bins) for (i, j), cell in book.cells.items() if cell.stages[0].replicas
    }
    highest: dict[int, float] = {}  # one scale per rung, so that policies can be compared
    for (j, _), (_, _, rows) in grids.items():
        highest[j] = max([highest.get(j, 1.0), *(cell for row in rows for cell in row if cell is not None)])
    figures = {}
    for (j, i), (xs, names, rows) in grids.items():
        figures[f"{j}/{i}"] = {
            "data": [
                {
                    "type": "heatmap",
                    "x": xs,
                    "y": names,
                    "z": rows,
                    "zmin": 0,
                    "zmax": top or highest[j],
                    "xgap": 0,
                    "ygap": 1 if len(names) <= 32 else 0,
                    "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 10, "outlinewidth": 0},
                    "hovertemplate": f"%{{y}} at %{{x}} s: %{{z:.3g}} {unit.split('[')[1][:-1]}<extra></extra>",
                }
            ],
            "layout": {
                "xaxis": axis("time [s]", showgrid=False),
                "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False, "type": "category"},
                "height": max(300, min(640, 120 + 14 * len(names))),
            },
        }
    choices = [_rungs(book), Choice("series", [series.title for series in book.series])]
    shown = max(len(names) for _, names, _ in grids.values())
    most = max(_replicas(cell.stages[0]) for cell in book.cells.values())
    cut = f"; the first {shown} of {most} replicas" if shown < most else ""
    note = f"one row per replica, mean of its samples in each column, {_seed_said(book)}{cut}"
    return Chart(key, title, note, book.labels, choices, figures)


def _grid(
    stage: StageRun, value: Callable[[Sample], float], bins: int
) -> tuple[list[float], list[str], list[list[float | None]]]:
    """(times, replicas, a row of means per replica); None where a replica gave no sample."""
    names = list(dict.fromkeys(sample.endpoint for sample in stage.replicas))[:ROWS_MAX]
    rows_of = {name: i for i, name in enumerate(names)}
    times = sorted({sample.at_s for sample in stage.replicas})
    first, last = times[0], times[-1]
    columns = min(bins, len(times))
    width = (last - first) / (columns - 1) if columns > 1 else 1.0
    sums = [[0.0] * columns for _ in names]
    counts = [[0] * columns for _ in names]
    for sample in stage.replicas:
        row = rows_of.get(sample.endpoint)
        if row is not None:
            at = min(columns - 1, round((sample.at_s - first) / width))
            sums[row][at] += value(sample)
            counts[row][at] += 1
    cells = [
        [float(f"{total / count:.3g}") if count else None for total, count in zip(*pair, strict=True)]
        for pair in zip(sums, counts, strict=True)
    ]
    return [rounded(first + i * width) for i in range(columns)], [str(name) for name in names], cells


def _replicas(stage: StageRun) -> int:
    return len(dict.fromkeys(sample.endpoint for sample in stage.replicas))


def _rungs(book: Book) -> Choice:
    return Choice("rung", [rung.title for rung in book.rungs])


def _seed_said(book: Book) -> str:
    """Over time, seeds are not averaged: one run is shown as it went."""
    return f"seed {next(iter(book.cells.values())).seeds[0]}"


def _marked(marks: list[Mark], end_s: float) -> dict[str, Any]:
    """Faults as shaded stretches, up to the end of what is drawn."""
    marks = [mark for mark in marks if mark.at_s <= end_s]
    shapes = [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": mark.at_s, "y0": 0, "y1": 1, "line": {"width": 0},
         "x1": end_s if mark.until_s is None else min(mark.until_s, end_s), "fillcolor": "rgba(225,87,89,0.13)"}
        for mark in marks
    ]  # fmt: skip
    notes = [
        {"x": mark.at_s, "y": 1, "xref": "x", "yref": "paper", "text": mark.text, "showarrow": False,
         "xanchor": "left", "yanchor": "top", "font": {"size": 11}}
        for mark in marks
    ]  # fmt: skip
    return {"shapes": shapes, "annotations": notes} if marks else {}
