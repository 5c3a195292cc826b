"""How many sequences fit KV space at once, given how lengths are distributed: means tell too many.

A running sequence holds its prompt and what it has generated so far. One that answers longer runs longer, so among the
running ones long answers are more frequent than among the arriving ones: weights follow the answer's length. The sum
over N independent ones exceeds the space with a probability that a saddlepoint gives; the largest N below the allowed
probability is the answer. It needs no independence of prompt and answer if pairs are given.

accuracy   tail probabilities within a few per cent of their value, tested against a simulated steady state
source     saddlepoint of a tail: Lugannani and Rice, Adv. Appl. Prob. 12, 1980; length bias: renewal theory
"""

from collections.abc import Callable, Iterable, Sequence
from math import exp, inf, log, pi, sqrt
from statistics import NormalDist

from msgspec import Struct

from pilothouse.workload.lengths import Length, Listed, Lognormal, limits, sigma_of

NORMAL = NormalDist()
STEPS = 24  # points of a uniform length
DEVIATIONS, FINE = 4.0, 4  # a skewed length is taken at +-4 standard deviations, in quarters
AGES = (0.0694318, 0.3300095, 0.6699905, 0.9305682)  # Gauss-Legendre points of 0..1
SHARES = (0.1739274, 0.3260726, 0.3260726, 0.1739274)
BINS = 400
SEQUENCES_MAX = 1 << 20


class Occupancy(Struct, frozen=True):
    """KV of one running sequence at a moment nobody chose: what it takes [tokens, or bytes], and the probabilities."""

    sizes: list[float]
    weights: list[float]

    @property
    def mean(self) -> float:
        return sum(t * w for t, w in zip(self.sizes, self.weights, strict=True))

    @property
    def deviation(self) -> float:
        mean = self.mean
        return sqrt(sum(w * (t - mean) ** 2 for t, w in zip(self.sizes, self.weights, strict=True)))


def occupancy(prompt: Length, output: Length, takes: Callable[[float], float] = float) -> Occupancy:
    """Of independent lengths. takes: what a sequence of so many tokens takes; its length itself where nobody says."""
    return of_pairs([(i, o, wi * wo) for i, wi in points(prompt) for o, wo in points(output)], takes)


def of_pairs(pairs: Iterable[tuple[float, float, float]], takes: Callable[[float], float] = float) -> Occupancy:
    """Of (prompt, answer, weight), as a trace gives them."""
    held = [
        (takes(prompt + age * output), weight * share * output)
        for prompt, output, weight in pairs
        for age, share in zip(AGES, SHARES, strict=True)
    ]
    total = sum(weight for _, weight in held)
    if not total:
        raise ValueError("lengths are all zero")
    return _binned(held, total)


def sequences_that_fit(of: Occupancy, space: float, overflow: float) -> int:
    """The most that need more than `space` together with at most this probability."""
    if not 0 < overflow < 1:
        raise ValueError("the probability of an overflow lies between 0 and 1")
    low, high = 0, 1
    while high < SEQUENCES_MAX and overflow_probability(of, space, high) <= overflow:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if overflow_probability(of, space, middle) <= overflow:
            low = middle
        else:
            high = middle
    return low


def overflow_probability(of: Occupancy, space: float, sequences: int) -> float:
    """That so many sequences need more than `space` together."""
    each, mean, deviation = space / sequences, of.mean, of.deviation
    if each >= max(of.sizes):
        return 0.0
    if each <= min(of.sizes):
        return 1.0
    if deviation < 1e-9 * mean:
        return float(mean > each)
    tilt = _tilt(of, each)
    log_sum, _, variance = _tilted(of, tilt)
    gain = sequences * (tilt * each - log_sum)
    if gain < 1e-6:  # at the mean, where the formula has a removable gap
        return 1 - NORMAL.cdf((each - mean) / deviation * sqrt(sequences))
    root = sqrt(2 * gain) * (1 if tilt > 0 else -1)
    scaled = tilt * sqrt(sequences * variance)
    density = exp(-root * root / 2) / sqrt(2 * pi)
    return min(1.0, max(0.0, 1 - NORMAL.cdf(root) + density * (1 / scaled - 1 / root)))


def points(length: Length) -> list[tuple[float, float]]:
    """Values of a length and their probabilities, few and well chosen."""
    match length:
        case int():
            return [(float(length), 1.0)]
        case Listed():
            return [(float(value), 1 / len(length.values)) for value in length.values]
        case Lognormal():
            return _skewed(length)
    low, high = limits(length)
    width = (high - low) / STEPS
    return [(low + (at + 0.5) * width, 1 / STEPS) for at in range(STEPS)]


def _skewed(length: Lognormal) -> list[tuple[float, float]]:
    sigma = sigma_of(length)
    steps = range(-int(DEVIATIONS * FINE), int(DEVIATIONS * FINE) + 1)
    weights = [exp(-((at / FINE) ** 2) / 2) for at in steps]
    values = [exp(log(length.mean) - sigma * sigma / 2 + sigma * at / FINE) for at in steps]
    cut = [min(max(value, length.least), length.most) for value in values]
    return [(value, weight / sum(weights)) for value, weight in zip(cut, weights, strict=True)]


def _binned(held: Sequence[tuple[float, float]], total: float) -> Occupancy:
    """Few values with the same mean: each bin stands at the mean of what falls into it."""
    low, high = min(t for t, _ in held), max(t for t, _ in held)
    width = (high - low) / BINS or 1.0
    sums, weights = [0.0] * (BINS + 1), [0.0] * (BINS + 1)
    for tokens, weight in held:
        at = int((tokens - low) / width)
        sums[at] += tokens * weight
        weights[at] += weight
    kept = [(s / w, w / total) for s, w in zip(sums, weights, strict=True) if w]
    return Occupancy([t for t, _ in kept], [w for _, w in kept])


def _tilted(of: Occupancy, tilt: float) -> tuple[float, float, float]:
    """Logarithm of the mean of exp(tilt x tokens), and mean and variance under these weights."""
    most = max(tilt * of.sizes[0], tilt * of.sizes[-1])
    weights = [w * exp(tilt * t - most) for t, w in zip(of.sizes, of.weights, strict=True)]
    total = sum(weights)
    mean = sum(w * t for t, w in zip(of.sizes, weights, strict=True)) / total
    variance = sum(w * (t - mean) ** 2 for t, w in zip(of.sizes, weights, strict=True)) / total
    return log(total) + most, mean, variance


def _tilt(of: Occupancy, mean: float) -> float:
    """Under which the mean is this one; the mean rises with the tilt."""
    low, high = -inf, inf
    tilt = (mean - of.mean) / of.deviation**2
    for _ in range(60):
        _, at, variance = _tilted(of, tilt)
        low, high = (tilt, high) if at < mean else (low, tilt)
        if abs(at - mean) < 1e-9 * mean:
            break
        step = tilt + (mean - at) / max(variance, 1e-12)
        if not low < step < high:  # a step too far: between the limits, or on in the same direction
            step = (low + high) / 2 if max(-low, high) < inf else tilt * 2
        tilt = step
    return tilt
