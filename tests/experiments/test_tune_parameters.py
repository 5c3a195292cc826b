"""Which numbers of a policy are searched, and how far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.config.policy import profile
from pilothouse.config.scenario_load import SIMULATED
from pilothouse.config.spelled import spelled
from pilothouse.core.errors import ConfigError
from pilothouse.experiments.parameters import Parameter, space

WEIGHED = profile({"scorers": ["cache_and_load", {"type": "session", "weight": 2}], "filters": ["kv_headroom"]})


def test_every_number_has_a_range_that_the_policy_allows() -> None:
    found = {p.path: p for p in space(SIMULATED["marginal_cost"]).parameters}
    assert found["scorers[0].stall_share"].high == 1 and found["scorers[0].stall_share"].low == pytest.approx(0.0375)
    assert found["queue.patience_us"].high == 16_000_000 and found["queue.patience_us"].duration
    assert found["queue.stretch"].high == 24  # up to late_stretch, 30
    assert found["queue.step_tokens"].whole and found["queue.looks"].low == 2
    weighed = [p.path for p in space(WEIGHED).parameters]
    assert "scorers[1].weight" in weighed and "scorers[0].weight" not in weighed
    ratio = next(p for p in space(WEIGHED).parameters if p.path == "filters[0].used_ratio_max")
    assert ratio.high == 1


@given(st.data())
def test_every_point_is_a_policy_or_refused_and_the_start_is_the_policy_itself(data: st.DataObject) -> None:
    names = [
        name for name in sorted(SIMULATED) if any(named.scorer.__struct_fields__ for named in SIMULATED[name].scorers)
    ]
    searched = space(SIMULATED[data.draw(st.sampled_from(names))])
    assert searched.policy(searched.start) == searched.base
    assert searched.values(searched.start) == {p.path: p.default for p in searched.parameters}
    point = tuple(data.draw(st.floats(0, 1)) for _ in searched.parameters)
    found = searched.policy(point)
    assert found is None or profile(spelled(found)) == found
    for p, value in zip(searched.parameters, searched.values(point).values(), strict=True):
        assert p.low <= value <= p.high and (not p.whole or value == round(value))


@given(st.floats(0.001, 1000), st.floats(1.01, 100), st.floats(0, 1), st.booleans())
def test_a_share_of_a_range_is_a_value_and_back(low: float, factor: float, share: float, whole: bool) -> None:
    parameter = Parameter("x", low, low, low * factor)
    assert parameter.share(parameter.value(share)) == pytest.approx(share, abs=0.02 + 0.01 / (factor - 1))
    assert parameter.value(0.0) >= parameter.low and parameter.value(1.0) <= parameter.high


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("nosuch", "has no such number; it has: "),
        ("weight=1", "'1' is not LOW:HIGH"),
        ("decode_slowdown=2:1", "lower end"),
        ("used_ratio_max=0.5:2", "does not allow 2"),
        ("decode_slowdown=a:b", "not LOW:HIGH"),
    ],
)
def test_mistakes_are_named(wanted: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        space(WEIGHED, [wanted])


def test_wanted_ones_alone_are_searched() -> None:
    found = space(SIMULATED["marginal_cost"], ["stall_share", "queue.patience_us=1s:3s"]).parameters
    assert [(p.path, p.low, p.high) for p in found][1] == ("queue.patience_us", 1_000_000, 3_000_000) and len(
        found
    ) == 2


def test_a_policy_without_numbers_is_said() -> None:
    with pytest.raises(ConfigError, match="no number to tune"):
        space(SIMULATED["random"])
