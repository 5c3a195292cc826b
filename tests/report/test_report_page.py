"""The page is one file that asks for nothing, shows every chart for every choice, and survives any name."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.core.errors import ConfigError, PilothouseError
from pilothouse.report.files import Mark, Saved, merged, read, save
from pilothouse.report.grouping import group
from pilothouse.report.page import page, telling_rung, write_page
from pilothouse.report.time_charts import CELLS_MAX, replica_charts
from pilothouse.workload.outcomes import Run
from tests.report.runs import ladder, run

pytest.importorskip("plotly", reason="the extra `report` is not installed")

SHAPES: dict[str, list[Run]] = {
    "ladder": ladder(),
    "seeds": ladder(seeds=2, loads=(1, 2, 3)),
    "single": [run("cache_and_load", 1, 1, replicas=1)],
    "tenants": ladder(loads=(1, 2), tenants=("free", "gold")),
    "stages": ladder(loads=(1,), rates=(10.0, 20.0, 40.0)),
    "mixed": [run("cache_and_load", 1, 1), run("http://gateway:8080", 1, 1, label="Measured", replicas=2)],
    "not all loads": [run("a", 1, 1), run("a", 2, 1), run("b", 1, 1)],
}


class Links(HTMLParser):
    """Everything by which a page could ask for something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "action", "data")]


def text_of(runs: list[Run], **more: Any) -> str:
    return page(Saved(runs, **more), runs)


def charts_of(text: str) -> list[dict[str, Any]]:
    found = re.search(r'<script id="charts" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    charts: list[dict[str, Any]] = json.loads(found[1])
    return charts


@pytest.mark.parametrize("runs", SHAPES.values(), ids=SHAPES)
def test_every_choice_of_every_chart_shows_something_wherever_something_was_run(runs: list[Run]) -> None:
    book, text = group(runs), text_of(runs)
    charts = charts_of(text)
    assert {chart["key"] for chart in charts} >= {"ttft", "itl", "ttft_time", "tpot_time", "kv", "queue"}
    ran = {(rung, series) for series, rung in book.cells}
    for chart in charts:
        assert chart["labels"] == book.labels and chart["note"]
        keys = [""]
        for choice in chart["choices"]:
            keys = [f"{key}/{i}".lstrip("/") for key in keys for i in range(len(choice["options"]))]
            assert 0 <= choice["chosen"] < len(choice["options"])
        for key in keys or ["0"]:
            figure = chart["figures"].get(key or "0")
            if figure is None:  # a heat map of a pair that nobody ran
                rung, series = map(int, key.split("/"))
                assert chart["key"] in ("kv", "queue") and (rung, series) not in ran
                continue
            assert figure["data"]
            assert "[" in figure["layout"]["yaxis"].get("title", {}).get("text", "[") or chart["key"] == "kv"


@pytest.mark.parametrize("runs", SHAPES.values(), ids=SHAPES)
def test_the_page_asks_for_nothing(runs: list[Run]) -> None:
    links = Links()
    links.feed(text_of(runs))
    assert links.found == [] and "link" not in links.tags and "iframe" not in links.tags


def test_figures_are_those_of_the_runs() -> None:
    runs = ladder(loads=(1, 3))
    chart = next(chart for chart in charts_of(text_of(runs)) if chart["key"] == "goodput")
    drawn = {
        trace["name"]: trace["y"] for trace in chart["figures"]["0"]["data"] if trace.get("mode") == "lines+markers"
    }
    for name, values in drawn.items():
        wanted = [r.stages[0].summary.goodput for r in runs if r.name == name]
        assert values == pytest.approx(wanted, rel=1e-3)


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'{{ 7 * 7 }}%{y}\u2028"


def test_names_are_text_wherever_they_come_from() -> None:
    runs = [run(HOSTILE, 1, 1, scenario=HOSTILE, notes=(HOSTILE,), tenants=(HOSTILE, "b")), run("b", 1, 1)]
    text = text_of(runs, command=HOSTILE, source=HOSTILE, marks=[Mark(1, 2, HOSTILE)])
    links = Links()
    links.feed(text)
    assert (
        "img" not in links.tags and links.tags.count("script") == 3 and "49" not in re.sub(r"\d{3,}", "", text[:2000])
    )
    assert charts_of(text), "the data are still data"


def test_runs_without_anything_over_time_have_a_page_too() -> None:
    bare = [msgspec.structs.replace(stage, timeline=[], replicas=[]) for r in ladder(loads=(1,)) for stage in r.stages]
    charts = charts_of(text_of([Run("a", "Measured", "s", 1, 1, bare[:1])]))
    assert {chart["key"] for chart in charts} == {"ttft", "itl"}


def test_the_footer_says_what_was_simulated_and_how_to_do_it_again() -> None:
    runs = ladder(loads=(1,))
    text = text_of(runs, command="pilothouse sim guide.yaml --seed 7", source="name: a guide\npools: []")
    for said in ("pilothouse sim guide.yaml --seed 7", "name: a guide", "goodput: requests with TTFT", "Simulated"):
        assert said in text.replace("&lt;", "<")
    assert text.count('class="badge simulated"') > 5


def test_a_page_opens_at_the_highest_load_that_somebody_bears() -> None:
    book = group(ladder())  # the best one has its knee at 50 of 60 requests per second
    assert book.rungs[telling_rung(book)].offered == 50
    assert telling_rung(group(ladder(loads=(1, 2)))) == 1


def test_heat_maps_stay_small_however_large_the_fleet() -> None:
    runs = ladder(("a", "b"), loads=(1, 2), replicas=300)
    charts = replica_charts(group(runs), [])
    cells = sum(len(row) for c in charts for f in c.figures.values() for row in f["data"][0]["z"])
    assert 0 < cells <= CELLS_MAX and "the first 256 of 300 replicas" in charts[0].note


def test_runs_survive_their_file(tmp_path: Path) -> None:
    saved = Saved(ladder(loads=(1,)), "pilothouse sim x.yaml", "name: x", [Mark(1.0, None, "crash: a-0")])
    save(saved, tmp_path / "runs.json")
    assert read(tmp_path / "runs.json") == saved
    (tmp_path / "list.json").write_bytes(msgspec.json.encode(saved.runs))
    (tmp_path / "one.json").write_bytes(msgspec.json.encode(saved.runs[0]))
    assert read(tmp_path / "list.json").runs == saved.runs and read(tmp_path / "one.json").runs == saved.runs[:1]
    both = merged([saved, read(tmp_path / "one.json")])
    assert both.runs == [*saved.runs, saved.runs[0]] and both.marks == [] and both.command == saved.command


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '{"runs": [{}]}', "\xff", '"x"', "null"])
def test_what_is_no_file_of_runs_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"x\.json"):
        read(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "nowhere.json")


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(PilothouseError, match=r"pip install 'pilothouse\[report\]'"):
        write_page(ladder(loads=(1,)), tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
