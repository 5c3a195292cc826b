"""What a fleet costs, per hour and per million tokens, at the rate that it really has.

A fleet is paid for all day and sized for its busy times: tokens are counted at the mean rate. Where engines follow the load,
as many of them are paid for as each rate of the load curve needs. Input and output share the bill by the work that they make.
"""

from math import ceil

from msgspec import Struct

from pilothouse.plan.asks import Asks

MILLION = 1e6


class Bill(Struct, frozen=True):
    """US dollars."""

    usd_per_hour: float
    usd_per_m_input: float
    usd_per_m_output: float
    usd_per_m: float


def bill(usd_h: float, asks: Asks, served: float, input_share: float) -> Bill:
    """All prompt tokens are counted, those found in caches too.

    served        share of the requests that the fleet has room for
    input_share   of the work
    """
    per_hour = asks.rate_mean * served * 3600 / MILLION
    into, out = per_hour * asks.demand.prompt_mean, per_hour * asks.demand.output_mean
    return Bill(usd_h, usd_h * input_share / into, usd_h * (1 - input_share) / out, usd_h / (into + out))


def paid_share(asks: Asks, replicas: int, requests_per_s_max: float, least: int = 1) -> float:
    """Share of the engines that are paid for in the mean, where they follow the load. least: 0 = scale to zero."""
    if not requests_per_s_max:
        return 1.0
    each = requests_per_s_max / replicas
    wanted = sum(share * min(replicas, max(least, ceil(rate / each - 1e-9))) for rate, share in asks.curve)
    return min(1.0, wanted / replicas)
