"""The default scorer: what choosing an endpoint costs everybody, in seconds, from speeds learned online."""

from operator import add
from typing import ClassVar

from pilothouse.core.events import Arrived
from pilothouse.core.fleet import Endpoint
from pilothouse.core.policy import Known, Scorer, scorers

FREED_MIN = 1e-6  # tokens per microsecond: an endpoint with nothing to free has not been reported rightly


@scorers.register("marginal_cost")
class MarginalCost(Scorer, frozen=True):
    """The time that this request would take on the endpoint, plus the time by which it would delay everybody else.

    cost = wait    prefill queued for it, here and at the gateway, and its own uncached tokens, at the learned speed
         + answer  expected tokens of its answer x the time of a step with the requests that would then be running
         + stall   stall_share x its uncached tokens' computing time x the mean number of requests that decode on an
                   endpoint, who pause meanwhile
         + evict   displacement x its uncached tokens' computing time: what is computed pushes as much out of the cache,
                   for others to compute again
         + crowd   an answer x what one more request adds to the steps of those who run: for the request itself with
                   those here, for the context it reads with the mean of all endpoints. Lengths are taken as memoryless:
                   those that run have as much before them as one that begins
         + memory  time until running requests free the KV space that it would have to wait for
         + load    time until the part of its prefix that lies in a lower tier is in HBM, and displacement x that: what is
                   loaded pushes as much out of HBM, for others to load again
         + fetch   time until the KV is there that another endpoint hands over

    Means of the fleet where a long prompt is concerned: counted with those here, prefills would pile up where few decode,
    and those few would hardly get a token. Nothing is tuned to a model or a GPU: the coefficients of the step time are
    fitted to the answers of the endpoint's pool, with one factor for how much slower than its pool the endpoint is; the
    length of answers is the model's mean. A cached prefix is worth what it saves this request and everybody else; a hot
    prefix is copied to a second endpoint exactly when the queue at the first costs more than that.
    The score is the lowest cost divided by the endpoint's cost.
    Signals: KV index (events, or own routes); in-flight ledger and learned speeds (current); KV use and others' requests
    by the last report, ignored when stale.
    stall_share is below 1 because what is computed stays cached: a copy of a hot prefix is paid for by those who will use
    it as well. Both weights were chosen on the workloads of `benchmarks/policies.py`, all of them with the same values.
    Source of the form: marginal cost of a job in a shared server; step time as in `perf/step_time.py`.
    """

    uses_speeds: ClassVar[bool] = True

    stall_share: float = 0.3
    displacement: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.stall_share <= 1 or not 0 <= self.displacement < 1e6:
            raise ValueError("stall_share must lie between 0 and 1, displacement between 0 and a million")

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        endpoints, others = known.endpoints, known.others
        mean_decoding = sum(map(add, [e.decoding for e in endpoints], others)) / len(endpoints)
        mean_running = sum(map(add, [e.in_flight for e in endpoints], others)) / len(endpoints)
        work = 1.0 + self.stall_share * mean_decoding + self.displacement
        fresh = known.fresh_tokens(arrived)
        costs = [
            _cost_us(
                endpoint, known.speeds[i].theta, endpoint.in_flight + others[i], known.uncached_tokens[i], fresh[i],
                arrived.prompt_tokens, known.output_tokens, work, mean_running,
            ) + (known.fetch_us[i] if known.fetch_us else 0.0)
            for i, endpoint in enumerate(endpoints)
        ]  # fmt: skip
        if known.load_us:
            costs = [
                cost + (1.0 + self.displacement) * load_us for cost, load_us in zip(costs, known.load_us, strict=True)
            ]
        lowest = min(costs)
        return [lowest / cost for cost in costs]


def _cost_us(
    endpoint: Endpoint,
    theta: list[float],
    running: int,
    uncached: int,
    fresh: int,
    prompt: int,
    answer: float,
    work: float,
    mean_running: float,
) -> float:
    """`work`: what a microsecond of prefill costs everybody. Tokens are counts, `answer` is expected tokens."""
    a, b, c, p, q = theta
    own_us = uncached * (p + q * (prompt - uncached / 2))
    queued = endpoint.prefill_tokens + endpoint.held_tokens
    answer_us = answer * (a + b * (running + 1) + c * (endpoint.distinct_tokens + fresh))
    crowd_us = answer * (running * b + mean_running * c * fresh)
    cost_us = p * queued + q * endpoint.prefill_squares + work * own_us + answer_us + crowd_us
    short = endpoint.kv_used_tokens + queued + fresh - endpoint.kv_tokens
    if short > 0 and endpoint.kv_tokens:
        freed = (endpoint.distinct_tokens + running * answer / 2) / max(answer_us, 1.0)  # tokens per microsecond
        cost_us += short / max(freed, FREED_MIN)
    return endpoint.slowness * max(1.0, cost_us)
