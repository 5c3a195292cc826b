"""How fast engines are, learned from the answers they give: no model, GPU or engine needs a constant of its own.

A step of an engine takes about

    a + b x requests in it + c x their context + p x prompt tokens computed + q x (tokens computed x context before them)

so every answer is a measurement of that sum: its decode took (output - 1) steps among the requests, context and prefills
that the ledger saw meanwhile, its first token took the prefill queued before it. Per pool the five coefficients are a
non-negative least-squares fit of the relative error, old answers fading out, drawn towards the ratios of a typical
engine where the answers do not tell them apart. Per endpoint one factor, `pace`, says how much slower than its pool it is.
"""

from dataclasses import dataclass, field
from operator import mul

from pilothouse.core.units import Micros

# Ratios of a 32-billion-parameter model on two H100 (published step times, see perf/coefficients.py): only the ratios
# count, the scale is learned from the first answer on.
TYPICAL = (14_000.0, 65.0, 0.048, 45.0, 9e-4)  # µs a step, a request, a context token, a prompt token, a token squared
PREFILL = 3  # where the coefficients of prefill begin
FAR_APART = 3.0  # times that the scales of prefill and of steps must differ to be two
APART_MIN = 0.01  # of the answers' steps and prefills: less independent, they do not tell two scales
FADE = 0.99  # weight of what was known, at each answer: a memory of about a hundred answers
DRAWN = 0.05  # pull towards the typical ratios, in answers, against a hundred remembered
SWEEPS = 12  # of coordinate descent at each fit; it starts from the last fit
FIT_EVERY = 8  # answers
PACE_WEIGHT = 0.05  # of a new answer in an endpoint's pace
SURPRISE_MAX = 3.0  # an answer this many times slower or faster than expected counts as if it were this many times
SURPRISES_MAX = 8  # such answers in a row, all slower or all faster: what was known is of another engine, or was absurd
OUTPUT_TYPICAL = 256.0  # tokens of an answer, before any was seen
OUTPUT_WEIGHT = 0.02  # of a new answer in the mean length


@dataclass(slots=True)
class Speed:
    """The coefficients of one pool [microseconds], and what they were fitted on."""

    theta: list[float] = field(default_factory=lambda: list(TYPICAL))
    gram: list[list[float]] = field(default_factory=lambda: [[0.0] * 5 for _ in range(5)])
    moment: list[float] = field(default_factory=lambda: [0.0] * 5)
    answers: int = 0
    surprises: int = 0  # in a row; above 0 slower, below 0 faster
    prefill_surprises: int = 0  # the same of answers that are mostly prefill, whatever lies between them

    def expected_us(self, features: tuple[float, ...]) -> float:
        a, b, c, p, q = self.theta
        steps, requests, context, tokens, squares = features
        return a * steps + b * requests + c * context + p * tokens + q * squares

    def learn(self, features: tuple[float, ...], took_us: float) -> float:
        """One answer; returns how many times slower than expected it was, within bounds.

        The first answer is believed whatever it says: when those after it agree that it was absurd, it is forgotten.
        """
        expected_us = self.expected_us(features)
        ratio = took_us / expected_us
        prefilled = 2 * self.expected_us((0.0, 0.0, 0.0, *features[PREFILL:])) > expected_us
        self.surprises = _counted(self.surprises, ratio)
        if prefilled:
            self.prefill_surprises = _counted(self.prefill_surprises, ratio)
        known = bool(self.answers)
        if abs(self.surprises) >= SURPRISES_MAX:
            self._begin_anew()
            known = False
        elif abs(self.prefill_surprises) >= SURPRISES_MAX:
            self._forget_prefill()
            known = False
        if known:
            ratio = min(SURPRISE_MAX, max(1 / SURPRISE_MAX, ratio))
            took_us = ratio * expected_us
        weight = 1.0 / (took_us * took_us)
        scaled = [x * weight for x in features]
        for row, x in zip(self.gram, scaled, strict=True):
            row[:] = [old * FADE + x * y for old, y in zip(row, features, strict=True)]
        self.moment = [old * FADE + x * took_us for old, x in zip(self.moment, scaled, strict=True)]
        self.answers += 1
        if self.answers < FIT_EVERY or self.answers % FIT_EVERY == 0:
            self._fit()
        return ratio

    def _begin_anew(self) -> None:
        self.gram, self.moment = [[0.0] * 5 for _ in range(5)], [0.0] * 5
        self.answers = self.surprises = self.prefill_surprises = 0

    def _forget_prefill(self) -> None:
        """The engine's steps are known, its prefill is another one than was thought."""
        for i in range(len(TYPICAL)):
            for j in range(PREFILL, len(TYPICAL)):
                self.gram[i][j] = self.gram[j][i] = 0.0
        self.moment[PREFILL:] = [0.0] * (len(TYPICAL) - PREFILL)
        self.prefill_surprises = 0

    def _fit(self) -> None:
        """Minimises the relative error, plus the pull towards the typical ratios at the scales that fit best."""
        gram, moment, theta = self.gram, self.moment, self.theta
        decode, prefill = _scales(gram, moment)
        count = (1 - FADE ** min(self.answers, 1000)) / (1 - FADE)
        typical = [(decode if i < PREFILL else prefill) * t for i, t in enumerate(TYPICAL)]
        pulls = [DRAWN * count / (t * t) for t in typical]
        for _ in range(SWEEPS):
            for i, (row, pull) in enumerate(zip(gram, pulls, strict=True)):
                theta[i] = 0.0
                others = sum(map(mul, row, theta))
                theta[i] = max(0.0, (moment[i] - others + pull * typical[i]) / (row[i] + pull))


def _counted(surprises: int, ratio: float) -> int:
    """So many in a row: above 0 slower than expected, below 0 faster."""
    if ratio > SURPRISE_MAX:
        return max(0, surprises) + 1
    return min(0, surprises) - 1 if ratio < 1 / SURPRISE_MAX else 0


def _scales(gram: list[list[float]], moment: list[float]) -> tuple[float, float]:
    """How many times slower than typical steps are, and prefill is: what computes prompts slowly (a CPU, an old GPU) may
    well decode fast. One scale for both where they are alike, which fewer answers tell, or cannot be told apart."""
    parts = range(PREFILL), range(PREFILL, len(TYPICAL))
    squares = [[sum(TYPICAL[i] * TYPICAL[j] * gram[i][j] for i in a for j in b) for b in parts] for a in parts]
    y, z = (sum(TYPICAL[i] * moment[i] for i in part) for part in parts)
    (a, b), (_, c) = squares
    whole = a + 2 * b + c
    both = (y + z) / whole if whole > 0 else 1.0
    determinant = a * c - b * b
    if determinant <= APART_MIN * a * c or not a * c:
        return both, both
    decode, prefill = (y * c - z * b) / determinant, (z * a - y * b) / determinant
    if decode <= 0 or prefill <= 0 or max(decode, prefill) < FAR_APART * min(decode, prefill):
        return both, both
    return decode, prefill


@dataclass(slots=True)
class Meter:
    """What an endpoint did up to `at_us`, added up, so that two readings tell the mean of what lay between them."""

    at_us: Micros = Micros(0)
    decoding_us: int = 0  # requests decoding x time
    context_us: int = 0  # distinct context tokens x time
    tokens: int = 0  # prefilled
    squares: int = 0  # prefilled: tokens x context before them


@dataclass(slots=True)
class Reading:
    """A meter when a request's decode began."""

    at_us: Micros
    decoding_us: int
    context_us: int
    tokens: int
    squares: int


@dataclass(slots=True)
class Lengths:
    """Mean tokens of an answer, per model."""

    mean: dict[str, float] = field(default_factory=dict)

    def expected(self, model: str) -> float:
        return self.mean.get(model, OUTPUT_TYPICAL)

    def learn(self, model: str, tokens: int) -> None:
        known = self.mean.get(model)
        self.mean[model] = float(tokens) if known is None else known + OUTPUT_WEIGHT * (tokens - known)
