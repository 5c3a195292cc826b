"""What the mean request needs: of a workload, by its hit curve; or of a running gateway, by its own counters."""

from email.utils import parsedate_to_datetime

from prometheus_client.parser import text_string_to_metric_families

from pilothouse.core.errors import PilothouseError
from pilothouse.core.units import Seconds
from pilothouse.plan.disaggregate import Need
from pilothouse.workload.demand import Demand
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload
from pilothouse.workload.reuse import HitCurve
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe

COUNTERS = {
    "requests": "pilothouse_requests_total",
    "prompt": "pilothouse_prompt_tokens_total",
    "cached": "pilothouse_cached_tokens_total",
    "output": "pilothouse_output_tokens_total",
    "started": "process_start_time_seconds",
}
REQUESTS_MIN = 20  # fewer say nothing of the mean


def need(demand: Demand, hit_ratio: float, rate: float) -> Need:
    """`hit_ratio`: of prompt tokens; they are the beginnings of prompts, so what is left to compute sees all before it."""
    squares = demand.prompt_squares / demand.requests * (1 - hit_ratio**2)
    uncached = max(1.0, demand.prompt_mean * (1 - hit_ratio))
    return Need(rate, demand.prompt_mean, uncached, squares, demand.output_mean, demand.context_mean)


def hits(curve: HitCurve, demand: Demand, tokens: int, block_size: int) -> float:
    """Share of prompt tokens that a cache of so many tokens has."""
    return curve.hits(tokens // block_size) * block_size / demand.prompt_tokens


def measured(metrics: str, date: str) -> tuple[Need, float]:
    """(need, hit ratio) of a gateway since it started. Variances are not counted: lengths are taken as all alike.

    metrics   what its control address answers to /metrics
    date      the answer's Date header
    """
    totals = dict.fromkeys(COUNTERS, 0.0)
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            for name, counter in COUNTERS.items():
                if sample.name == counter and sample.labels.get("outcome", "finished") == "finished":
                    totals[name] += sample.value
    count = totals["requests"]
    if count < REQUESTS_MIN or not totals["output"]:
        what = f"{count:.0f} requests have finished and {totals['output']:.0f} tokens were answered"
        raise PilothouseError(f"the gateway has too little to tell: {what}")
    seconds = parsedate_to_datetime(date).timestamp() - totals["started"]
    prompt, output = totals["prompt"] / count, totals["output"] / count
    hit = totals["cached"] / totals["prompt"]
    uncached = max(1.0, prompt * (1 - hit))
    return Need(count / max(seconds, 1.0), prompt, uncached, prompt**2 * (1 - hit**2), output, prompt + output / 2), hit


def alike(mean: Need, requests: int, seed: int) -> Workload:
    """Requests that need the same in the mean, by the clock, lengths half to one and a half of it."""
    shared = round(mean.prompt_tokens - mean.uncached_tokens)
    own, output = max(1, round(mean.uncached_tokens)), max(1, round(mean.output_tokens))
    phases = [Phase(rate=mean.rate, seconds=Seconds(requests / mean.rate))]
    spec = OpenLoop(
        prompt_tokens=(own - own // 2, own + own // 2), output_tokens=(output - output // 2, output + output // 2),
        prefixes=1 if shared else 0, prefix_tokens=shared, phases=phases,
    )  # fmt: skip
    return Recipe(spec).make(seed)
