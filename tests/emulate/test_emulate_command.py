"""The command: says what it is, serves, stops on SIGTERM, and names what is wrong."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from pilothouse.cli.app import app
from rig.engines import ROOT

COMMAND = [sys.executable, "-m", "pilothouse.cli", "emulate"]
SIZE = ["--model", "qwen3-32b", "--gpu", "h100", "--tp", "2"]


def test_it_says_that_it_is_emulated_serves_and_stops(tmp_path: Path) -> None:
    command = [*COMMAND, *SIZE, "--port", "0", "--replicas", "2", "--fault", "1:error_rate=1", "--served-name", "m"]
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": ""}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr is not None
        try:
            said = [process.stderr.readline() for _ in range(5)]
            assert "EMULATED" in said[0] and "estimated" in said[1]
            ports = [int(port) for line in said for port in re.findall(r"http://127\.0\.0\.1:(\d+)/v1", line)]
            with urlopen(f"http://127.0.0.1:{ports[0]}/emulator", timeout=10) as answer:
                first, second = json.load(answer)
            assert (first["faults"]["error_rate"], second["faults"]["error_rate"]) == (0, 1)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, process.stderr.read()


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--gpu", "h1000"], "--gpu: unknown GPU 'h1000'"), (["--fault", "7:slow=2"], "no replica 7"),
     (["--tokenizer", "nowhere-at-all"], "nowhere-at-all"), (["--port", "70000"], "not an address")],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["emulate", *SIZE, "--port", "0", *more])
    assert done.exit_code == 2 and said in done.stderr
