"""The charts of a plan's page: what fleets cost and give, latency over load, a GPU's memory, and what the bill is made of."""

from collections.abc import Sequence

from msgspec import Struct

from pilothouse.core.events import Role
from pilothouse.perf.catalog import precision_named
from pilothouse.plan.analytic import load_at
from pilothouse.plan.document import Confidence, Plan
from pilothouse.plan.memory import held
from pilothouse.plan.promise import expected_of, fleets_of
from pilothouse.plan.question import Question
from pilothouse.plan.search import titled
from pilothouse.plan.simulated import Hardware, engines_of
from pilothouse.report.charts import Chart, Figure, axis, faint, plain, rounded

LOADS = [0.05 * step for step in range(1, 21)]  # of the highest rate
HEADROOM = 1.5  # of the highest limit or figure that a chart shows
PARTS = {
    "weights": "#7a8699", "working memory": "#b98a3c", "driver and communication": "#9aa5b5",
    "KV of running requests": "#d2495c",    "KV cache": "#2f8f6b", "left free": "#c9d0da",
}  # fmt: skip
WHATS = {"all day": "#3b7cff", "base": "#3b7cff", "following the load": "#e08a1e", "burst": "#e08a1e"}


class Drawn(Struct, frozen=True):
    """A fleet with its colour in all charts."""

    plan: Plan
    title: str
    colour: str


def front(plans: Sequence[Plan], drawn: Sequence[Drawn]) -> Chart:
    """Nothing below the line costs less for as much."""
    by_cost = bool(expected_of(plans[0]).cost)

    def at(plan: Plan) -> tuple[float, float, str]:
        found = expected_of(plan)
        return found.usd_per_hour if by_cost else float(plan.gpus), found.requests_per_s_max, titled(plan.pools)

    points, line = sorted(at(plan) for plan in plans), list[tuple[float, float, str]]()
    for point in points:
        if not line or point[1] > line[-1][1]:
            line = [other for other in line if other[0] < point[0]] + [point]
    data = [
        _points(line, "Pareto front", mode="lines", line={"color": "#8a94a6", "width": 1.5, "dash": "dot"}),
        _points(points, "other fleets", mode="markers", marker={"color": "#8a94a6", "size": 7, "opacity": 0.6}),
    ]
    for i, one in enumerate(drawn):
        data.append(
            _points([at(one.plan)], one.title, mode="markers", marker={"color": one.colour, "size": 12}, meta=i)
        )
    layout = {
        "xaxis": axis("USD per hour, in the mean" if by_cost else "GPUs"), "height": 380,
        "yaxis": axis("requests/s within the objectives", rangemode="tozero"),
    }  # fmt: skip
    note = (
        "Each point is a fleet, at the most that it serves within the objectives. None on the line is beaten in both."
    )
    return _chart("front", "What fleets cost, and the most they serve", note, data, layout, wide=True)


def latency(question: Question, hardware: Hardware, drawn: Sequence[Drawn], key: str) -> Chart:
    """`key`: ttft or tpot. Until queues grow without end; the band is what the sums allow for."""
    objective = question.objective
    unit, scale = ("s", 1.0) if key == "ttft" else ("ms", 1e3)
    data: list[Figure] = []
    shown = list[float]()
    for i, one in enumerate(drawn):
        data += _curve(question, hardware, one, i, key)
        found = expected_of(one.plan)
        if found.confidence is Confidence.SIMULATED:
            met = getattr(found, f"{key}_s") * scale
            shown.append(met)
            marker = {"color": one.colour, "size": 12, "symbol": "circle-open", "line": {"width": 3}}
            data.append(
                _marks(
                    [found.requests_per_s],
                    [met],
                    f"simulated: %{{y:.3g}} {unit} at %{{x:.3g}}/s",
                    one,
                    i,
                    marker=marker,
                )
            )
    limits = _limits(question, key, scale)
    top = HEADROOM * max([*limits.values(), *shown], default=0.0)
    about = {"range": [0, top]} if top else {"rangemode": "tozero"}
    shapes = [_across(y) for y in limits.values()]
    notes = [
        _named(f"{name} {y:g} {unit}", x=1, y=y, xref="paper", xanchor="right", yanchor="bottom")
        for name, y in limits.items()
    ]
    if rate := question.asks.rate:
        shapes.append(
            {
                "type": "line",
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "x0": rate,
                "x1": rate,
                "line": {"dash": "dash", "width": 1},
            }
        )
        notes.append(_named("planned for", x=rate, y=1, yref="paper", xanchor="left", yanchor="top"))
    layout = {
        "xaxis": axis("requests/s", rangemode="tozero"), "shapes": shapes, "annotations": notes,
        "yaxis": axis(f"{key.upper()} p{objective.percentile} [{unit}]", **about),
    }  # fmt: skip
    what = "Time to first token" if key == "ttft" else "Time per output token"
    note = "Lines: sums of all requests, up to the most that a fleet serves; bands: the error to allow for. Circles: simulated."
    return _chart(key, f"{what} over load", note, data, layout, labels=["Estimated", *(["Simulated"] if shown else [])])


def _curve(question: Question, hardware: Hardware, one: Drawn, place: int, key: str) -> list[Figure]:
    """The band and the line."""
    asks, found = question.asks, expected_of(one.plan)
    unit, scale = ("s", 1e6) if key == "ttft" else ("ms", 1e3)
    fleet = fleets_of(one.plan, engines_of(one.plan, hardware, asks.demand.context_mean))[0]
    rates, values = list[float](), list[float]()
    for share in LOADS:
        load = load_at(fleet, asks, share * found.requests_per_s_max, question.objective.percentile)
        if load.breaks is None:
            rates.append(share * found.requests_per_s_max)
            values.append(getattr(load, f"{key}_us") / scale)
    width = found.bands[0] if key == "ttft" else found.bands[1]
    around = [*(value * (1 + width) for value in values), *(value * max(0.0, 1 - width) for value in reversed(values))]
    filled = {
        "fill": "toself",
        "fillcolor": faint(one.colour),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
    }
    line = {"mode": "lines", "line": {"color": one.colour, "width": 2.5}}
    return [
        _marks([*rates, *reversed(rates)], around, "", one, place, **filled),
        _marks(rates, values, f"%{{y:.3g}} {unit} at %{{x:.3g}}/s", one, place, **line),
    ]


def _limits(question: Question, key: str, scale: float) -> dict[str, float]:
    """What is asked for, by what is said beside it."""
    asked = question.by_class or {"": question.objective}
    return {
        f"{name} p{each.percentile} limit".strip(): limit * scale
        for name, each in asked.items()
        if (limit := getattr(each, f"{key}_s")) is not None
    }


def memory(question: Question, hardware: Hardware, drawn: Sequence[Drawn]) -> Chart:
    """A bar for each pool: one of its GPUs, at the rate that is planned for."""
    asks, bars = question.asks, list[tuple[str, dict[str, float]]]()
    for i, one in enumerate(drawn, 1):
        fleet = fleets_of(one.plan, engines_of(one.plan, hardware, asks.demand.context_mean))[0]
        load = load_at(fleet, asks, expected_of(one.plan).requests_per_s, question.objective.percentile)
        for pool in one.plan.pools:
            gpu = hardware.gpus[pool.gpu]
            part = held(hardware.model, gpu, pool.layout, precision_named(pool.precision), pool.memory_utilisation)
            running = 0.0 if pool.role is Role.PREFILL else part.kv * min(1.0, load.kv_used)
            left = gpu.memory_gib * (1 - pool.memory_utilisation)
            sizes = part.weights, part.activation, part.other, running, part.kv - running, left
            name = f"fleet {i}" if len(one.plan.pools) == 1 else f"fleet {i}, {pool.name}"
            bars.append((name, dict(zip(PARTS, sizes, strict=True))))
    names = [name for name, _ in bars]
    data = [
        _bars(names, [sizes[part] for _, sizes in bars], part, colour, f"%{{x:.3g}} GiB {part}")
        for part, colour in PARTS.items()
    ]
    note = (
        "Left free: what the engine is told to leave. The KV cache keeps prefixes until running requests need its room."
    )
    return _chart("memory", "Memory of a GPU", note, data, _stacked("GiB of one GPU", len(bars)))


def bill(drawn: Sequence[Drawn]) -> Chart:
    """What runs all day, and what follows the load."""
    data = []
    for what, colour in WHATS.items():
        lines = [
            (i, line) for i, one in enumerate(drawn, 1) for line in expected_of(one.plan).cost if line.what == what
        ]
        if lines:
            terms = ", ".join(dict.fromkeys(line.term for _, line in lines))
            told = [plain(f"{line.gpus} GPUs, {line.pool}") for _, line in lines]
            hours = [line.usd_per_hour for _, line in lines]
            names = [f"fleet {i}" for i, _ in lines]
            more = {"text": told, "textposition": "none"}
            data.append(_bars(names, hours, f"{what} ({terms})", colour, "%{x:.3g} USD/h: %{text}", **more))
    layout = _stacked("USD per hour, in the mean", len(drawn))
    note = "Over the load curve. Prices, who asks them and when are below."
    return _chart("bill", "What the bill is made of", note, data, layout)


def _points(points: Sequence[tuple[float, float, str]], name: str, **more: object) -> Figure:
    return {
        "type": "scatter", "name": name, "x": [rounded(p[0]) for p in points], "y": [rounded(p[1]) for p in points],
        "text": [plain(p[2]) for p in points],
        "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g} requests/s<extra></extra>", **more,
    }  # fmt: skip


def _marks(xs: Sequence[float], ys: Sequence[float], told: str, one: Drawn, place: int, **more: object) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "x": [rounded(x) for x in xs], "y": [rounded(y) for y in ys], "meta": place,
        "hovertemplate": f"{told}<extra>{plain(one.title)}</extra>", **more,
    }  # fmt: skip


def _bars(names: Sequence[str], values: Sequence[float], name: str, colour: str, told: str, **more: object) -> Figure:
    return {
        "type": "bar", "orientation": "h", "name": name, "y": list(names), "x": [rounded(value) for value in values],
        "marker": {"color": colour, "line": {"color": "#ffffff", "width": 1}}, "hovertemplate": f"{told}<extra>%{{y}}</extra>",
        **more,
    }  # fmt: skip


def _stacked(title: str, bars: int) -> Figure:
    return {
        "barmode": "stack", "xaxis": axis(title, rangemode="tozero"), "showlegend": True, "legend": {"traceorder": "normal"},
        "yaxis": {"autorange": "reversed", "automargin": True, "type": "category"}, "height": 190 + 34 * bars,
        "margin": {"l": 56, "r": 14, "t": 66, "b": 48},
    }  # fmt: skip


def _across(y: float) -> Figure:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"dash": "dot", "width": 2}}


def _named(text: str, **place: object) -> Figure:
    return {"text": plain(text), "showarrow": False, **place}


def _chart(
    key: str, title: str, note: str, data: Sequence[Figure], layout: Figure, labels: Sequence[str] = ("Estimated",),
    wide: bool = False,
) -> Chart:  # fmt: skip
    return Chart(key, title, note, list(labels), [], {"0": {"data": list(data), "layout": layout}}, wide)
