"""How many second attempts the fleet can bear: a bucket that arrivals and time fill, so that a retry storm cannot form."""

from dataclasses import dataclass

from pilothouse.core.units import SECOND, Micros


@dataclass(slots=True)
class RetryBudget:
    """Holds up to `tokens_max`; each arrival adds `ratio`, each second adds `per_second`, each retry takes one."""

    ratio: float
    per_second: float
    tokens_max: float
    tokens: float = -1.0
    filled_at_us: Micros = Micros(0)

    def __post_init__(self) -> None:
        if self.tokens < 0:
            self.tokens = self.tokens_max

    def arrival(self) -> None:
        if self.tokens < self.tokens_max:
            self.tokens = min(self.tokens_max, self.tokens + self.ratio)

    def take(self, now_us: Micros) -> bool:
        elapsed_us = max(0, now_us - self.filled_at_us)
        self.tokens = min(self.tokens_max, self.tokens + elapsed_us * self.per_second / SECOND)
        self.filled_at_us = now_us
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
