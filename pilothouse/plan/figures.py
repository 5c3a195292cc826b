"""Figures as people read them."""

from math import inf

WHOLE = 999.5  # from here on three digits are too few, and an exponent is hard to read


def digits(value: float) -> str:
    """Three digits, or all of those before the point: 0.0123, 1.5, 16, 1,234."""
    return f"{value:,.0f}" if WHOLE <= abs(value) < inf else f"{value:.3g}"
