"""Values with a unit, and the explanation of every field."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from pilothouse.config.explain import Explained, explain
from pilothouse.config.load import from_data
from pilothouse.config.schema import Config, Settings
from pilothouse.config.values import DURATION_UNITS, NUMBER_MAX, SIZE_UNITS, Duration, Size

DATA: dict[str, Any] = {
    "pools": [
        {"endpoints": [{"url": "http://a:1"}, {"url": "http://b:1", "name": "b"}]},
        {"name": "p", "dns": {"name": "x", "port": 1}},
    ],
    "timeouts": {"connect": "500ms"},
    "policy": {"scorers": ["session"]},
}


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1us", 1),
        ("250ms", 250000),
        ("1.5s", 1500000),
        ("2m", 120000000),
        ("1h", 3600000000),
        (" 3 s ", 3000000),
        ("0s", 0),
        ("0.1us", 0),
        ("9007199254740992us", 1 << 53),
        ("2502h", 9007200000000),
    ],
)
def test_durations(text: str, us: int) -> None:
    assert Duration.parse(text).us == us


@pytest.mark.parametrize(("text", "count"), [("0B", 0), ("1KiB", 1024), ("1.5MiB", 3 << 19), ("2GiB", 2 << 30)])
def test_sizes(text: str, count: int) -> None:
    assert Size.parse(text) == count


@pytest.mark.parametrize("text", ["", "s", "1", "1 d", "-1s", "+1s", "1e3s", "1,5s", "٣s", "1S", "1s1s", ".5s", "nans"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        Duration.parse(text)


@pytest.mark.parametrize("data", [None, 1, 1.5, True, [], {}])
def test_a_number_without_a_unit_is_nothing(data: object) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        Size.parse(data)


@pytest.mark.parametrize(
    ("us", "text"), [(0, "0us"), (1, "1us"), (90_000_000, "90s"), (120_000_000, "2m"), (1500, "1500us")]
)
def test_durations_are_shown_as_written(us: int, text: str) -> None:
    assert str(Duration(us)) == text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, NUMBER_MAX))
def test_values_survive_being_written(value: int) -> None:
    assert Duration.parse(str(Duration(value))) == value and Size.parse(str(Size(value))) == value
    assert str(Duration(value))[-1] == "s" or str(Duration(value))[-1] in "mh"


def test_no_unit_has_two_meanings() -> None:
    assert not DURATION_UNITS.keys() & SIZE_UNITS.keys()


# The explanation


def sections(kind: type[Settings]) -> list[type[Settings]]:
    found = [kind]
    for field in fields(kind):
        found += [inner for part in parts(field.type) for inner in sections(part)]
    return found


def parts(kind: Any) -> list[type[Settings]]:
    """The sections a field's type mentions."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        return [kind]
    return [section for part in get_args(kind) if not isinstance(part, msgspec.Meta) for section in parts(part)]


def test_every_field_says_what_it_means() -> None:
    found = sections(Config)
    assert len(found) > 10
    for kind in found:
        assert kind.__doc__, kind
        for field in fields(kind):
            metas = [part for part in get_args(field.type) if isinstance(part, msgspec.Meta)]
            assert any(meta.description for meta in metas), f"{kind.__name__}.{field.name} has no description"


def explained() -> dict[str, Explained]:
    return {line.where: line for line in explain(from_data(DATA), DATA)}


def leaves(value: msgspec.Struct, where: str = "") -> list[str]:
    found: list[str] = []
    for field in fields(value):
        inner, path = getattr(value, field.name), f"{where}{field.name}"
        if isinstance(inner, msgspec.Struct):
            found += leaves(inner, f"{path}.")
        elif isinstance(inner, list) and any(isinstance(item, msgspec.Struct) for item in inner):
            found += [leaf for i, item in enumerate(inner) for leaf in leaves(item, f"{path}[{i}].")]
        else:
            found.append(path)
    return found


def test_the_explanation_covers_every_field_once_and_says_what_it_means() -> None:
    lines = explain(from_data(DATA), DATA)
    assert [line.where for line in lines] == leaves(from_data(DATA))
    assert all(line.meaning and line.value and line.default for line in lines)


def test_the_explanation_tells_where_a_value_came_from() -> None:
    lines = explained()
    assert lines["timeouts.connect"] == Explained(
        "timeouts.connect", "500ms", "duration", "2s", "file", "a connection to an engine"
    )
    assert (lines["timeouts.total"].value, lines["timeouts.total"].origin) == ("1h", "default")
    assert lines["pools[1].dns.every"].origin == "default" and lines["pools[1].dns.port"].origin == "file"
    assert lines["pools[0].endpoints[1].name"].value == "b" and lines["pools[0].endpoints[0].name"].origin == "default"
    assert lines["pools[0].endpoints[0].url"].default == "(required)"
    assert lines["policy"].value == '{"scorers":["session"]}' and lines["limits.body"].unit == "bytes"
    assert lines["limits.retry_ratio"].unit == "ratio" and lines["seed"].unit == "count"
