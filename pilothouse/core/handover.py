"""How long KV takes from a prefill endpoint to a decode endpoint's first token, learned from the answers for each pair of
their pools: engines of one rack may hand over sooner than those of two.

The time from the end of the prefill to the first token is a fixed part (a message, a step of the decode engine) and a part
per token whose KV has to move. Both are a non-negative least-squares fit of the relative error, old answers fading out;
before the first answers they come from the size of a token's KV and the rate of a usual network.
"""

from dataclasses import dataclass

FIXED_US = 30_000.0  # a message each way and a decode step: only the beginning, until answers tell
NETWORK_BYTES_PER_US = 25_000.0  # 200 Gb/s, half of a usual 400 Gb/s network card
TOKEN_BYTES = 160_000  # where a token's KV is not known: an 8- to 70-billion-parameter model with grouped queries
APART = 2.0  # times as long for each label that differs: only the beginning, as of a network 2:1 oversubscribed at each level
FADE = 0.98  # weight of what was known, at each answer
DRAWN = 0.2  # the beginning counts as so many answers
SHARE_MIN = 1e-3  # of the beginning's rate: a fit on a few answers must not make transfers free


@dataclass(slots=True)
class Handover:
    """The two coefficients [microseconds, microseconds per token] and the sums they are fitted on."""

    token_us: float  # at the beginning, and what the fit is drawn towards
    fixed: float = FIXED_US
    per_token: float = 0.0
    weights: float = 0.0  # sums over answers, each weighted by 1 / time squared
    tokens: float = 0.0
    squares: float = 0.0
    times: float = 0.0
    products: float = 0.0
    answers: int = 0

    def __post_init__(self) -> None:
        if not self.answers:
            self.per_token = self.token_us

    def expected_us(self, tokens: int) -> float:
        return self.fixed + self.per_token * tokens

    def learn(self, tokens: int, took_us: int) -> None:
        """One answer: so many tokens' KV moved, and so long it took until the first token."""
        weight = 1.0 / (took_us * took_us)
        self.weights = self.weights * FADE + weight
        self.tokens = self.tokens * FADE + weight * tokens
        self.squares = self.squares * FADE + weight * tokens * tokens
        self.times = self.times * FADE + weight * took_us
        self.products = self.products * FADE + weight * tokens * took_us
        self.answers += 1
        self._fit()

    def _fit(self) -> None:
        """Least squares, with a pull towards the beginning that fades as answers come; neither part below zero."""
        count = min(self.answers, 1 / (1 - FADE))
        share = DRAWN / (DRAWN + count)
        w, t, s = self.weights, self.tokens, self.squares
        pull_fixed, pull_token = share * w, share * (s + w)  # of the order of the sums themselves
        a, b, c = w + pull_fixed, t, s + pull_token
        y, z = self.times + pull_fixed * FIXED_US, self.products + pull_token * self.token_us
        determinant = a * c - b * b
        fixed, per_token = (y * c - b * z) / determinant, (a * z - b * y) / determinant
        if fixed < 0:
            fixed, per_token = 0.0, z / c
        least = SHARE_MIN * self.token_us
        if per_token < least:
            fixed, per_token = max(0.0, (y - b * least) / a), least
        self.fixed, self.per_token = fixed, per_token


def token_us(kv_token_bytes: int, labels: int = 0) -> float:
    """A token's way through a usual network, between ends of which so many labels differ."""
    return (kv_token_bytes or TOKEN_BYTES) / NETWORK_BYTES_PER_US * APART**labels


def apart(one: dict[str, str], other: dict[str, str]) -> int:
    """Labels that both have and that differ: what only one says of itself tells nothing."""
    return sum(name in other and other[name] != value for name, value in one.items())
