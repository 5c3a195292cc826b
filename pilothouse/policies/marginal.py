"""The default scorer: what choosing an endpoint costs everybody, in seconds, from speeds learned online."""

from pilothouse.core.events import Arrived
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Known, Scorer, scorers
from pilothouse.core.speed import Speed

HALF = 0.5  # of an answer is still to come, on average, of the requests that are running


@scorers.register("marginal_cost")
class MarginalCost(Scorer, frozen=True):
    """The time that this request would take on the endpoint, plus the time by which it would delay the others there.

    cost = wait    prefill queued there and its own uncached tokens, computed at the engine's learned speed
         + answer  expected tokens of its answer x the time of a step with the requests that would then be running
         + stall   its uncached tokens' computing time x the requests decoding there, who pause meanwhile
         + crowd   the requests there x half an answer x what one more request adds to a step
         + memory  time until running requests free the KV space that it would have to wait for

    Nothing here is tuned: the coefficients of the step time are fitted to the answers of the endpoint's pool, with one
    factor for how much slower than its pool the endpoint is, and the length of answers is the mean seen for the model.
    A cached prefix is worth what it saves this request and everybody it would stall; a hot prefix is copied to a second
    endpoint exactly when the queue at the first costs more than computing it again.
    The score is the lowest cost divided by the endpoint's cost.
    Signals: KV index (events, or own routes); in-flight ledger and learned speeds (current); KV use and others' requests
    by the last report, ignored when stale.
    Source of the form: marginal cost of a job in a shared server; step time as in `perf/step_time.py`.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        prompt, answer = arrived.prompt_tokens, known.output_tokens
        costs = [
            _cost_us(endpoint, speed, others, uncached, prompt, answer)
            for endpoint, speed, others, uncached in zip(
                known.endpoints, known.speeds, known.others, known.uncached_tokens, strict=True
            )
        ]
        lowest = min(costs)
        return [lowest / cost for cost in costs]


def _cost_us(endpoint: Endpoint, speed: Speed, others: int, uncached: int, prompt: int, answer: float) -> float:
    a, b, c, p, q = speed.theta
    decoding, running = endpoint.decoding + others, endpoint.in_flight + others
    own_us = uncached * (p + q * (prompt - uncached * HALF))
    wait_us = p * endpoint.prefill_tokens + q * endpoint.prefill_squares + own_us
    step_us = a + b * (running + 1) + c * (endpoint.distinct_tokens + uncached)
    crowd_us = running * HALF * answer * (b + c * uncached)
    cost_us = wait_us + answer * step_us + own_us * decoding + crowd_us
    short = endpoint.kv_used_tokens + endpoint.prefill_tokens + uncached - endpoint.kv_tokens
    if short > 0 and endpoint.kv_tokens:
        freed = (endpoint.distinct_tokens + running * HALF * answer) / (answer * step_us)  # tokens per microsecond
        cost_us += short / freed
    return endpoint.pace * max(1.0, cost_us)
