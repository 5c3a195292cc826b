"""The page of a search: its charts (`plan_charts.py`), the ranked fleets, how they may be bought, and why not others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilothouse import __version__
from pilothouse.cli import plan_charts as charts
from pilothouse.cli.plan_charts import Drawn
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import Confidence, Expected, Plan
from pilothouse.plan.prices import HOURS_PER_MONTH
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.question import Question
from pilothouse.plan.search import Found, titled
from pilothouse.plan.simulated import Hardware
from pilothouse.report.grouping import PALETTE
from pilothouse.report.page import rendered

DRAWN = 4  # fleets that are drawn, the first ones
SHOWN = 30  # rows of the table


def write_page(path: Path, question: Question, found: Found, hardware: Hardware) -> None:
    """Raises PilothouseError without the extra `report`, ConfigError where the file cannot be written."""
    try:
        path.write_text(_page(question, found, hardware), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be written: {error.strerror}")]) from None


def _page(question: Question, found: Found, hardware: Hardware) -> str:
    drawn = [Drawn(p, titled(p.pools), colour) for p, colour in zip(found.plans[:DRAWN], PALETTE, strict=False)]
    best = expected_of(found.plans[0])
    money = [charts.bill(drawn)] if best.cost else []
    parts = [
        *([("Cost and load", [charts.front(found.plans, drawn)])] if len(found.plans) > 1 else []),
        ("Latency", [charts.latency(question, hardware, drawn, key) for key in ("ttft", "tpot")]),
        ("Memory and money" if money else "Memory", [charts.memory(question, hardware, drawn), *money]),
    ]
    asks = question.asks
    simulated = any(expected_of(plan).confidence is Confidence.SIMULATED for plan in found.plans)
    return rendered(
        "plan.html",
        [chart for _, several in parts for chart in several],
        title=question.name,
        about=f"{asks.rate:.3g} requests/s in busy times, {asks.rate_mean:.3g} in the mean; "
        f"{asks.demand.prompt_mean:,.0f} tokens in, {asks.demand.output_mean:,.0f} out",
        labels=["Estimated", *(["Simulated"] if simulated else [])],
        drawn=drawn,
        cards=_cards(question, found.plans[0]),
        parts=parts,
        tables=[_ranked(question, found.plans), *([_ways(best)] if len(best.ways) > 1 else [])],
        why=[f"{one.title}: {reason}" for one in drawn for reason in one.plan.why],
        rejected=found.rejected,
        notes=best.notes,
        version=__version__,
    )


def _cards(question: Question, plan: Plan) -> list[dict[str, str]]:
    found, objective = expected_of(plan), question.objective

    def limit(value: float | None, scale: float, unit: str, band: float) -> str:
        asked = f"of {value * scale:g} {unit} at most; " if value is not None else ""
        sure = "simulated; " if found.confidence is Confidence.SIMULATED else ""
        return f"{asked}{sure}sums ±{band:.0%}"

    tokens = f"in {found.usd_per_m_input:.3g}, cached {found.usd_per_m_cached:.3g}, out {found.usd_per_m_output:.3g}"
    cards = [
        ("Fleet 1 costs", f"{found.usd_per_hour:.3g}", "USD/h", f"{found.usd_per_hour * HOURS_PER_MONTH:,.0f} USD a month"),
        ("A million tokens, blended", f"{found.usd_per_m:.3g}", "USD", tokens),
    ] if found.cost else [("Fleet 1 has", str(plan.gpus), "GPUs", "no price is known")]  # fmt: skip
    cards += [
        (f"TTFT p{objective.percentile}", f"{found.ttft_s:.3g}", "s", limit(objective.ttft_s, 1, "s", found.bands[0])),
        (f"TPOT p{objective.percentile}", f"{found.tpot_s * 1e3:.3g}", "ms",
         limit(objective.tpot_s, 1e3, "ms", found.bands[1])),
        ("Serves at most", f"{found.requests_per_s_max:.3g}", "requests/s",
         f"{found.utilisation:.0%} used in busy times; then {found.bound.value.replace('_', ' ')} binds"),
        ("Room for KV", f"{found.kv_tokens / 1e6:.3g}", "M tokens", f"on {plan.gpus} GPUs"),
    ]  # fmt: skip
    return [dict(zip(("title", "value", "unit", "said"), card, strict=True)) for card in cards]


def _ranked(question: Question, plans: Sequence[Plan]) -> dict[str, Any]:
    heads = (
        "fleet", "GPUs", "TTFT", "TPOT", "requests/s at most", "used", "USD/h", "USD/M in", "cached", "out", "blended",
        "bound", "confidence",
    )  # fmt: skip
    rows = []
    for i, plan in enumerate(plans[:SHOWN], 1):
        found, kept = expected_of(plan), keeps(question.objective, expected_of(plan))
        costs = (
            found.usd_per_hour, found.usd_per_m_input, found.usd_per_m_cached, found.usd_per_m_output, found.usd_per_m,
        )  # fmt: skip
        cells = [
            f"{i}: {titled(plan.pools)}", str(plan.gpus), f"{found.ttft_s:.3g} s ±{found.bands[0]:.0%}",
            f"{found.tpot_s * 1e3:.3g} ms ±{found.bands[1]:.0%}", f"{found.requests_per_s_max:.3g}", f"{found.utilisation:.0%}",
            *(f"{cost:.3g}" if found.cost else "?" for cost in costs), found.bound.value.replace("_", " "),
            found.confidence.value + ("" if kept else ": misses an objective"),
        ]  # fmt: skip
        rows.append({"cells": cells, "misses": not kept})
    left = f"; {len(plans) - SHOWN} more are left out" if len(plans) > SHOWN else ""
    note = f"the best first, by {question.goal.value}; times at p{question.objective.percentile}{left}"
    return {"title": "Fleets", "note": note, "heads": heads, "rows": rows, "words": [11, 12]}


def _ways(found: Expected) -> dict[str, Any]:
    rows = []
    for way in found.ways:
        waits = f"{way.cold_share:.2g} of requests, {found.start_s:.0f} s" if way.cold_share else ""
        cells = [way.how, f"{way.usd_per_hour:.3g}", f"{way.usd_per_hour * HOURS_PER_MONTH:,.0f}", waits]
        rows.append({"cells": cells, "misses": False})
    heads = ["bought as", "USD/h", "USD a month", "wait for a start"]
    return {
        "title": "Other ways to buy fleet 1",
        "note": "over the load curve, the cheapest first",
        "heads": heads,
        "rows": rows,
        "words": [3],
    }
