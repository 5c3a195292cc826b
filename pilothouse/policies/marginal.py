"""The default scorer: what choosing an endpoint costs everybody, in seconds, from speeds learned online."""

from pilothouse.core.events import Arrived
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Known, Scorer, scorers
from pilothouse.core.speed import Speed

FREED_MIN = 1e-6  # tokens per microsecond: an endpoint with nothing to free has not been reported rightly


@scorers.register("marginal_cost")
class MarginalCost(Scorer, frozen=True):
    """The time that this request would take on the endpoint, plus the time by which it would delay the others there.

    cost = wait    prefill queued there and its own uncached tokens, computed at the engine's learned speed
         + answer  expected tokens of its answer x the time of a step with the requests that would then be running
         + stall   stall_share x its uncached tokens' computing time x the requests decoding there, who pause meanwhile
         + crowd   the requests there x an answer x what one more request adds to a step (lengths are taken as memoryless:
                   those that run have as much before them as one that begins)
         + memory  time until running requests free the KV space that it would have to wait for

    Nothing is tuned to a model or a GPU: the coefficients of the step time are fitted to the answers of the endpoint's
    pool, with one factor for how much slower than its pool the endpoint is; the length of answers is the model's mean.
    A cached prefix is worth what it saves this request and everybody it would stall; a hot prefix is copied to a second
    endpoint exactly when the queue at the first costs more than computing it again.
    The score is the lowest cost divided by the endpoint's cost.
    Signals: KV index (events, or own routes); in-flight ledger and learned speeds (current); KV use and others' requests
    by the last report, ignored when stale.
    stall_share is below 1 because what is computed here stays cached: a copy of a hot prefix is paid for by those who
    will use it as well. In the simulated comparison (`benchmarks/policies.py`) 0.15 to 0.5 are alike.
    Source of the form: marginal cost of a job in a shared server; step time as in `perf/step_time.py`.
    """

    stall_share: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.stall_share <= 1:
            raise ValueError("stall_share must lie between 0 and 1")

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        prompt, answer = arrived.prompt_tokens, known.output_tokens
        costs = [
            self._cost_us(endpoint, speed, others, uncached, fresh, prompt, answer)
            for endpoint, speed, others, uncached, fresh in zip(
                known.endpoints,
                known.speeds,
                known.others,
                known.uncached_tokens,
                known.fresh_tokens(arrived),
                strict=True,
            )
        ]
        lowest = min(costs)
        return [lowest / cost for cost in costs]

    def _cost_us(
        self, endpoint: Endpoint, speed: Speed, others: int, uncached: int, fresh: int, prompt: int, answer: float
    ) -> float:
        a, b, c, p, q = speed.theta
        decoding, running = endpoint.decoding + others, endpoint.in_flight + others
        own_us = uncached * (p + q * (prompt - uncached / 2))
        wait_us = p * (endpoint.prefill_tokens + endpoint.held_tokens) + q * endpoint.prefill_squares + own_us
        step_us = a + b * (running + 1) + c * (endpoint.distinct_tokens + fresh)
        answer_us, crowd_us = answer * step_us, running * answer * (b + c * fresh)
        cost_us = wait_us + answer_us + self.stall_share * own_us * decoding + crowd_us
        short = endpoint.kv_used_tokens + endpoint.prefill_tokens + endpoint.held_tokens + fresh - endpoint.kv_tokens
        if short > 0 and endpoint.kv_tokens:
            freed = (endpoint.distinct_tokens + running * answer / 2) / max(answer_us, 1.0)  # tokens per microsecond
            cost_us += short / max(freed, FREED_MIN)
        return endpoint.slowness * max(1.0, cost_us)
