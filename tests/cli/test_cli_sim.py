"""`pilothouse sim` and `pilothouse report` as people use them: files in, a table, a page and an exit status out."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.report.files import read

SCENARIO = """
name: small
pools: [{name: a, replicas: 2, model: qwen3-8b, gpu: h100}]
workload: {kind: open_loop, rate: 4, duration: 5s}
policies: [random, {name: mine, scorers: [least_requests]}]
loads: [1, 2]
faults: [{kind: slow, endpoint: a-1, at: 1s, lasts: 1s}]
"""
runner = CliRunner()


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


def test_a_table_a_page_and_the_runs(scenario: Path) -> None:
    done = runner.invoke(app, ["sim", "small.yaml", "--json", "runs.json", "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "small [Simulated]" in done.output and "report: small.html" in done.output
    saved = read(Path("runs.json"))
    assert [(run.name, run.load) for run in saved.runs] == [(n, x) for n in ("random", "mine") for x in (1.0, 2.0)]
    assert saved.command == "pilothouse sim small.yaml" and saved.source == SCENARIO
    assert [(mark.at_s, mark.until_s, mark.text) for mark in saved.marks] == [(1.0, 2.0, "slow: a-1")]
    assert "slow: a-1" in Path("small.html").read_text() and "name: small" in Path("small.html").read_text()


def test_the_command_line_narrows_the_scenario(scenario: Path) -> None:
    asked = ["sim", "small.yaml", "--policy", "mine,kube_service", "--load", "0.5", "--seed", "3,4", "--jobs", "1"]
    done = runner.invoke(app, [*asked, "--out", "x.html", "--json", "runs.json"])
    assert done.exit_code == 0, done.output
    saved = read(Path("runs.json"))
    wanted = [("mine", 0.5, 3), ("mine", 0.5, 4), ("kube_service", 0.5, 3), ("kube_service", 0.5, 4)]
    assert [(run.name, run.load, run.seed) for run in saved.runs] == wanted
    assert saved.command == "pilothouse sim small.yaml --seed 3,4 --policy mine,kube_service --load 0.5"
    again = runner.invoke(app, ["report", "runs.json", "runs.json", "-o", "both.html"])
    assert again.exit_code == 0 and Path("both.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["small.yaml", "--policy", "rndom"], "--policy: unknown policy 'rndom', did you mean 'random'?"),
        (["small.yaml", "--load", "0"], "--load: 0 is not more than 0"),
        (["small.yaml", "--load", "x"], "--load: 'x' is not a number"),
        (["small.yaml", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(scenario: Path, asked: list[str], said: str) -> None:
    done = runner.invoke(app, ["sim", *asked])
    assert done.exit_code == 2 and said in done.output


def test_a_run_that_fails_has_its_name_and_an_exit_status(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilothouse.experiments import worker

    def simulate(*given: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(worker, "simulate", simulate)
    done = runner.invoke(app, ["sim", "small.yaml", "--policy", "random", "--jobs", "1"])
    assert done.exit_code == 1 and "random, load x 2, seed 1: MemoryError: too large" in done.output


def test_an_interrupt_says_how_far_it_came(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pilothouse.experiments import worker

    whole, calls = worker.simulate, []

    def simulate(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "simulate", simulate)
    done = runner.invoke(app, ["sim", "small.yaml", "--jobs", "1", "--out", "x.html"])
    assert done.exit_code == 130 and "stopped; 2 of 4 runs were finished" in done.output
    assert "random" in done.output and Path("x.html").exists()
