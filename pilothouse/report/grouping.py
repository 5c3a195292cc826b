"""Runs put in order: series (one policy or address each) x rungs (one offered load each), seeds side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby

import msgspec

from pilothouse.policies.profiles import DEFAULT
from pilothouse.report.estimates import Estimate, estimate
from pilothouse.report.metrics import Metric
from pilothouse.workload.outcomes import Run, StageRun, Summary

# Told apart by people with any colour vision, and legible on white and on near-black
PALETTE = (
    "#3b7cff", "#f28e2b", "#1aa179", "#e15759", "#a26bdc", "#c9a227", "#2aa9c9", "#d3639f", "#9c755f", "#8a93a3",
    "#7a9e1f", "#5560c9", "#ff7f8e", "#0f8a8f", "#b4552d", "#c77dff",
)  # fmt: skip
DASHES = {"Simulated": "solid", "Emulated": "dash", "Measured": "dot"}
PATTERNS = ("solid", "dash", "dot", "dashdot")


class Series(msgspec.Struct, frozen=True):
    """One line of a chart."""

    name: str
    label: str
    scenario: str
    title: str  # what tells it from the others
    colour: str
    dash: str  # plotly's word; series of one name are told apart by it


class Rung(msgspec.Struct, frozen=True):
    """One load: a stage under one factor."""

    load: float
    stage: str
    offered: float  # requests per second; 0 where nobody set a rate (closed loop)
    title: str


@dataclass(slots=True)
class Cell:
    """One series at one rung: the same stage, once per seed."""

    seeds: list[int] = field(default_factory=list)
    stages: list[StageRun] = field(default_factory=list)

    def estimate(self, metric: Metric, pick: Callable[[StageRun], Summary] = lambda stage: stage.summary) -> Estimate:
        return estimate([metric.of(pick(stage)) for stage in self.stages])


@dataclass(slots=True)
class Book:
    """All runs of one table or page."""

    series: list[Series]
    rungs: list[Rung]
    cells: dict[tuple[int, int], Cell]  # (series, rung); a pair that nobody ran is missing
    runs: Sequence[Run]
    of_series: list[list[Run]]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(series.label for series in self.series))

    @property
    def seeds(self) -> int:
        """Most seeds that anything was run with."""
        return max((len(cell.stages) for cell in self.cells.values()), default=0)

    @property
    def by_rate(self) -> bool:
        """Whether a load is a rate; else it is a factor on whatever the workload does by itself."""
        return all(rung.offered > 0 for rung in self.rungs)

    def x(self, rung: Rung) -> float:
        return rung.offered if self.by_rate else rung.load

    def tenants(self) -> list[str]:
        named = dict.fromkeys(name for cell in self.cells.values() for stage in cell.stages for name in stage.tenants)
        return sorted(named)

    def curve(self, series: int, metric: Metric) -> list[tuple[float, Estimate]]:
        """(load, figure) by rising load; stages of one rate are averaged before seeds are."""
        found = [
            (self.x(rung), self.cells[series, i]) for i, rung in enumerate(self.rungs) if (series, i) in self.cells
        ]
        points = []
        for x, group in groupby(sorted(found, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
            by_seed: dict[int, list[float]] = {}
            for _, cell in group:
                for seed, stage in zip(cell.seeds, cell.stages, strict=True):
                    by_seed.setdefault(seed, []).append(metric.of(stage.summary))
            points.append((x, estimate([sum(values) / len(values) for values in by_seed.values()])))
        return points


def group(runs: Sequence[Run]) -> Book:
    """Series in order of appearance, rungs by rising load; what only warms up is left out."""
    keys = list(dict.fromkeys((run.name, run.label, run.scenario) for run in runs))
    colours = colours_of([name for name, _, _ in keys])
    series = [Series(*key, _title(key, keys), colours[key[0]], _dash(key, keys)) for key in keys]
    of_series = [[run for run in runs if (run.name, run.label, run.scenario) == key] for key in keys]
    rungs, place = _rungs(runs)
    cells: dict[tuple[int, int], Cell] = {}
    for i, part in enumerate(of_series):
        for run in part:
            for stage in run.stages:
                cell = cells.setdefault((i, place[_key(run, stage)]), Cell())
                cell.seeds.append(run.seed)
                cell.stages.append(stage)
    return Book(series, rungs, cells, runs, of_series)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A policy keeps its colour from page to page: chosen by its name, moved on only where two would be alike."""
    chosen: dict[str, str] = {}
    free: list[int] = []
    for name in sorted(set(names), key=lambda name: (name != DEFAULT, name)):
        free = free or list(range(len(PALETTE)))
        wanted = 0 if name == DEFAULT else blake2b(name.encode(), digest_size=2).digest()[0]
        slot = min(free, key=lambda slot: (slot - wanted) % len(PALETTE))
        free.remove(slot)
        chosen[name] = PALETTE[slot]
    return chosen


def _dash(key: tuple[str, str, str], keys: list[tuple[str, str, str]]) -> str:
    """By where the figures come from; where two of one name come from the same, the next pattern."""
    before = [other for other in keys[: keys.index(key)] if other[0] == key[0]]
    taken = [_dash(other, keys) for other in before]
    first = DASHES.get(key[1], "solid")
    return next((dash for dash in (first, *PATTERNS) if dash not in taken), first)


def _title(key: tuple[str, str, str], keys: list[tuple[str, str, str]]) -> str:
    name, label, scenario = key
    parts = [label] if any(other[1] != label for other in keys) else []
    parts += [scenario] if any(other[:2] == key[:2] and other != key for other in keys) else []
    return f"{name} ({', '.join(parts)})" if parts else name


Key = tuple[float, str]


def _key(run: Run, stage: StageRun) -> Key:
    """What makes two stages one rung. A single stage is its rate, so that runs by other names and factors meet there."""
    rate = stage.summary.offered_rate
    return (float(f"{rate:.4g}"), "") if len(run.stages) == 1 and rate > 0 else (run.load, stage.name)


def _rungs(runs: Sequence[Run]) -> tuple[list[Rung], dict[Key, int]]:
    """By rising rate, then by factor, then as the workload has them; by factor where users alone have no rate."""
    met: dict[Key, tuple[Run, StageRun]] = {}
    for run in runs:
        for stage in run.stages:
            met.setdefault(_key(run, stage), (run, stage))
    loads = len({load for load, stage in met if stage}) > 1
    mixed = (
        all(len(run.stages) == 1 for run in runs)
        and len({stage.summary.offered_rate > 0 for _, stage in met.values()}) > 1
    )

    def rises(key: Key) -> tuple[float, float, float]:
        run, stage = met[key]
        return run.load if mixed else 0.0, stage.summary.offered_rate, run.load

    order = sorted(met, key=rises)
    rungs = [
        Rung(run.load, stage.name, stage.summary.offered_rate, _rung_title(run, stage, loads, mixed))
        for run, stage in (met[key] for key in order)
    ]
    return rungs, {key: i for i, key in enumerate(order)}


def _rung_title(run: Run, stage: StageRun, loads: bool, mixed: bool) -> str:
    offered, factor = stage.summary.offered_rate, f"load x {run.load:g}"
    rate = f"{offered:.4g} req/s" if offered > 0 else factor
    if len(run.stages) == 1:
        return f"{factor}, {rate}" if mixed and offered > 0 else rate
    named = stage.name if offered <= 0 or f"{offered:g}" in stage.name else f"{stage.name}, {rate}"
    return f"{named} ({factor})" if loads else named
