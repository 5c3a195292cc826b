"""The figures that tables and charts show of a stage, each with its unit and which way is better."""

from collections.abc import Callable
from math import isfinite

import msgspec

from pilothouse.workload.outcomes import Summary


class Metric(msgspec.Struct, frozen=True):
    """`factor` turns the summary's unit into the shown one."""

    key: str
    title: str
    unit: str
    value: Callable[[Summary], float]
    better: str = "low"  # low, high, or "" where neither is
    factor: float = 1.0

    def of(self, summary: Summary) -> float:
        return self.value(summary) * self.factor

    @property
    def head(self) -> str:
        """As the head of a column."""
        return f"{self.title} {self.unit}".strip()


ALL = (
    Metric("achieved", "achieved", "req/s", lambda s: s.achieved_rate, "high"),
    Metric("output", "output", "tok/s", lambda s: s.output_per_second, "high"),
    Metric("goodput", "goodput", "req/s", lambda s: s.goodput, "high"),
    Metric("ttft_mean", "TTFT mean", "s", lambda s: s.ttft.mean),
    Metric("ttft_p50", "TTFT p50", "s", lambda s: s.ttft.p50),
    Metric("ttft_p90", "TTFT p90", "s", lambda s: s.ttft.p90),
    Metric("ttft_p99", "TTFT p99", "s", lambda s: s.ttft.p99),
    Metric("itl_mean", "ITL mean", "ms", lambda s: s.itl.mean, factor=1000),
    Metric("itl_p50", "ITL p50", "ms", lambda s: s.itl.p50, factor=1000),
    Metric("itl_p90", "ITL p90", "ms", lambda s: s.itl.p90, factor=1000),
    Metric("itl_p99", "ITL p99", "ms", lambda s: s.itl.p99, factor=1000),
    Metric("tpot", "TPOT mean", "ms", lambda s: s.tpot.mean, factor=1000),
    Metric("e2e_mean", "E2E mean", "s", lambda s: s.e2e.mean),
    Metric("hits", "hits", "%", lambda s: s.hit_ratio, "high", 100),
    Metric("refused", "refused", "", lambda s: s.refused),
)
METRICS = {metric.key: metric for metric in ALL}


def shown(value: float) -> str:
    """Three digits that matter; no more for large numbers."""
    if not isfinite(value):
        return "-"
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    digits = 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"
