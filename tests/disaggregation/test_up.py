"""`pilothouse up --prefill 1 --decode 1`: a real pair, started as a user would start it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pilothouse.live.launch_machine import free_ports
from rig.engines import ROOT, Engine, wait_until
from rig.exchange import lacking
from tests.disaggregation.by_hand import (
    PLEASE_PREFILL,
    Address,
    completion,
    fetched_tokens,
    tokens_of,
    varied_prompt,
    whole,
)

pytestmark = [pytest.mark.engine, pytest.mark.skipif(bool(lacking("nixl")), reason=lacking("nixl"))]

READY_S, STOPPED_S = 120, 30
SMALL = ("--engine-arg=--max-model-len=2048", "--engine-arg=--kv-cache-memory-bytes=64M")


@pytest.fixture
def control(tiny: Path, tmp_path: Path) -> Iterator[str]:
    """The control address of a gateway in front of a pair."""
    listen, control = (f"127.0.0.1:{port}" for port in free_ports(2))
    words = ["up", "--model", str(tiny), "--served-name", "tiny", "--prefill", "1", "--decode", "1", *SMALL]
    words += ["--listen", listen, "--control", control, "--logs", str(tmp_path)]
    with (tmp_path / "said").open("wb") as said:
        up = subprocess.Popen(
            [sys.executable, "-m", "pilothouse.cli", *words],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        ready = wait_until(lambda: up.poll() is not None or states(control) == ["up", "up"], READY_S)
        assert ready and up.poll() is None, (tmp_path / "said").read_text()
        yield control
    finally:
        up.terminate()
        up.wait(STOPPED_S)


def endpoints(control: str) -> list[dict[str, Any]]:
    try:
        with urlopen(f"http://{control}/status", timeout=5) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["endpoints"]
            return found
    except OSError:
        return []


def states(control: str) -> list[str]:
    return [endpoint["state"] for endpoint in endpoints(control)]


def test_a_pair_that_up_has_started_exchanges_kv(control: str, single: Engine) -> None:
    found = {endpoint["endpoint"]: endpoint for endpoint in endpoints(control)}
    assert {name: endpoint["role"] for name, endpoint in found.items()} == {
        "prefill-0": "prefill",
        "decode-0": "decode",
    }
    prefill, decode = Address(found["prefill-0"]["url"]), Address(found["decode-0"]["url"])
    prompt = varied_prompt(1)
    computed = completion(prefill, prompt, PLEASE_PREFILL, "up", max_tokens=1)
    answer = completion(decode, prompt, computed["kv_transfer_params"], "up")
    assert tokens_of(answer) == whole(single, prompt)
    assert fetched_tokens(decode) == len(prompt)
