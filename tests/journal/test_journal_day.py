"""What a journal says of a day: requests, engines, answers that went on; and what is said when it does not."""

from pathlib import Path

import pytest

from pilothouse.core.commands import Reject, RejectReason, Route, Why
from pilothouse.core.errors import ConfigError, JournalError
from pilothouse.core.events import (
    Arrived,
    BlocksStored,
    Cancelled,
    EndpointGone,
    EndpointSeen,
    Failed,
    FailureKind,
    Finished,
    FirstToken,
)
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId
from pilothouse.journal.asked import ASIDE, WARM, asked, outcomes
from pilothouse.journal.day import Day, read_day
from tests.journal.days import conversations, record

HERE = EndpointId("e-0")


def keys(*numbers: int) -> list[BlockKey]:
    return [BlockKey(number) for number in numbers]


def seen(day: Day, name: str = "e-0", *, models: tuple[str, ...] = ("m",), exact: bool = False, at_us: int = 0) -> None:
    day.take(EndpointSeen(Micros(at_us), EndpointId(name), "http://h:1", "e", list(models), exact, 100, 16), [])


def ask(
    day: Day, name: str, at_us: int, blocks: list[BlockKey] | None = None, model: str = "m", tokens: int = 0
) -> None:
    given = keys(1, 2) if blocks is None else blocks
    request = RequestId(name)
    arrived = Arrived(Micros(at_us), request, model, tokens or 16 * len(given) or 5, given, 16 if given else 0, True)
    day.take(arrived, [Route(request, HERE, "http://h:1", 1, 0, Why("p", [], [], 1))])


def finish(day: Day, name: str, at_us: int, output: int | None = 40) -> None:
    day.take(FirstToken(Micros(at_us - 10), RequestId(name)), [])
    day.take(Finished(Micros(at_us), RequestId(name), None, None, output), [])


def test_an_answer_is_named_by_the_prompt_that_goes_on_from_it() -> None:
    day = Day()
    seen(day)
    ask(day, "a", 10, keys(1, 2))
    finish(day, "a", 50, output=40)  # 72 tokens in all: four whole blocks
    ask(day, "b", 60, keys(1, 2, 3, 4, 5, 6))
    ask(day, "c", 61, keys(1, 2, 7, 8, 9))  # another one from the same beginning: that answer is taken
    assert [a.output_blocks for a in day.asks] == [keys(3, 4), [], []]


def test_an_altered_answer_is_no_hit() -> None:
    day = Day()
    seen(day, exact=True)
    ask(day, "a", 10, keys(1, 2))
    finish(day, "a", 50)
    day.take(BlocksStored(Micros(55), HERE, keys(1, 2, 3)), [])
    ask(day, "b", 60, keys(1, 2, 3, 99, 5))
    assert day.asks[0].output_blocks == keys(3) and day.altered == 1
    assert "otherwise than they had been answered" in " ".join(asked(day).notes)


def test_a_prompt_too_short_to_go_on_from_an_answer_does_not() -> None:
    day = Day()
    seen(day)
    ask(day, "a", 10, keys(1, 2))
    finish(day, "a", 50, output=100)
    ask(day, "b", 60, keys(1, 2, 3))
    assert day.asks[0].output_blocks == []


def test_every_end_there_is() -> None:
    day = Day()
    seen(day)
    for i, name in enumerate("abcdef"):
        ask(day, name, 10 + i, keys(i))
    finish(day, "a", 1000)
    finish(day, "b", 1100, output=None)
    day.take(Failed(Micros(1200), RequestId("c"), FailureKind.BROKEN, True), [])
    day.take(FirstToken(Micros(1205), RequestId("d")), [])
    day.take(Cancelled(Micros(1210), RequestId("d")), [])
    again = Failed(Micros(1220), RequestId("e"), FailureKind.CONNECT, False)
    day.take(again, [Reject(RequestId("e"), RejectReason.RETRIES_EXHAUSTED)])
    given = asked(day)
    assert [o.request for o in outcomes(given)] == ["a", "b", "c", "e"]
    assert [o.error for o in outcomes(given)] == ["", "", "broken", "retries_exhausted"]
    planned = {p.request: p for p in given.workload.stages[0].requests}
    assert list(planned) == list("abcdef") and {p.tenant for n, p in planned.items() if n in "df"} == {ASIDE}
    assert planned["b"].output_tokens == 40  # the model's mean
    assert planned["d"].output_tokens == 1 + round(5 / (10 / 39))  # what it had by then
    notes = " ".join(given.notes)
    assert (
        "5 of 6 requests have no recorded output length" in notes and "1 requests that their clients broke off" in notes
    )


def test_a_name_used_again_is_another_request() -> None:
    day = Day()
    seen(day)
    for at_us in (10, 100):
        ask(day, "a", at_us)
        finish(day, "a", at_us + 50)
    assert list(asked(day).asks) == ["a", "a#1"]


def test_models_of_one_fleet_go_together_others_are_chosen() -> None:
    day = Day()
    seen(day, "e-0", models=("m", "lora"))
    seen(day, "f-0", models=("n",))
    for i, model in enumerate(("m", "lora", "n")):
        ask(day, f"r{i}", 10 + i, model=model)
        finish(day, f"r{i}", 100 + i)
    with pytest.raises(ConfigError, match="choose one: m, lora; n"):
        asked(day)
    with pytest.raises(ConfigError, match="nobody asked for 'x'"):
        asked(day, "x")
    given = asked(day, "lora")
    assert given.models == ["m", "lora"] and [p.tenant for p in given.workload.stages[0].requests] == ["m", "lora"]
    assert asked(day, "n").models == ["n"]
    seen(day, "f-0", models=("n", "m"), at_us=200)
    with pytest.raises(ConfigError, match="serve"):
        asked(day, "n")


def test_segments_say_the_same_as_one(tmp_path: Path) -> None:
    record(tmp_path / "one", conversations(20))
    record(tmp_path / "many", conversations(20), segment=4000)
    one, many = read_day(tmp_path / "one"), read_day(tmp_path / "many")
    assert len(many.headers) > 3 and asked(many).workload == asked(one).workload and not many.gaps
    assert outcomes(asked(many)) == outcomes(asked(one))
    parts = sorted((tmp_path / "many").glob("*.journal"))
    parts[0].unlink()  # the oldest goes when there are too many
    parts[2].unlink()
    rest = read_day(tmp_path / "many")
    assert WARM in asked(rest).notes and WARM not in asked(many).notes
    assert WARM not in asked(rest, from_us=3_000_000).notes
    assert list(rest.engines) == list(one.engines) and rest.gaps == 1 and 0 < len(rest.asks) < len(one.asks)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no journal"):
        read_day(tmp_path)
    wrong = tmp_path / "00000001.journal"
    wrong.write_bytes(b"what is this? not a journal at all")
    with pytest.raises(JournalError, match="not a Pilothouse journal"):
        read_day(tmp_path)
    wrong.write_bytes(b"\0\0")
    with pytest.raises(JournalError, match="empty"):
        read_day(tmp_path)


def test_a_segment_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    record(tmp_path, conversations(10))
    (path,) = tmp_path.glob("*.journal")
    whole, size = read_day(tmp_path), path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    half = read_day(tmp_path)
    assert 0 < half.events < whole.events and 0 < len(asked(half).asks) < len(whole.asks)


def test_time_that_goes_back_is_another_day(tmp_path: Path) -> None:
    record(tmp_path, conversations(3))
    record(tmp_path, conversations(3))
    with pytest.raises(JournalError, match="directory of their own"):
        read_day(tmp_path)


def test_a_window_without_arrivals_is_said(tmp_path: Path) -> None:
    record(tmp_path, conversations(3))
    day = read_day(tmp_path)
    with pytest.raises(ConfigError, match="no request arrives between --from and --until; the journal lasts"):
        asked(day, from_us=10**12)
    quiet = Day()
    seen(quiet)
    with pytest.raises(ConfigError, match="holds no request"):
        asked(quiet)


def test_engines_that_the_gateway_forgot_when_it_stopped_are_there_when_it_is_back() -> None:
    day = Day()
    seen(day)
    ask(day, "a", 10)
    finish(day, "a", 50)
    day.take(EndpointGone(Micros(60), HERE), [])
    assert "stay in the simulation" not in " ".join(asked(day).notes)  # nobody came after that
    ask(day, "b", 70)
    finish(day, "b", 90)
    assert "stay in the simulation" in " ".join(asked(day).notes)
    seen(day, at_us=100)
    assert day.engines[HERE].gone_us is None and day.engines[HERE].ready_us == 0
