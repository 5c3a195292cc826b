"""When the client says of itself that it was in the way."""

import pytest

from pilothouse.bench.watch import ClientFigures


@pytest.mark.parametrize(
    ("late_us", "lag_us", "cpu_ratio", "seconds", "said"),
    [
        (900, 900, 0.3, 10, ""),
        (5_100, 900, 0.3, 10, "RAN LATE"),
        (900, 5_100, 0.3, 10, "RAN LATE"),
        (900, 900, 0.95, 10, "BOTTLENECK"),
        (900, 900, 0.95, 0.1, ""),  # a tenth of a second says nothing of the core
    ],
)
def test_a_client_that_is_late_or_full_says_so(
    late_us: float, lag_us: float, cpu_ratio: float, seconds: float, said: str
) -> None:
    figures = ClientFigures(200, late_us, lag_us, cpu_ratio, 7, seconds)
    assert figures.is_bottleneck == bool(said) and said in figures.note() and "at most 7" in figures.note()
    assert ("THE CLIENT" in figures.note()) == bool(said)
