"""The page of a search: what fleets cost and give, what fills a GPU's memory, and latency over load."""

from collections.abc import Sequence
from pathlib import Path

from pilothouse.perf.catalog import precision_named
from pilothouse.plan.analytic import load_at
from pilothouse.plan.document import Plan
from pilothouse.plan.memory import held
from pilothouse.plan.promise import expected_of, fleets_of
from pilothouse.plan.search import Found, Question, titled
from pilothouse.plan.simulated import Hardware, engines_of
from pilothouse.report.chart_page import write_charts
from pilothouse.report.charts import Figure, axis, plain, rounded

LOADS = [0.05 * step for step in range(1, 20)]  # of the highest rate
DRAWN = 4  # plans whose latency is drawn


def write_page(path: Path, question: Question, found: Found, hardware: Hardware) -> None:
    """Raises PilothouseError without the extra `report`, ConfigError where the file cannot be written."""
    best = expected_of(found.plans[0])
    charts = [
        ("What fleets cost, and the most they serve", front(question, found.plans)),
        ("Memory of a GPU [GiB]", budget(hardware, found.plans[:DRAWN])),
        (
            "Time to first token over load [Estimated]",
            latency(question, hardware, found.plans[:DRAWN], "ttft_us", 1e6, "s"),
        ),
        (
            "Time per output token over load [Estimated]",
            latency(question, hardware, found.plans[:DRAWN], "tpot_us", 1e3, "ms"),
        ),
    ]
    said = [f"{titled(plan.pools)}: {plan.why[0]}" for plan in found.plans[:DRAWN]]
    said += [f"not {way.what}: {way.why}" for way in found.rejected]
    write_charts(path, question.name, charts, said, best.notes)


def front(question: Question, plans: Sequence[Plan]) -> Figure:
    """Nothing below the line costs less for as much."""
    by_cost = bool(expected_of(plans[0]).cost)
    points = sorted(
        (expected_of(p).usd_per_hour if by_cost else float(p.gpus), expected_of(p).requests_per_s_max, titled(p.pools))
        for p in plans
    )
    line: list[tuple[float, float, str]] = []
    for point in points:
        if not line or point[1] > line[-1][1]:
            line = [other for other in line if other[0] < point[0]] + [point]
    data = [
        {
            "type": "scatter", "mode": mode, "name": name, "x": [rounded(p[0]) for p in shown],
            "y": [rounded(p[1]) for p in shown], "text": [plain(p[2]) for p in shown],
            "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g} requests/s<extra></extra>",
        }
        for name, mode, shown in (("fleets", "markers", points), ("Pareto front", "lines+markers", line))
    ]  # fmt: skip
    x = axis("USD per hour" if by_cost else "GPUs", rangemode="tozero")
    return {"data": data, "layout": {"xaxis": x, "yaxis": axis("requests/s within the objectives", rangemode="tozero")}}


def budget(hardware: Hardware, plans: Sequence[Plan]) -> Figure:
    """A bar for each fleet's serving engines."""
    pools = [plan.pools[-1] for plan in plans]
    parts = [
        held(
            hardware.model,
            hardware.gpus[pool.gpu],
            pool.layout,
            precision_named(pool.precision),
            pool.memory_utilisation,
        )
        for pool in pools
    ]
    names = [plain(titled(plan.pools)) for plan in plans]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": names,
            "x": [rounded(getattr(part, field)) for part in parts],
        }
        for name, field in (("weights", "weights"), ("activation", "activation"), ("other", "other"), ("KV", "kv"))
    ]
    layout = {"barmode": "stack", "xaxis": axis("GiB"), "yaxis": {"autorange": "reversed", "automargin": True}}
    return {"data": data, "layout": layout}


def latency(
    question: Question, hardware: Hardware, plans: Sequence[Plan], figure: str, scale: float, unit: str
) -> Figure:
    """Until queues grow without end; the objective is a dotted line."""
    asks, objective = question.asks, question.objective
    data = []
    for plan in plans:
        highest = expected_of(plan).requests_per_s_max
        fleet = fleets_of(plan, engines_of(plan, hardware, asks.demand.context_mean))[0]
        rates = [share * highest for share in LOADS] + [highest]
        values = [getattr(load_at(fleet, asks, rate, objective.percentile), figure) / scale for rate in rates]
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": plain(titled(plan.pools)), "x": [rounded(r) for r in rates],
                "y": [None if value == float("inf") else rounded(value) for value in values],
            }
        )  # fmt: skip
    limit = objective.ttft_s if figure == "ttft_us" else objective.tpot_s
    shapes = []
    if limit is not None:
        at = limit * 1e6 / scale
        shapes = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at, "line": {"dash": "dot"}}]
    title = f"{figure.split('_', maxsplit=1)[0].upper()} p{objective.percentile} [{unit}]"
    layout = {
        "xaxis": axis("requests/s", rangemode="tozero"),
        "yaxis": axis(title, rangemode="tozero"),
        "shapes": shapes,
    }
    return {"data": data, "layout": layout}
