"""Plans as a table for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.plan.division import Division
from pilothouse.plan.document import ClassExpected, Expected, Plan
from pilothouse.plan.prices import HOURS_PER_MONTH
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.question import Question
from pilothouse.plan.search import Found, titled
from pilothouse.plan.source import Source

SHOWN = 8  # lines of the table
TELLING = 1e-5  # share of requests


def show(question: Question, found: Found, source: Source, why: bool) -> None:
    console = _console()
    asks = question.asks
    mean = asks.demand
    said = f"{asks.rate:.3g} requests/s in busy times, {asks.rate_mean:.3g} in the mean" if asks.rate else "all at once"
    if asks.closed is not None:
        pause = f", {asks.closed.think_s:.3g} s after the last answer" if asks.closed.think_s else ""
        said = f"{asks.closed.users:.4g} users, each asks when he is answered{pause}"
    lengths = f"{mean.prompt_mean:,.0f} tokens in, {mean.output_mean:,.0f} out in the mean"
    console.print(Text(f"{question.name}: {source.name}: {said}; {lengths}", style="bold"), soft_wrap=True)
    if found.plans:
        console.print(_table(question, found.plans[:SHOWN]))
        if question.by_class:
            console.print(_classes(question, found.plans[:SHOWN]))
        if expected_of(found.plans[0]).cost:
            console.print(_costs(expected_of(found.plans[0])))
            console.print(_ways(expected_of(found.plans[0])))
        for note in [*found.plans[0].why, *expected_of(found.plans[0]).notes]:
            console.print(Text(f"1: {note}", style="dim"), soft_wrap=True)
    if why:
        for way in found.rejected:
            console.print(Text(f"not {way.what}: {way.why}"), soft_wrap=True)
    for note in source.notes:
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def _console() -> Console:
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 220
    return console


def show_divisions(question: Question, divided: Sequence[Division], why: bool) -> None:
    """Whether one fleet is best for all classes. All ways with `why`; else only if it is not."""
    if not divided or (not why and len(divided[0].parts) == 1):
        return
    console = _console()
    said = "one fleet for all is cheapest" if len(divided[0].parts) == 1 else "fleets of their own are cheaper"
    console.print(Text(f"by class: {said} [Estimated]"), soft_wrap=True)
    for division in divided:
        fleets = "; ".join(f"{', '.join(part.classes)}: {titled(part.plan.pools)}" for part in division.parts)
        cost = f", {division.usd_per_hour:.4g} USD/h" if division.usd_per_hour else ""
        console.print(Text(f"- {division.gpus} GPUs{cost}: {fleets}"), soft_wrap=True)


def _classes(question: Question, plans: Sequence[Plan]) -> Table:
    """What each class meets of what is asked for it; a row for each plan."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("", justify="right")
    for name, objective in question.by_class.items():
        limits = (("TTFT", objective.ttft_s, 1, "s"), ("TPOT", objective.tpot_s, 1e3, "ms"))
        asked = [f"{word} {limit * scale:g} {unit}" for word, limit, scale, unit in limits if limit is not None]
        table.add_column(f"{name} p{objective.percentile}: {' and '.join(asked) or 'nothing asked'}")
    for i, plan in enumerate(plans, 1):
        met = [expected_of(plan).classes[name] for name in question.by_class]
        table.add_row(str(i), *(_met(each) for each in met))
    return table


def _met(met: ClassExpected) -> Text:
    said = f"{met.ttft_s:.3g} s, {met.tpot_s * 1e3:.3g} ms"
    return Text(said) if met.keeps else Text(f"{said}: missed", "yellow")


def _table(question: Question, plans: Sequence[Plan]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    percentile = question.objective.percentile
    heads = (
        "", "fleet", "GPUs", f"TTFT p{percentile}", f"TPOT p{percentile}", "requests/s", "at most", "tokens/s", "KV tokens",
        "used", "USD/h", "USD/M in", "cached", "out", "blended", "bound", "confidence",
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head in ("fleet", "bound", "confidence") else "right")
    for i, plan in enumerate(plans, 1):
        found = expected_of(plan)
        costs = (
            found.usd_per_hour, found.usd_per_m_input, found.usd_per_m_cached, found.usd_per_m_output, found.usd_per_m,
        )  # fmt: skip
        kept = keeps(question.objective, found)
        table.add_row(
            str(i), titled(plan.pools), str(plan.gpus), f"{found.ttft_s:.3g} s ±{found.bands[0]:.0%}",
            f"{found.tpot_s * 1e3:.3g} ms ±{found.bands[1]:.0%}", f"{found.requests_per_s:.3g}",
            f"{found.requests_per_s_max:.3g}", f"{found.output_per_s:,.0f}", f"{found.kv_tokens:,}",
            f"{found.utilisation:.0%}", *(f"{cost:.3g}" if found.cost else "?" for cost in costs), found.bound.value,
            found.confidence.value + ("" if kept else ": misses an objective"), style="" if kept else "yellow",
        )  # fmt: skip
    return table


def _costs(found: Expected) -> Table:
    """What the first plan's bill is made of."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for i, head in enumerate(
        ("1: cost", "pool", "term", "engines", "GPUs", "paid for in the mean", "USD/h", "USD a month")
    ):
        table.add_column(head, justify="left" if i < 3 else "right")
    for line in found.cost:
        table.add_row(
            line.what, line.pool, line.term, str(line.engines), str(line.gpus), f"{line.gpus_paid:.3g}",
            f"{line.usd_per_hour:.3g}", f"{line.usd_per_hour * HOURS_PER_MONTH:,.0f}",
        )  # fmt: skip
    return table


def _ways(found: Expected) -> Table:
    """The same fleet, bought otherwise."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("1: bought as", "USD/h", "USD a month", "wait for a start"):
        table.add_column(head, justify="left" if head == "1: bought as" else "right")
    for way in found.ways:
        waits = f"{way.cold_share:.2g} of requests, {found.start_s:.0f} s" if way.cold_share >= TELLING else ""
        table.add_row(way.how, f"{way.usd_per_hour:.3g}", f"{way.usd_per_hour * HOURS_PER_MONTH:,.0f}", waits)
    return table
