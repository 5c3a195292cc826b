"""Reading an engine's streams; and, on a real one, a file that foretells what it was not fitted on."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from pilothouse.cli import app
from pilothouse.experiments.calibrate import Asked, Sweep, Timed, has_token, middle, together
from pilothouse.live.clock import Clock
from pilothouse.perf.fit import predicted_us
from pilothouse.perf.step_time import StepTime
from pilothouse.perf.sweep import Kind, Reading, Trial
from rig.engines import Rig

PAIR = Trial(Kind.DECODE, 2, 100, 40)
BAND = 2.5  # a machine that others use at the same time is no steadier


def test_only_steps_in_which_all_decode_are_timed() -> None:
    early = Timed(0, [1_000 + 10_000 * i for i in range(20)] + [191_000 + 5_000 * i for i in range(20)])
    late = Timed(0, [151_000 + 5_000 * i for i in range(40)])
    found = together(PAIR, [early, late])
    assert found is not None and found.us == pytest.approx(5_500, rel=0.1)
    assert found.context == found.distinct and 200 < found.context < 280


def test_sequences_that_did_not_meet_are_no_reading() -> None:
    first, second = ([start + 1_000 * i for i in range(40)] for start in (0, 50_000))
    assert together(PAIR, [Timed(0, first), Timed(0, second)]) is None


def test_tokens_that_come_in_one_piece_are_no_reading() -> None:
    merged = Timed(0, [1_000] + [90_000] * 38 + [90_001])
    assert together(PAIR, [merged, merged]) is None


def test_the_middle_of_repeats_counts() -> None:
    repeats = [Reading(PAIR, us, 200, 200) for us in (10.0, 900.0, 12.0)]
    assert (middle(PAIR, repeats).us, middle(PAIR, repeats).repeats) == (12.0, 3)


@pytest.mark.parametrize(
    "line, token",
    [
        (b'data: {"choices":[{"text":""}]}', True),
        (b'data: {"choices": [], "usage": {}}', False),
        (b"data: [DONE]", False),
        (b"", False),
        (b": ping", False),
    ],
)
def test_parts_with_a_token(line: bytes, token: bool) -> None:
    assert has_token(line) is token


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["ftp://there"], "must begin with http"),
        (["http://127.0.0.1:9", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["http://127.0.0.1:9", "--out", "no/such/folder/x.json"], "there is no directory"),
        (["http://127.0.0.1:9"], "/v1/models"),
    ],
)
def test_mistakes_are_said(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["calibrate", *arguments])
    assert result.exit_code in (1, 2) and said in result.stderr


@pytest.mark.engine
def test_a_calibrated_file_foretells_what_it_has_not_seen(rig: Rig, tiny: Path, tmp_path: Path) -> None:
    import asyncio

    import aiohttp

    out = tmp_path / "step-time.json"
    with rig.start(tiny, args=("--max-model-len", "2048")) as engine:
        arguments = ["calibrate", engine.url, "--quick", "--seconds", "15", "--batched-tokens", "2048", "-o", str(out)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr

        async def ask(trial: Trial) -> Reading:
            async with aiohttp.ClientSession() as session:
                asked = Asked(url=engine.url, model="tiny", seconds=1.0, quick=True, batched_tokens=2048)
                sweep = Sweep(session, asked, Clock(), lambda what, share: None)
                readings = [await sweep.ask(trial) for _ in range(5)]
            return middle(trial, [reading for reading in readings if reading is not None])

        held_out = [asyncio.run(ask(t)) for t in (Trial(Kind.DECODE, 6, 400, 40), Trial(Kind.PREFILL, 1, 700, 1))]
    found = msgspec.json.decode(out.read_bytes(), type=StepTime)
    assert found.label == "Measured" and "tiny on " in found.source and found.a_us > 0
    for reading in held_out:
        assert 1 / BAND < predicted_us(found, reading, 2048) / reading.us < BAND
