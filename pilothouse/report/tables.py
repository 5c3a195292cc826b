"""Runs as tables on a terminal: one row per policy and load, mean over seeds with its 95 % interval."""

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.report.estimates import Estimate
from pilothouse.report.grouping import Book, group
from pilothouse.report.knee import RULE, knee
from pilothouse.report.metrics import METRICS, Metric, shown
from pilothouse.workload.outcomes import Run, StageRun, Summary

COLUMNS = "achieved output ttft_mean ttft_p50 ttft_p90 ttft_p99 itl_mean itl_p99 tpot goodput hits refused".split()
SPARED = (
    "ttft_p50 tpot itl_mean ttft_p90 achieved refused output hits itl_p99".split()
)  # left out in this order where the terminal is narrow
GAP = 3  # between columns


def print_runs(runs: Sequence[Run], console: Console) -> None:
    """All of it: the table, tenants where there are several, and what a reader must know."""
    book = group(runs)
    if not book.cells:
        console.print("no stage was reported", style="yellow")
        return
    console.print(_table(book, console, ", ".join(dict.fromkeys(run.scenario for run in runs))))
    tenants = book.tenants()
    if len(tenants) > 1:
        console.print(_table(book, console, "by tenant", tenants))
    _print_knees(book, console)
    if book.seeds > 1:
        console.print(f"mean over up to {book.seeds} seeds ± half of its 95 % interval (Student's t)", style="dim")
    for note in notes(runs):
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def notes(runs: Sequence[Run]) -> list[str]:
    """Each once, in order of appearance."""
    found = [note for run in runs for note in run.notes]
    found += [f"{run.name}, {stage.name}: {note}" for run in runs for stage in run.stages for note in stage.notes]
    return list(dict.fromkeys(found))


def _table(book: Book, console: Console, title: str, tenants: list[str] | None = None) -> Table:
    rows = list(_rows(book, tenants))
    heads = ["load", "policy", *(["tenant"] if tenants else [])]
    columns = _that_fit(rows, console.width - sum(max(len(row[0][i]) for row in rows) + GAP for i in range(len(heads))))
    table = Table(
        title=Text(f"{title} [{', '.join(book.labels)}]"), box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left"
    )
    for head in heads:
        table.add_column(head, no_wrap=True)
    for metric in columns:
        table.add_column(f"{metric.title}\n{metric.unit}", justify="right", no_wrap=True)
    before = ""
    for names, figures in rows:
        if before and names[0] != before:
            table.add_section()
        cells = [_cell(figures[metric.key]) for metric in columns]
        shown_names = ["" if names[0] == before else names[0], *names[1:]]
        table.add_row(*map(Text, shown_names), *cells)
        before = names[0]
    missing = len(COLUMNS) - len(columns)
    if missing:
        table.caption = f"{missing} columns more on a wider terminal, in the report and in JSON"
    return table


def _rows(book: Book, tenants: list[str] | None) -> list[tuple[list[str], dict[str, Estimate]]]:
    """(names of the row, its figures), rung by rung."""
    rows = []
    for j, rung in enumerate(book.rungs):
        for i, series in enumerate(book.series):
            cell = book.cells.get((i, j))
            for tenant in tenants or [""] if cell else []:
                assert cell is not None
                if tenant and not all(tenant in stage.tenants for stage in cell.stages):
                    continue
                pick = of_tenant(tenant) if tenant else _of_all
                figures = {key: cell.estimate(METRICS[key], pick) for key in COLUMNS}
                rows.append(([rung.title, series.title, *([tenant] if tenants else [])], figures))
    return rows


def _of_all(stage: StageRun) -> Summary:
    return stage.summary


def of_tenant(tenant: str) -> Callable[[StageRun], Summary]:
    return lambda stage: stage.tenants[tenant]


def _that_fit(rows: list[tuple[list[str], dict[str, Estimate]]], width: int) -> list[Metric]:
    """All columns, or as many as there is room for."""

    def wide(key: str) -> int:
        head = max(len(METRICS[key].title), len(METRICS[key].unit))
        return GAP + max([head, *(len(_cell(figures[key])) for _, figures in rows)])

    kept = list(COLUMNS)
    for key in SPARED:
        if sum(map(wide, kept)) > width:
            kept.remove(key)
    return [METRICS[key] for key in kept]


def _cell(figure: Estimate) -> str:
    half = f" ±{shown(figure.half)}" if figure.half is not None else ""
    return shown(figure.mean) + half


def _print_knees(book: Book, console: Console) -> None:
    found = []
    for i, series in enumerate(book.series):
        curve = book.curve(i, METRICS["ttft_mean"])
        at = knee([figure.mean for _, figure in curve])
        if at is not None:
            found.append(f"{series.title} {curve[at][0]:.4g}")
    if found:
        unit = "requests/s" if book.by_rate else "x the workload's own load"
        console.print(Text(f"knee [{unit}]: {', '.join(found)}"), soft_wrap=True)
        console.print(Text(RULE, style="dim"), soft_wrap=True)
