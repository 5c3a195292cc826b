"""Tables say all that is known, and fit the terminal by leaving out columns, never by cutting figures."""

import io

import pytest
from rich.console import Console

from pilothouse.report.tables import COLUMNS, print_runs
from pilothouse.workload.outcomes import Run
from tests.report.runs import ladder, run


def printed(runs: list[Run], width: int = 220) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_runs(runs, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_row_for_each_policy_and_load() -> None:
    runs = ladder(loads=(1, 2))
    lines = printed(runs).splitlines()
    for name in {r.name for r in runs}:
        assert sum(f" {name} " in line for line in lines) == 2
    for load in ("20 req/s", "40 req/s"):
        assert sum(line.lstrip().startswith(load) for line in lines) == 1
    assert "Simulated" in lines[0] and "note: goodput: requests with TTFT" in printed(runs)


def test_intervals_where_there_are_several_seeds() -> None:
    assert "±" in printed(ladder(loads=(1,), seeds=3)) and "±" not in printed(ladder(loads=(1,)))


@pytest.mark.parametrize("width", [60, 80, 100, 130, 220])
def test_figures_are_never_cut(width: int) -> None:
    text = printed([run("policy", 1, 1)], width)
    assert "…" not in text
    left_out = [line for line in text.splitlines() if "columns more" in line]
    assert bool(left_out) == (width < 150)
    assert text.count("TTFT p99") == 1 and len(COLUMNS) == 12


def test_tenants_have_a_table_of_their_own() -> None:
    text = printed(ladder(loads=(1,), tenants=("gold", "free")))
    assert "by tenant" in text and text.count(" gold ") == 3


def test_names_are_no_markup() -> None:
    text = printed([run("[red]x", 1, 1, notes=("[bold]n",), scenario="[b]s")])
    assert "[red]x" in text and "[bold]n" in text and "[b]s" in text


def test_nothing_reported_is_said() -> None:
    assert "no stage was reported" in printed([Run("a", "Simulated", "s", 1, 1, [])])
