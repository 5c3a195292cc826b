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


class Count:
    """One series of a counter; whoever adds to it often keeps it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Distribution:
    """One series of a histogram; whoever adds to it often keeps it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: list[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, counts: Iterable[int], total: float) -> None:
        """Adds observations counted elsewhere over the same bounds, the last count being those beyond all bounds."""
        mine = self.counts
        for i, count in enumerate(counts):
            mine[i] += count
        self.total += total


class Counter:
    """A family of monotone counts."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = name, text, list(labels)
        self._series: dict[Labels, Count] = {}

    def of(self, labels: Labels) -> Count:
        """The series with these labels; beyond the bound, the one that counts all others."""
        found = self._series.get(labels)
        if found is None:
            if len(self._series) >= SERIES_MAX:
                labels = ("other",) * len(labels)
            found = self._series.setdefault(labels, Count())
        return found

    def add(self, labels: Labels, amount: float = 1) -> None:
        self.of(labels).value += amount

    def collect(self) -> CounterMetricFamily:
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, series in self._series.items():
            family.add_metric(labels, series.value)
        return family


class Histogram:
    """A family of histograms over fixed upper bounds [the metric's unit]."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.bounds, self.labels = name, text, list(bounds), list(labels)
        self._series: dict[Labels, Distribution] = {}

    def of(self, labels: Labels) -> Distribution:
        """The series with these labels; beyond the bound, the one for all others."""
        found = self._series.get(labels)
        if found is None:
            if len(self._series) >= SERIES_MAX:
                labels = ("other",) * len(labels)
            found = self._series.setdefault(labels, Distribution(self.bounds))
        return found

    def collect(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        names = [*map(str, self.bounds), "+Inf"]
        for labels, series in self._series.items():
            buckets = list(zip(names, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(labels, buckets, series.total)
        return family
