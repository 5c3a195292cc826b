"""The deployed stack on virtual time, in the worst of weathers, with its journal: a replay differs in nothing."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilothouse.build import journal_header, replayed_dispatcher
from pilothouse.config.schema import Config
from pilothouse.core.commands import Abort, Reject, Route
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import AnyEvent, Arrived, BlocksStored, Cancelled, Failed, FailureKind, FirstToken
from pilothouse.journal.log import Header, Writer, read, segments
from pilothouse.journal.replay import Verified, verify
from tests.parity.parity import POLICIES, QUICK, Day, Pairs, config, digest_of_rough_days, rough_day

ROOT = Path(__file__).parent.parent.parent
SEGMENT = "48KiB"  # small, so that a day has several and most of them begin in the middle of things


def journaled(directory: Path, policy: Any, seed: int = 0, workers: int = 1) -> Config:
    journal = {"directory": str(directory), "segment": SEGMENT}
    return config(policy, journal=journal, health=QUICK, seed=seed, workers=workers, timeouts={"connect": "500ms"})


def checked(path: Path) -> Verified:
    result = verify(path, replayed_dispatcher)
    assert result.first is None, result.first
    return result


def written(pairs: Pairs, directory: Path, made_with: Config) -> Path:
    """A journal of these events and commands."""
    journal = Writer(directory, 1 << 30, 1 << 40, *journal_header(made_with))
    journal.rotate(b"")
    for event, commands in pairs:
        journal.append(event, commands)
    journal.close()
    return directory


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replay_of_a_rough_day_differs_in_nothing(tmp_path: Path, policy: str) -> None:
    day = rough_day(journaled(tmp_path, POLICIES[policy], seed=2), 2)
    result = checked(tmp_path)
    assert result.events == len(day.pairs) and result.segments > 2
    assert result.commands == sum(len(commands) for _, commands in day.pairs)
    kept: Pairs = []
    for path in segments(tmp_path):  # each from its own snapshot
        checked(path)
        segment = read(path)
        assert segment is not None
        kept += [(entry.event, entry.commands) for entry in segment.entries]
    assert kept == day.pairs


def test_workers_share_one_dispatcher_and_its_journal(tmp_path: Path) -> None:
    day = rough_day(journaled(tmp_path, "marginal_cost", workers=2), 3)
    result = checked(tmp_path)
    assert result.events == len(day.pairs) and sum(got.whole for got in day.got.values()) > 40


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, Day]:
    """One rough day and its journal, for those that do not change it."""
    path = tmp_path_factory.mktemp("rough")
    made_with = journaled(path, "marginal_cost")
    return path, made_with, rough_day(made_with, 1)


def test_a_rough_day_is_rough(recorded: tuple[Path, Config, Day]) -> None:
    """Otherwise the laws above would prove little."""
    day = recorded[2]
    events = [event for event, _ in day.pairs]
    kinds = Counter(type(event).__name__ for event in events)
    failures = {event.kind for event in events if isinstance(event, Failed)}
    commands = [command for _, several in day.pairs for command in several]
    assert {"Cancelled", "Failed", "BlocksCleared", "BlocksRemoved", "LoadReported", "Tick"} <= kinds.keys()
    assert {FailureKind.CONNECT, FailureKind.BROKEN, FailureKind.TIMEOUT} <= failures
    assert any(isinstance(command, Route) and command.attempt > 1 for command in commands)
    assert any(isinstance(command, Route) and "waited" in command.why.note for command in commands)
    assert any(isinstance(command, Abort) for command in commands)
    ended = kinds["Finished"] + kinds["Cancelled"] + sum(isinstance(command, Reject) for command in commands)
    assert ended + sum(isinstance(event, Failed) and event.sent for event in events) == kinds["Arrived"]


def test_a_day_is_the_same_whatever_the_hash_seed() -> None:
    code = "from tests.parity.parity import digest_of_rough_days as digest; print(digest())"
    here = digest_of_rough_days()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1234", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == here, done.stderr


# Controls: a proof that cannot fail proves nothing


def test_a_changed_weight_differs(tmp_path: Path) -> None:
    policy = POLICIES["llmd_default"]
    rough_day(journaled(tmp_path, policy), 1)
    scorers = [policy["scorers"][0] | {"weight": 1.9}, *policy["scorers"][1:]]
    changed = config(policy | {"scorers": scorers}).policy

    def other(header: Header, snapshot: bytes) -> Dispatcher:
        return replayed_dispatcher(msgspec.structs.replace(header, policy=changed), snapshot)

    assert verify(tmp_path, other).differences > 0


@pytest.mark.parametrize("kind", [Arrived, BlocksStored, Cancelled, FirstToken])
def test_a_lost_event_differs(recorded: tuple[Path, Config, Day], tmp_path: Path, kind: type[AnyEvent]) -> None:
    """Of each kind there is one whose loss shows; not each of them matters."""
    _, made_with, day = recorded
    assert verify(written(day.pairs, tmp_path / "whole", made_with), replayed_dispatcher).differences == 0
    where = [i for i, (event, _) in enumerate(day.pairs) if isinstance(event, kind)]
    assert any(
        verify(
            written([*day.pairs[:lost], *day.pairs[lost + 1 :]], tmp_path / str(lost), made_with), replayed_dispatcher
        ).differences
        for lost in where[:: max(1, len(where) // 40)]  # from all over the day
    )


def test_a_forgotten_snapshot_differs(recorded: tuple[Path, Config, Day]) -> None:
    def forgetful(header: Header, snapshot: bytes) -> Dispatcher:
        return replayed_dispatcher(header, b"")

    later = segments(recorded[0])[1]
    segment = read(later)
    assert segment is not None and segment.snapshot
    assert verify(later, forgetful).differences > 0
