"""Figures that people read."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.plan.figures import digits


@given(st.floats(0.001, 1e12))
def test_a_figure_is_near_its_value_and_has_no_exponent(value: float) -> None:
    assert "e" not in digits(value)
    assert float(digits(value).replace(",", "")) == pytest.approx(value, rel=0.006)


@pytest.mark.parametrize(("value", "said"), [(0.0123456, "0.0123"), (999.4, "999"), (1234.5, "1,234"), (inf, "inf")])
def test_how_they_look(value: float, said: str) -> None:
    assert digits(value) == said
