"""Runs made up from a formula, of any shape a report must bear: loads, seeds, policies, replicas, tenants, stages."""

from math import exp, sin

from pilothouse.core.random_stream import stream
from pilothouse.core.units import EndpointId
from pilothouse.workload.outcomes import Moment, Run, Sample, Spread, StageRun, Summary

CAPACITY = {"cache_and_load": 60.0, "llmd_default": 48.0, "kube_service": 24.0}


def spread(mean: float) -> Spread:
    return Spread(mean, mean * 0.8, mean * 1.9, mean * 3.4)


def summary(policy: str, rate: float, luck: float, label: str, tenants: int = 1) -> Summary:
    room = CAPACITY.get(policy, 40.0) * luck
    over = max(0.0, rate - room)
    achieved = min(rate, room)
    ttft = 0.12 * luck * (1 + 0.5 * rate / room) + over * 0.9
    itl = (0.012 + 0.03 * achieved / room) * luck
    good = achieved * exp(-over / 10)
    return Summary(
        label, int(rate * 60 / tenants), int(over / 8), 60.0, rate / tenants, achieved / tenants,
        achieved * 940 / tenants, good / tenants, 0.35 + 0.6 * room / 70, spread(ttft), spread(itl), spread(itl * 1.05),
        spread(ttft + itl * 1000), spread(itl),
    )  # fmt: skip


def run(
    policy: str,
    load: float,
    seed: int,
    *,
    label: str = "Simulated",
    rates: tuple[float, ...] = (20.0,),
    replicas: int = 8,
    tenants: tuple[str, ...] = (),
    notes: tuple[str, ...] = ("goodput: requests with TTFT <= 2s",),
    scenario: str = "a fleet that was made up",
) -> Run:
    luck = 1 + stream(seed, policy).uniform(-0.04, 0.04)
    stages = []
    for rate in rates:
        s = summary(policy, rate * load, luck, label)
        line = [
            Moment(at, int(rate * load), spread(s.ttft.mean * (0.7 + at / 90 + 0.1 * sin(at / 5))),
                   spread(s.tpot.mean * (1 + 0.1 * sin(at / 7))), s.output_per_second * min(1, at / 10), s.hit_ratio)
            for at in (2.0 * i for i in range(30))
        ]  # fmt: skip
        samples = [
            Sample(float(at), EndpointId(f"h100-{r}"), 20 + r, max(0, int(s.ttft.mean * 3 + 4 * sin(at / 9 + r) - 2)),
                   min(1.0, 0.2 + s.achieved_rate / 90 + 0.15 * sin(at / 11 + r)))
            for at in range(0, 60, 1)
            for r in range(replicas)
        ]  # fmt: skip
        named = {tenant: summary(policy, rate * load, luck, label, len(tenants)) for tenant in tenants}
        stages.append(StageRun(f"{rate * load:g} requests/s", s, line, samples, named))
    return Run(policy, label, scenario, load, seed, stages, list(notes))


def ladder(policies: tuple[str, ...] = tuple(CAPACITY), loads: tuple[float, ...] = (0.5, 1, 1.5, 2, 2.5, 3), seeds: int = 1,
           **rest: object) -> list[Run]:  # fmt: skip
    return [run(p, load, seed, **rest) for p in policies for load in loads for seed in range(1, seeds + 1)]  # type: ignore[arg-type]
