"""How long prompts, answers and pauses are: a number, two limits, a skewed distribution, or values as they were seen."""

from math import exp, log, sqrt

from pilothouse.core.random_stream import Random
from pilothouse.core.units import Micros
from pilothouse.workload.written import TOKENS_MAX, Written

QUANTILE_99 = 2.3263  # of the standard normal distribution


class Lognormal(Written, frozen=True, tag="lognormal", tag_field="kind"):
    """Many short ones and a long tail. Values beyond the limits become the limits, which moves the mean a little."""

    mean: float
    most: int
    p99: float | None = None  # 1 to 14.9 times the mean
    sigma: float | None = None  # of the logarithm, in place of `p99`
    least: int = 1

    def __post_init__(self) -> None:
        if (self.p99 is None) == (self.sigma is None):
            raise ValueError("give p99 or sigma, one of them")
        if not 1 <= self.least <= self.mean <= self.most:
            raise ValueError("least, mean and most must rise from at least 1")
        _spread(self.mean, self.p99, self.sigma)


class Listed(Written, frozen=True, tag="listed", tag_field="kind"):
    """One of these, all equally likely: list a value twice to see it twice as often."""

    values: list[int]

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 1:
            raise ValueError("values must be at least 1, and there must be one")


Length = int | tuple[int, int] | Lognormal | Listed  # fixed, uniform between limits (inclusive), ...


class Pauses(Written, frozen=True):
    """Lognormal times."""

    mean_us: Micros
    p99_us: Micros
    most_us: Micros

    def __post_init__(self) -> None:
        if not 0 < self.mean_us <= self.most_us:
            raise ValueError("mean must be above 0 and at most `most`")
        _spread(self.mean_us, self.p99_us, None)


Pause = Micros | Pauses  # fixed, or drawn


def checked(**lengths: Length) -> None:
    """For a `__post_init__`: raises ValueError with the field's name where a length is out of bounds or limits fall."""
    for name, length in lengths.items():
        low, high = limits(length)
        if not 1 <= low <= high <= TOKENS_MAX:
            raise ValueError(f"{name} must be at least 1 and at most {TOKENS_MAX}, and limits must rise")


def within(**numbers: int) -> None:
    """Likewise for numbers that may be 0."""
    for name, number in numbers.items():
        if not 0 <= number <= TOKENS_MAX:
            raise ValueError(f"{name} must be at least 0 and at most {TOKENS_MAX}")


def limits(length: Length) -> tuple[int, int]:
    """The least and the most that `draw` gives."""
    match length:
        case int():
            return length, length
        case Lognormal():
            return length.least, length.most
        case Listed():
            return min(length.values), max(length.values)
    return length


def sigma_of(length: Lognormal) -> float:
    """Of the logarithm."""
    return _spread(length.mean, length.p99, length.sigma)


def draw(length: Length, luck: Random) -> int:
    match length:
        case int():
            return length
        case Lognormal():
            drawn = _lognormal(luck, length.mean, sigma_of(length))
            return min(max(round(drawn), length.least), length.most)
        case Listed():
            return length.values[luck.randrange(len(length.values))]
    return luck.randint(*length)


def draw_us(pause: Pause, luck: Random) -> Micros:
    if isinstance(pause, Pauses):
        drawn = _lognormal(luck, pause.mean_us, _spread(pause.mean_us, pause.p99_us, None))
        return Micros(min(round(drawn), pause.most_us))
    return pause


def _lognormal(luck: Random, mean: float, sigma: float) -> float:
    return exp(luck.gauss(log(mean) - sigma * sigma / 2, sigma))


def _spread(mean: float, p99: float | None, sigma: float | None) -> float:
    """Sigma; from a p99 by solving  p99 = mean x exp(2.33 sigma - sigma^2 / 2)  for its smaller root."""
    if sigma is not None:
        if sigma < 0:
            raise ValueError("sigma must not be below 0")
        return sigma
    ratio = (p99 or 0) / mean
    if not 1 <= ratio <= exp(QUANTILE_99 * QUANTILE_99 / 2):
        raise ValueError("p99 must be 1 to 14.9 times the mean: no lognormal distribution is more skewed")
    return QUANTILE_99 - sqrt(QUANTILE_99 * QUANTILE_99 - 2 * log(ratio))
