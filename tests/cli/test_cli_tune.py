"""`pilothouse tune` as people use it: a scenario in; a verdict, and a policy that the gateway accepts, out."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.experiments import tune as tuner
from pilothouse.experiments.tasks import STOPPED, Ended
from pilothouse.report.files import read

SCENARIO = """
name: toy
pools: [{name: a, replicas: %d, model: qwen3-8b, gpu: h100}]
workload: {kind: open_loop, rate: 6, duration: 4s, prompt_tokens: [200, 400], output_tokens: [20, 40]}
policies: [{name: narrow, filters: [{type: in_flight_limit, requests_max: 1}], scorers: [least_requests]}, cache_and_load]
objectives: {ttft: 100ms}
"""
FEW = ["--jobs", "1", "--evaluations", "20", "--seeds-train", "2", "--seeds-held-back", "3"]
runner = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SCENARIO % 1)
    return tmp_path


def test_what_is_better_is_found_confirmed_and_accepted_by_the_gateway(here: Path) -> None:
    """One request at a time is far too narrow: any wider limit is better."""
    done = runner.invoke(app, ["tune", "toy.yaml", *FEW, "--out", "tuned.yaml", "--json", "runs.json"])
    assert done.exit_code == 0, done.output
    assert "the tuned policy is better: goodput +" in done.output and "on 3 held-back seeds" in done.output
    written = Path("tuned.yaml").read_text()
    assert written.startswith("# Found by pilothouse") and "pilothouse tune toy.yaml" in written
    policy = yaml.safe_load(written)["policy"]
    assert policy["name"] == "narrow_tuned" and policy["filters"][0]["requests_max"] > 1
    Path("gateway.yaml").write_text("pools: [{endpoints: [{url: 'http://h:1'}]}]\n" + written)
    assert runner.invoke(app, ["config", "check", "-c", "gateway.yaml"]).exit_code == 0
    runs = read(Path("runs.json")).runs
    assert [(run.name, run.seed) for run in runs] == [
        (n, s) for n in ("narrow", "narrow, tuned") for s in (1002, 1003, 1004)
    ]
    again = runner.invoke(app, ["tune", "toy.yaml", *FEW, "--out", "again.yaml"])
    assert again.exit_code == 0 and yaml.safe_load(Path("again.yaml").read_text())["policy"] == policy


def test_where_nothing_can_be_better_the_defaults_are_kept(here: Path) -> None:
    """With one engine there is nothing to choose."""
    done = runner.invoke(app, ["tune", "toy.yaml", *FEW, "--policy", "cache_and_load", "--out", "tuned.yaml"])
    assert done.exit_code == 0 and "keep the defaults" in done.output and not Path("tuned.yaml").exists()


def test_ctrl_c_gives_the_best_so_far(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = tuner.run_all, list[int]()

    def impatient(scenarios: object, tasks: list[object], *more: object) -> object:
        calls.append(len(tasks))
        if len(calls) > 5:
            return [Ended(task, None, STOPPED) for task in tasks]  # type: ignore[arg-type]
        return real(scenarios, tasks, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(tuner, "run_all", impatient)
    done = runner.invoke(app, ["tune", "toy.yaml", *FEW, "--out", "tuned.yaml"])
    assert done.exit_code == 130 and "not confirmed on others" in done.output
    assert "not confirmed" in Path("tuned.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "nosuch"], "--policy: unknown policy 'nosuch'"),
        (["--objective", "fun"], "--objective: unknown objective 'fun'"),
        (["--parameter", "x"], "--parameter x"),
        (["--policy", "random"], "no number to tune"),
        (["--out", "no/where.yaml"], "--out: there is no directory"),
    ],
)
def test_mistakes_are_named(here: Path, options: list[str], said: str) -> None:
    done = runner.invoke(app, ["tune", "toy.yaml", *options])
    assert done.exit_code == 2 and said in done.output, done.output


def test_goodput_needs_objectives(here: Path) -> None:
    Path("toy.yaml").write_text((SCENARIO % 1).replace("objectives: {ttft: 100ms}", ""))
    done = runner.invoke(app, ["tune", "toy.yaml", "--objective", "goodput"])
    assert done.exit_code == 2 and "goodput needs `objectives`" in done.output
