"""What runs out where an objective breaks: the resource that makes requests slower than they would be alone."""

from collections.abc import Mapping

from pilothouse.plan.analytic import Fleet, Latency, Load, load_at
from pilothouse.plan.asks import Asks
from pilothouse.plan.document import Bound, Objective

ALONE = 0.8  # of an objective, which a request that meets nobody takes already: no resource is short, but time
FULL = 0.9  # of the KV room: requests wait for it now and then
IDLE = 1e-3  # of the rate: nobody meets anybody


def binding(
    fleet: Fleet, asks: Asks, load: Load, rate: float, objective: Objective, classes: Mapping[str, Objective]
) -> Bound:
    """`load`: that of the highest rate at which all objectives hold, `rate` [requests/s]."""
    idle = load_at(fleet, asks, rate * IDLE, objective.percentile, load.hit_ratio, classes)
    pairs: list[tuple[Latency | Load, Latency | Load, Objective]] = [(load, idle, objective)]
    if classes:
        pairs = [(load.classes[name], idle.classes[name], own) for name, own in classes.items()]
    found: list[tuple[float, float, float, bool]] = []  # now, alone, limit [microseconds]; whether it is TTFT
    for now, alone, own in pairs:
        if own.ttft_s is not None:
            found.append((now.ttft_us, alone.ttft_us, own.ttft_s * 1e6, True))
        if own.tpot_s is not None:
            found.append((now.tpot_us, alone.tpot_us, own.tpot_s * 1e6, False))
    if not found:
        return Bound.LATENCY
    now_us, alone_us, limit_us, first = max(found, key=lambda part: part[0] / part[2])
    if alone_us >= ALONE * limit_us:
        return Bound.LATENCY
    if load.kv_used >= FULL:
        return Bound.KV_CAPACITY
    if first and fleet.prefill is not None:
        return Bound.COMPUTE
    steps_us = load.tpot_us * (1 - load.prefill_share) - idle.tpot_us  # that steps are longer for the batch they read
    steps_us *= 2 if first else 1  # a first token waits for the rest of one, and its own
    return Bound.COMPUTE if now_us - alone_us > 2 * steps_us else Bound.BANDWIDTH
