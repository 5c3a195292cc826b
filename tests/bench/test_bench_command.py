"""`pilothouse bench` as a person meets it: every wrong option at once, a table, a file, the exit status."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from bench_server import Server, whole
from typer.testing import CliRunner, Result

from pilothouse.cli import app
from pilothouse.report.files import Saved, read

WORKLOAD = "kind: open_loop\nrate: 40\nduration: 250ms\nprompt_tokens: [40, 60]\noutput_tokens: [2, 5]\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own: the command brings its own loop."""
    listening: list[str] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with Server(whole) as server:
            listening.append(server.url)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10)
    yield listening[0]
    over.set()
    thread.join()


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "w.yaml"
    path.write_text(WORKLOAD)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def test_a_run_is_printed_and_stored(url: str, workload: Path) -> None:
    stored = workload.parent / "run.json"
    result = call(f"{url}/v1/", "-w", workload, "--load", 2, "--json", stored, "--objectives", "ttft=10s,e2e=1m")
    assert result.exit_code == 0, result.output
    (run,) = read(stored).runs
    assert (run.name, run.label, run.load, run.seed, run.scenario) == (url, "Measured", 2.0, 1, "w")
    summary = run.stages[0].summary
    assert summary.requests == 20 == round(summary.goodput * summary.seconds)
    assert "client:" in run.stages[0].notes[0] and "client:" in result.stdout
    page = workload.parent / "page.html"
    again = call(url, "-w", workload, "--out", page)
    assert again.exit_code == 0 and "Measured" in page.read_text()


def test_the_first_requests_only_and_json_to_standard_output(url: str, workload: Path) -> None:
    result = call(
        url, "-w", workload, "--requests-max", 3, "--api", "completions", "--label", "Emulated", "--json", "-"
    )
    assert result.exit_code == 0, result.output
    (run,) = msgspec.json.decode(result.stdout, type=Saved).runs
    assert run.stages[0].summary.requests == 3 and run.label == "Emulated"


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    nowhere = tmp_path / "no" / "x"
    wrong = ["--api", "x", "--tokenizer", nowhere, "--prompts", "y", "--label", "Guessed", "--timeout", "0s",
             "--load", "0", "--vocab", "9-3",
             "--objectives", "ttfx=1s,tpot=soon", "--api-key-env", "NOT_SET_ANYWHERE", "--json", nowhere]  # fmt: skip
    result = call("host:9", "-w", tmp_path / "none.yaml", *wrong)
    assert result.exit_code == 2
    places = [line.split(": ")[1] for line in result.stderr.splitlines()]
    assert set(places) >= {"URL", "--api", "--prompts", "--label", "--timeout", "--load", "--vocab", "--objectives",
                           "--objectives tpot", "--api-key-env", "--json", "--tokenizer", "workload"}  # fmt: skip


def test_token_ids_need_the_completions_api(workload: Path) -> None:
    result = call("http://127.0.0.1:1", "-w", workload, "--prompts", "tokens")
    assert result.exit_code == 2 and "--api completions" in result.stderr


def test_a_server_that_is_not_there_is_one_clear_error(workload: Path) -> None:
    result = call("http://127.0.0.1:1", "-w", workload)
    assert result.exit_code == 1 and "http://127.0.0.1:1: /v1/models" in result.stderr and not result.stdout
