"""A journal that is written, cut into segments, damaged, and replayed: nothing may differ, and what differs must show."""

from pathlib import Path

import msgspec
import pytest

from pilothouse.build import journal_header, replayed_dispatcher
from pilothouse.config.load import from_data
from pilothouse.config.policy import profile
from pilothouse.config.schema import Config
from pilothouse.core.commands import AnyCommand, Route
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.errors import JournalError
from pilothouse.core.events import AnyEvent, Arrived, BlocksCleared, FailureKind
from pilothouse.core.random_stream import stream
from pilothouse.core.units import EndpointId
from pilothouse.journal.log import Header, Segment, Writer, read, segments
from pilothouse.journal.replay import Verified, routes, verify
from tests.core import worlds
from tests.core.worlds import NOW, World

EVENTS = 2000


def config(policy: object = "cache_and_load", index_blocks: int = 1024) -> Config:
    limits = {"waiting": 5, "index_blocks": index_blocks, "retries_burst": 3, "retry_ratio": 0.1}
    return from_data({"pools": [{"endpoints": [{"url": "http://h:1"}]}], "policy": policy, "limits": limits})


def busy_hours(world: World, seed: int = 1, events: int = EVENTS) -> World:
    """A history in which everything happens: full queues, dead engines, cleared caches, departures."""
    luck, running, count = stream(seed, "history"), list[str](), 0
    for name in "abcd":
        world.send(worlds.seen(name, exact=name < "c", kv_blocks=40, block_size=16))
    while len(world.history) < events:
        world.after(ms=luck.choice([0, 1, 1, 20, 300]))
        wake_us = world.dispatcher.next_wake_us()
        if wake_us is not None and wake_us <= world.now_us:
            commands = world.send(worlds.tick())
        elif luck.random() < 0.45:
            count += 1
            prompt = f"{luck.choice('pqrs')}{luck.randrange(9)}:{luck.randrange(30)}"
            more = {"stream": luck.random() < 0.7, "session": luck.randrange(9)}
            commands = world.send(worlds.arrived(f"r{count}", prompt=prompt, **more))
        elif running and luck.random() < 0.85:
            commands = world.send(_end(running.pop(luck.randrange(len(running))), luck.randrange(10), running))
        else:
            commands = world.send(_trouble(luck.choice("abcd"), luck.randrange(12)))
        running += [c.request for c in commands if isinstance(c, Route)]
    return world


def _end(request: str, how: int, running: list[str]) -> AnyEvent:
    if how == 0:
        return worlds.failed(request, FailureKind.BUSY)
    if how == 1:
        return worlds.failed(request, FailureKind.CONNECT)
    if how == 2:
        return worlds.cancelled(request)
    if how < 6:
        running.append(request)
        return worlds.first_token(request)
    return worlds.finished(request)


def _trouble(endpoint: str, what: int) -> AnyEvent:
    if what == 0:
        return worlds.gone(endpoint)
    if what == 1:
        return BlocksCleared(NOW, EndpointId(endpoint))
    if what < 5:
        return worlds.stored(endpoint, f"p{what}:{what * 4}")
    if what < 8:
        return worlds.reported(endpoint, what, what, what / 10)
    if what == 8:
        return worlds.seen(endpoint, exact=endpoint < "c", kv_blocks=40, block_size=16)
    return worlds.probed(endpoint, what > 9)


class Recorded(World):
    """A world with a journal, kept as the live driver keeps it."""

    journal: Writer

    def send(self, event: AnyEvent) -> list[AnyCommand]:
        if self.journal.full:
            self.journal.rotate(self.dispatcher.snapshot() if self.journal.begun else b"")
        commands = super().send(event)
        self.journal.append(self.history[-1][0], commands)
        return commands


def record(
    directory: Path,
    segment: int = 1 << 20,
    bytes_max: int = 1 << 30,
    made_with: Config | None = None,
    events: int = EVENTS,
) -> World:
    made_with = made_with or config()
    dispatcher = replayed_dispatcher(Header("", 0, "", 0, *journal_header(made_with)), b"")
    world = Recorded(dispatcher)
    world.journal = Writer(directory, segment, bytes_max, *journal_header(made_with))
    busy_hours(world, events=events)
    world.journal.close()
    return world


def opened(path: Path) -> Segment:
    segment = read(path)
    assert segment is not None
    return segment


def checked(path: Path) -> Verified:
    result = verify(path, replayed_dispatcher)
    assert result.first is None, result.first
    assert result.differences == 0 and result.events > 0
    return result


def test_what_is_written_is_read(tmp_path: Path) -> None:
    world = record(tmp_path / "new" / "journal")
    (path,) = segments(tmp_path / "new" / "journal")
    segment = opened(path)
    assert [(entry.event, entry.commands) for entry in segment.entries] == world.history
    assert (segment.header.index, segment.snapshot, segment.header.policy) == (1, b"", "cache_and_load")
    assert path.stat().st_mode & 0o077 == 0 and path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "policy", ["cache_and_load", "session_affinity", "random", {"scorers": ["kv_free", "session"]}]
)
def test_a_replay_differs_in_nothing(tmp_path: Path, policy: object) -> None:
    world = record(tmp_path, made_with=config(policy))
    result = checked(tmp_path)
    assert (result.events, result.segments) == (EVENTS, 1)
    assert result.commands == sum(len(commands) for _, commands in world.history) > EVENTS / 4


@pytest.mark.parametrize("index_blocks", [1024, 20_000_000])
def test_a_replay_across_segments_differs_in_nothing(tmp_path: Path, index_blocks: int) -> None:
    record(tmp_path, segment=40_000, made_with=config(index_blocks=index_blocks))
    result = checked(tmp_path)
    assert result.segments > 5 and result.events == EVENTS
    for path in segments(tmp_path)[1:]:
        assert opened(path).snapshot
        checked(path)


def test_the_oldest_segments_go_and_the_rest_can_be_replayed(tmp_path: Path) -> None:
    record(tmp_path, segment=40_000, bytes_max=200_000)
    paths = segments(tmp_path)
    assert len(paths) > 1 and paths[0].stem != "00000001"
    assert sum(path.stat().st_size for path in paths) <= 200_000 + 40_000
    assert checked(tmp_path).events < EVENTS


def test_a_segment_lost_in_the_middle_makes_no_difference(tmp_path: Path) -> None:
    record(tmp_path, segment=40_000)
    segments(tmp_path)[2].unlink()
    checked(tmp_path)


def test_a_snapshot_larger_than_a_segment_does_not_begin_one_for_every_event(tmp_path: Path) -> None:
    journal = Writer(tmp_path, 10_000, 1 << 30, *journal_header(config()))
    journal.rotate(bytes(50_000))
    assert not journal.full
    for i in range(1000):
        journal.append(worlds.arrived(f"r{i}", 1), [])
    assert journal.full
    journal.close()


def test_a_new_run_continues_the_numbers_and_begins_anew(tmp_path: Path) -> None:
    record(tmp_path, events=100)
    record(tmp_path, events=100)
    first, second = segments(tmp_path)
    assert (first.stem, second.stem) == ("00000001", "00000002")
    assert opened(first).header.run != opened(second).header.run
    assert checked(tmp_path).events == 200


# Damage


def test_a_kill_costs_the_last_entry_and_nothing_else(tmp_path: Path) -> None:
    record(tmp_path, events=200)
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    for cut in range(1, 40):
        path.write_bytes(data[:-cut])
        assert EVENTS > len(list(opened(path).entries)) >= 198
        checked(tmp_path)


def test_a_segment_cut_off_in_its_head_holds_nothing(tmp_path: Path) -> None:
    record(tmp_path, events=100)
    header = segments(tmp_path)[0].read_bytes()
    for length in range(0, 200, 3):
        (tmp_path / "00000002.journal").write_bytes(header[:length])
        assert checked(tmp_path).events == 100
    assert read(tmp_path / "00000002.journal") is None


def test_a_journal_is_on_disk_as_soon_as_it_is_begun(tmp_path: Path) -> None:
    journal = Writer(tmp_path, 10_000, 1 << 30, *journal_header(config()))
    journal.rotate(b"")
    assert opened(segments(tmp_path)[0]).header.index == 1
    journal.close()


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\0\0\0\1\xc1", b"\0\0\0\5hello", b"\0\0\0\1\x90"])
def test_what_is_no_journal_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "00000001.journal"
    path.write_bytes(data)
    with pytest.raises(JournalError, match="is not a Pilothouse journal"):
        verify(path, replayed_dispatcher)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    record(tmp_path, events=50)
    (path,) = segments(tmp_path)
    segment = opened(path)
    size = len(msgspec.msgpack.encode(segment.header)) + 8
    data = bytearray(path.read_bytes())
    data[size + 4] = 0xC1  # a byte MessagePack never uses, at the beginning of the first entry
    path.write_bytes(data)
    with pytest.raises(JournalError, match="entry 0 is damaged"):
        verify(tmp_path, replayed_dispatcher)


def test_another_version_is_refused(tmp_path: Path) -> None:
    record(tmp_path, events=10)
    (path,) = segments(tmp_path)
    frame = msgspec.msgpack.encode(msgspec.structs.replace(opened(path).header, version=99))
    path.write_bytes(len(frame).to_bytes(4, "big") + frame)
    with pytest.raises(JournalError, match="version 99"):
        read(path)


def test_settings_that_this_program_does_not_know_are_refused(tmp_path: Path) -> None:
    record(tmp_path, events=10)
    header = msgspec.structs.replace(opened(segments(tmp_path)[0]).header, settings={"seeds": 1})
    with pytest.raises(JournalError, match="settings cannot be read"):
        replayed_dispatcher(header, b"")
    with pytest.raises(JournalError, match="cannot be read"):
        replayed_dispatcher(opened(segments(tmp_path)[0]).header, b"not a snapshot")


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(JournalError, match="holds no journal"):
            verify(path, replayed_dispatcher)
    with pytest.raises(JournalError, match="No such file"):
        read(tmp_path / "00000001.journal")


def test_a_directory_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"journal\.directory"):
        Writer(tmp_path / "file", 1, 1, *journal_header(config()))
    (tmp_path / "mine.journal").write_text("")
    with pytest.raises(JournalError, match=r"journal\.directory"):
        Writer(tmp_path, 1, 1, *journal_header(config()))


# Controls: a verification that cannot fail proves nothing


def test_another_policy_differs(tmp_path: Path) -> None:
    record(tmp_path)

    def other(header: Header, snapshot: bytes) -> Dispatcher:
        return Dispatcher(msgspec.convert(header.settings, DispatcherSettings), profile("least_requests"))

    result = verify(tmp_path, other)
    assert result.differences > 5 and result.first is not None and result.abandoned <= 1
    assert result.first.recorded != result.first.replayed and result.first.segment == "00000001.journal"


def test_a_changed_weight_differs(tmp_path: Path) -> None:
    record(tmp_path, made_with=config({"scorers": [{"type": "prefix_cache", "weight": 2.0}, "least_requests"]}))
    changed = config({"scorers": [{"type": "prefix_cache", "weight": 1.9}, "least_requests"]})

    def other(header: Header, snapshot: bytes) -> Dispatcher:
        return replayed_dispatcher(msgspec.structs.replace(header, policy=changed.policy), snapshot)

    assert verify(tmp_path, other).differences > 0


def test_a_changed_event_differs(tmp_path: Path) -> None:
    world = record(tmp_path / "true", events=500)
    forged = Writer(tmp_path / "forged", 1 << 20, 1 << 30, *journal_header(config()))
    forged.rotate(b"")
    changed = next(i for i, (event, _) in enumerate(world.history) if i > 200 and isinstance(event, Arrived))
    for i, (event, commands) in enumerate(world.history):
        lie = msgspec.structs.replace(event, prompt_tokens=0, blocks=[]) if i == changed else event
        forged.append(lie, commands)
    forged.close()
    result = verify(tmp_path / "forged", replayed_dispatcher)
    assert result.first is not None and result.first.number == changed


def test_a_replay_that_has_become_impossible_says_so(tmp_path: Path) -> None:
    """The fleet of the replay refuses everything, so no recorded end of a request fits it."""
    record(tmp_path, segment=40_000)

    def other(header: Header, snapshot: bytes) -> Dispatcher:
        settings = msgspec.convert(header.settings | {"attempts_max": 0, "waiting_max": 0}, DispatcherSettings)
        return Dispatcher(settings, profile("least_requests"))

    result = verify(tmp_path, other)
    assert result.abandoned > 1 and result.first is not None
    list(routes(tmp_path, other))


def test_routes_are_decided_anew(tmp_path: Path) -> None:
    world = record(tmp_path, events=500)
    recorded = [c for _, commands in world.history for c in commands if isinstance(c, Route)]
    assert list(routes(tmp_path, replayed_dispatcher)) == recorded
