"""Engines of the rig are real, alike, mortal, and never outlive whoever started them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from rig.engines import Engine, EngineDied, Rig, wait_until

ROOT = Path(__file__).resolve().parents[2]
PROMPT = [100 + 7 * number % 3000 for number in range(200)]

pytestmark = pytest.mark.engine


def greedy(engine: Engine) -> list[int]:
    """Sixteen tokens after the prompt."""
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "temperature": 0, "return_token_ids": True}
    body["ignore_eos"] = True
    request = Request(f"{engine.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        tokens: list[int] = json.load(answer)["choices"][0]["token_ids"]
        return tokens


def running(pid: int) -> bool:
    """Whether a process or group member with this number is left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_engines_agree_and_one_comes_back(rig: Rig, tiny: Path) -> None:
    with rig.start(tiny) as one, rig.start(tiny) as other:
        expected = greedy(one)
        assert len(expected) == 16
        assert greedy(other) == expected
        one.kill()
        assert not one.alive
        assert other.healthy()
        dead = one.pid
        rig.restart(one).wait_ready()
        assert one.pid != dead
        assert greedy(one) == expected
        one.suspend()
        assert one.alive
        assert not one.healthy()
        one.resume()
        assert greedy(one) == expected
        one.stop()
        assert not one.alive


def test_a_bad_argument_is_quoted(rig: Rig, tiny: Path) -> None:
    with pytest.raises(EngineDied, match="unrecognized arguments: --no-such-thing"):
        rig.start(tiny, args=["--no-such-thing"]).wait_ready()


def test_nothing_outlives_a_killed_owner(tiny: Path) -> None:
    script = (
        "import sys\n"
        "from rig.engines import Rig\n"
        f"rig = Rig(); engine = rig.start({str(tiny)!r}).wait_ready()\n"
        "print(engine.pid, rig.zygote.pid, rig.runtime, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout
        engine, zygote, runtime = owner.stdout.readline().split()
        owner.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not running(int(engine)) and not running(int(zygote)), 10)
    assert wait_until(lambda: not Path(runtime).exists(), 10)
