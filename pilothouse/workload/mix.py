"""Several workloads side by side on one fleet, each the traffic of a tenant."""

from typing import Any

from msgspec.structs import replace

from pilothouse.core.random_stream import stream
from pilothouse.core.units import RequestId
from pilothouse.workload.requests import Planned, Stage, Workload, total_requests
from pilothouse.workload.written import Written


class Tenant(Written, frozen=True):
    """Whose traffic it is, and how much of it."""

    name: str
    workload: Any  # a workload, or the path of its file
    load: float = 1.0  # factor on that workload's own rate or users

    def __post_init__(self) -> None:
        if not self.name or self.load <= 0:
            raise ValueError("name must not be empty, load must be above 0")


class Mix(Written, frozen=True, tag="mix", tag_field="kind"):
    """All tenants' first stages are one stage, then all second ones, and so on."""

    tenants: list[Tenant]

    def __post_init__(self) -> None:
        if not self.tenants:
            raise ValueError("tenants must not be empty")
        if len({tenant.name for tenant in self.tenants}) < len(self.tenants):
            raise ValueError("tenants must have different names")


def tenant_seed(seed: int, name: str) -> int:
    """Each tenant has luck and texts of its own."""
    return stream(seed, f"mix/{name}").getrandbits(62)


def merge(spec: Mix, workloads: list[Workload]) -> Workload:
    """`workloads` in the order of `spec.tenants`, for the same model and block size."""
    names = [tenant.name for tenant in spec.tenants]
    longest = max(workloads, key=lambda workload: len(workload.stages))
    stages = []
    for i, model in enumerate(longest.stages):
        parts = [(name, w.stages[i]) for name, w in zip(names, workloads, strict=True) if i < len(w.stages)]
        stages.append(_merged(model, parts))
    return Workload(longest.model, longest.block_size, stages, _day(workloads))


def _day(workloads: list[Workload]) -> list[float]:
    """Of all together, as a share of the time in which all are busy at once. Those that have none are always busy."""
    parts = max(len(workload.day) for workload in workloads)
    counts = [total_requests([stage for stage in workload.stages if stage.reported]) for workload in workloads]
    days = [workload.day or [1.0] * parts for workload in workloads]
    return [sum(n * day[i] for n, day in zip(counts, days, strict=True)) / max(1, sum(counts)) for i in range(parts)]


def _merged(model: Stage, parts: list[tuple[str, Stage]]) -> Stage:
    """Those by the clock in order of arrival, each with its followers behind it."""
    runs: list[list[Planned]] = []
    for name, stage in parts:
        for planned in stage.requests:
            own = replace(
                planned,
                request=RequestId(f"{name}/{planned.request}"),
                after=None if planned.after is None else RequestId(f"{name}/{planned.after}"),
                tenant=name,
            )
            if own.after is None or not runs:
                runs.append([])
            runs[-1].append(own)
    runs.sort(key=lambda run: run[0].arrival_us)  # stable: equal times stay in the order of tenants
    seconds = max(stage.seconds for _, stage in parts)
    by_clock = sum(len(stage.requests) for _, stage in parts if stage.rate)
    rate = by_clock / seconds if seconds else 0.0
    reported = any(stage.reported for _, stage in parts)
    pause_us = max(stage.pause_us for _, stage in parts)
    name = model.name if len(parts) == 1 else " + ".join(f"{name}: {stage.name}" for name, stage in parts)
    return Stage(name, rate, seconds, [planned for run in runs for planned in run], pause_us, reported)
