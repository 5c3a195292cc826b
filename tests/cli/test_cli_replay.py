"""`pilothouse replay --what-if` as people use it: a journal and a file in, a table, a page and an exit status out."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.report.files import read
from tests.journal.days import TIME, conversations, record

runner = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "day", conversations(20))
    Path("other.yaml").write_text("policy: random\n")
    Path("times.json").write_bytes(msgspec.json.encode(TIME))
    return tmp_path


def test_three_rows_a_page_and_the_runs(here: Path) -> None:
    options = ["--what-if", "other.yaml", "--json", "runs.json", "--out", "page.html", "--objectives", "ttft=100ms"]
    done = runner.invoke(app, ["replay", "day", *options])
    assert done.exit_code == 0, done.output
    for said in (
        "recorded (Measured)",
        "as recorded (Simulated)",
        "other (Simulated)",
        "learned from the journal",
    ):
        assert said in done.output
    assert "arrivals keep their recorded times" in done.output and "goodput counts requests with TTFT" in done.output
    runs = read(Path("runs.json")).runs
    assert [(run.name, run.label) for run in runs] == [
        ("recorded", "Measured"),
        ("as recorded", "Simulated"),
        ("other", "Simulated"),
    ]
    assert len({run.stages[0].summary.requests for run in runs}) == 1 and all(run.stages[0].replicas for run in runs)
    assert "against what was recorded" in Path("page.html").read_text()


def test_given_step_times_make_the_same_day(here: Path) -> None:
    options = ["--what-if", "other.yaml", "--step-time", "times.json", "--json", "runs.json", "--label", "Emulated"]
    done = runner.invoke(app, ["replay", "day", *options, "--from", "3s", "--until", "20s"])
    assert done.exit_code == 0, done.output
    real, same, _ = (run.stages[0].summary for run in read(Path("runs.json")).runs)
    assert (real.label, same.label) == ("Emulated", "Simulated") and real.ttft == same.ttft
    assert "--from 3s --until 20s --step-time times.json" in read(Path("runs.json")).command


def test_verify_is_as_before(here: Path) -> None:
    done = runner.invoke(app, ["replay", "day", "--verify"])
    assert done.exit_code == 0 and " 0 differences" in done.output
    assert runner.invoke(app, ["replay", "day"]).exit_code == 2


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--what-if", "nosuch.yaml"], 2, "nosuch.yaml: cannot be read"),
        (["--what-if", "times.json"], 2, "times.json"),
        (["--what-if", "other.yaml", "--from", "1h"], 2, "no request arrives"),
        (["--what-if", "other.yaml", "--from", "x", "--until", "1s"], 2, "--from: 'x' is not a duration"),
        (["--what-if", "other.yaml", "--from", "2s", "--until", "1s"], 2, "--until: must be later"),
        (["--what-if", "other.yaml", "--model", "x"], 2, "nobody asked for 'x'"),
        (["--what-if", "other.yaml", "--step-time", "other.yaml"], 2, "--step-time"),
        (["--what-if", "other.yaml", "--label", "True"], 2, "--label"),
        (["--what-if", "other.yaml", "--objectives", "x=1s"], 2, "--objectives"),
        (["--what-if", "other.yaml", "--out", "no/where.html"], 2, "--out"),
    ],
)
def test_mistakes_are_named(here: Path, options: list[str], status: int, said: str) -> None:
    done = runner.invoke(app, ["replay", "day", *options])
    assert done.exit_code == status and said in done.output, done.output


def test_what_is_no_journal_is_said(here: Path) -> None:
    Path("empty").mkdir()
    for path, said in (("empty", "holds no journal"), ("other.yaml", "not a Pilothouse journal")):
        done = runner.invoke(app, ["replay", path, "--what-if", "other.yaml"])
        assert done.exit_code == 1 and said in done.output, done.output
