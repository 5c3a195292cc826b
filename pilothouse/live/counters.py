"""Counters and histograms cheap enough for every request, handed to prometheus_client only when somebody scrapes.

prometheus_client's own objects take a lock and a method chain per observation; a list index and a bisection do here,
since one event loop owns them all.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

SERIES_MAX = 2000  # label combinations per metric; the rest is counted together under "other"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
DECISION_SECONDS = (5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2)

Labels = tuple[str, ...]


class Counter:
    """A family of monotone counts."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, list(labels)
        self.values: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        if labels not in self.values and len(self.values) >= SERIES_MAX:
            labels = ("other",) * len(labels)
        self.values[labels] = self.values.get(labels, 0) + amount

    def collect(self) -> CounterMetricFamily:
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Histogram:
    """A family of histograms over fixed upper bounds [the metric's unit]."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.bounds, self.labels = name, text, list(bounds), list(labels)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, labels: Labels = ()) -> None:
        counts, labels = self._series(labels)
        counts[bisect_left(self.bounds, value)] += 1
        self._sums[labels] += value

    def merge(self, counts: Iterable[int], total: float, labels: Labels = ()) -> None:
        """Adds observations counted elsewhere over the same bounds, the last count being those beyond all bounds."""
        mine, labels = self._series(labels)
        for i, count in enumerate(counts):
            mine[i] += count
        self._sums[labels] += total

    def collect(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        names = [*map(str, self.bounds), "+Inf"]
        for labels, counts in self._counts.items():
            buckets = list(zip(names, map(float, accumulate(counts)), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        return family

    def _series(self, labels: Labels) -> tuple[list[int], Labels]:
        counts = self._counts.get(labels)
        if counts is None:
            if len(self._counts) >= SERIES_MAX:
                labels = ("other",) * len(labels)
            counts = self._counts.setdefault(labels, [0] * (len(self.bounds) + 1))
            self._sums.setdefault(labels, 0.0)
        return counts, labels
