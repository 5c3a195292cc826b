"""What tokens cost: the bill of a fleet shared by its tokens, at the rate that they really come.

A fleet is paid for all day and sized for its busy times, so tokens are counted at the mean rate. Input and output share the
bill by the work that they make: a prompt costs what it adds to steps that there are anyway, an answer the steps themselves.
Of the input, tokens found in a cache make only the work of being looked at by those that were not. Keeping them costs
room, which is not shared out: it is what the free memory is for.
"""

from collections.abc import Sequence

from msgspec import Struct

from pilothouse.perf.step_time import StepTime
from pilothouse.plan.asks import Asks

MILLION = 1e6


class Bill(Struct, frozen=True):
    """US dollars."""

    usd_per_hour: float
    usd_per_m_input: float  # of tokens that are computed
    usd_per_m_cached: float  # of tokens found in a cache
    usd_per_m_output: float
    usd_per_m: float  # of all tokens


def bill(usd_h: float, asks: Asks, served: float, input_share: float, hit_ratio: float, cached_share: float) -> Bill:
    """served        share of the requests that the fleet has room for
    input_share   of the work
    hit_ratio     share of the prompt tokens that caches have
    cached_share  of the input's work, for their sake
    """
    per_hour = asks.rate_mean * served * 3600 / MILLION
    into, out = per_hour * asks.demand.prompt_mean, per_hour * asks.demand.output_mean
    cached = into * min(hit_ratio, 1 - 1 / max(2.0, asks.demand.prompt_mean))  # the last token is always computed
    for_cached = usd_h * input_share * cached_share if cached else 0.0
    return Bill(
        usd_h,
        (usd_h * input_share - for_cached) / (into - cached),
        for_cached / cached if cached else 0.0,
        usd_h * (1 - input_share) / out,
        usd_h / (into + out),
    )


def cached_share(times: StepTime, prompts: Sequence[int], hit_ratio: float) -> float:
    """Of the work of prompts: what new tokens do for looking at those that a cache had.

    Attention of n tokens, of which a share h is there, is q n^2 (1 - h^2) / 2; without those q n^2 (1 - h)^2 / 2.
    """
    squares = times.q_ps / 1e6 * sum(prompt**2 for prompt in prompts) / len(prompts)
    linear = times.b_us + times.p_us * (1 - hit_ratio) * sum(prompts) / len(prompts)
    work = linear + squares * (1 - hit_ratio**2) / 2
    return squares * hit_ratio * (1 - hit_ratio) / work if work else 0.0
