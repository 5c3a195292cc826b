"""Coefficients from measurements: weighted non-negative least squares. The only part of `perf` with numpy.

A closed loop at concurrency B, requests of isl + osl tokens, has every osl steps one prefill per sequence:

    TPOT = a + b B + c B (isl + osl / 2) + (p isl + q isl² / 2) B / osl + w_e x distinct experts

Weights are 1 / TPOT, so the relative error is what is minimised. Rows of a closed loop do not tell all terms apart, and
what they cannot tell is held to the physics prior: each coefficient counts as one more row, as sure as `PRIOR_SPREAD`
says, and none falls below `FLOOR` of its prior, for nothing is four times as fast as the roofline.

`fit_readings` is for an engine of one's own (`sweep.py`): steps are timed directly, no prior is needed or known.
"""

from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from pilothouse.core.random_stream import stream
from pilothouse.perf.coefficients import lookup
from pilothouse.perf.fitted import Fitted
from pilothouse.perf.gpus import Gpu
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import Model
from pilothouse.perf.priors import CONSTANTS, EXPECTED, Constants, estimate
from pilothouse.perf.step_time import StepTime, distinct_experts
from pilothouse.perf.sweep import Kind, Reading

ROW_SPREAD = 0.03  # relative error of a measured row that is nothing unusual
PRIOR_SPREAD = {"a_us": 0.15, "b_us": 0.6, "c_ns": 0.5, "p_us": 0.4, "q_ps": 0.3, "expert_us": 0.4}  # errors of priors
FLOOR = 0.25
PRIOR_ERROR = 0.05  # relative error of a row by the prior that is nothing unusual
CONFIGURATION_ROWS = 10  # that each configuration counts for, however many it has
CONSTANT_SPREAD = 0.5  # relative error of an expected constant
CONSTANT_SPREADS = {
    "attention": 0.05,
    "attention_blackwell": 0.05,
    "kv": 0.02,
    "experts": 0.2,
}  # rows hardly tell these
CONSTANT_ROUNDED = 3  # significant digits
ROWS_MIN = 3  # fewer tell little beside the prior that they are held to
ROUNDED = 4  # significant digits of shipped coefficients
READINGS_MIN = {Kind.PREFILL: 3, Kind.DECODE: 4}  # fewer do not determine what they are for
RESAMPLED = 100  # bootstrap samples of the readings
FAR_OFF = 0.05  # relative error from which on a reading counts less
ROBUST_ROUNDS = 6
RHO_DEVIATION_MAX = 0.25  # less certain than this, rho is not told by the readings
MEASURED = ("a_us", "b_us", "alone", "shared", "p_us", "q_ps", "request_us")  # columns of `_reading`


class Row(msgspec.Struct, frozen=True):
    """One measured closed loop of one replica."""

    model: Model
    gpu: Gpu
    precision: Precision
    tp: int
    isl: float  # prompt tokens per request
    osl: float  # output tokens per request
    concurrency: int
    tpot_ms: float  # mean

    @property
    def configuration(self) -> tuple[str, str, str, int]:
        return self.model.name, str(self.precision), self.gpu.name, self.tp


def fit(rows: Sequence[Row], by: Constants = CONSTANTS) -> Fitted:
    """Coefficients of one configuration, all of whose rows these are. `by`: constants of the prior."""
    first = rows[0]
    assert len({row.configuration for row in rows}) == 1, "one configuration at a time"
    prior = estimate(first.model, first.gpu, first.tp, first.precision, by=by)
    terms = [term for term in PRIOR_SPREAD if term != "expert_us" or first.model.experts]
    expected = np.array([getattr(prior, term) for term in terms])
    measured = np.array([row.tpot_ms * 1000 for row in rows])
    matrix: Any = np.array([_closed_loop(row) for row in rows], dtype=float) * expected / measured[:, None]
    spread = np.array([PRIOR_SPREAD[term] for term in terms])
    held = np.diag(ROW_SPREAD / spread)  # unknowns are multiples of the prior
    whole = np.vstack([matrix, held])
    wanted = np.concatenate([np.ones(len(rows)), ROW_SPREAD / spread])
    solved, _ = nnls(whole, wanted - FLOOR * whole.sum(axis=1))
    values = [float(f"{value:.{ROUNDED}g}") for value in (solved + FLOOR) * expected]
    fitted = msgspec.convert(
        dict(zip(PRIOR_SPREAD, [*values, 0.0], strict=False))
        | dict(zip(("model", "precision", "gpu", "tp"), first.configuration, strict=True))
        | {"rows": len(rows)},
        Fitted,
    )
    found = lookup([fitted], first.model, first.gpu, first.tp, first.precision)
    error = mean_error(rows, [tpot_us(found, row.isl, row.osl, row.concurrency) for row in rows])
    return msgspec.structs.replace(fitted, error=round(error, ROUNDED))


def fits(rows: Iterable[Row], by: Constants = CONSTANTS) -> list[Fitted]:
    """Every configuration that has enough rows, in order."""
    groups = _configurations(rows)
    return [fit(groups[key], by) for key in sorted(groups) if len(groups[key]) >= ROWS_MIN]


def fit_constants(rows: Iterable[Row]) -> Constants:
    """Of the physics prior: all configurations count alike, and each constant is held loosely to what is expected."""
    groups = _configurations(rows)
    names = [field.name for field in msgspec.structs.fields(Constants)]
    expected = np.array([getattr(EXPECTED, name) for name in names])
    parts = [(row, sqrt(CONFIGURATION_ROWS / len(group)) / PRIOR_ERROR) for group in groups.values() for row in group]
    matrix = np.array([[weight * part for part in _by_constants(row, names)] for row, weight in parts])
    held = np.diag([1 / CONSTANT_SPREADS.get(name, CONSTANT_SPREAD) for name in names])
    wanted = np.concatenate([[weight for _, weight in parts], held.sum(axis=1)])
    solved, _ = nnls(np.vstack([matrix, held]), wanted)
    return Constants(*(float(f"{value:.{CONSTANT_ROUNDED}g}") for value in solved * expected))


def _configurations(rows: Iterable[Row]) -> dict[tuple[str, str, str, int], list[Row]]:
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.configuration, []).append(row)
    return groups


def _by_constants(row: Row, names: Sequence[str]) -> list[float]:
    """What each constant, as expected, adds to the row's TPOT [shares of it]. Exact, as all is linear."""
    none = Constants(*[0.0] * len(names))
    alone = [msgspec.structs.replace(none, **{name: getattr(EXPECTED, name)}) for name in names]
    found = [estimate(row.model, row.gpu, row.tp, row.precision, by=by) for by in alone]
    return [tpot_us(of, row.isl, row.osl, row.concurrency) / (row.tpot_ms * 1000) for of in found]


def tpot_us(coefficients: StepTime, isl: float, osl: float, concurrency: int) -> float:
    """Mean time per output token of a steady closed loop without shared prefixes [microseconds]."""
    of, requests = coefficients, concurrency
    experts = of.expert_us * distinct_experts(of.experts, of.experts_per_token, requests)
    context = of.c_ns / 1000 * requests * (isl + osl / 2)
    prefill = (of.p_us * isl + of.q_ps / 1e6 * isl * isl / 2) * requests / osl
    return of.a_us + of.b_us * requests + context + prefill + experts


def held_out(rows: Sequence[Row], group: Callable[[Row], object]) -> list[tuple[Row, StepTime]]:
    """Step times of rows, from constants and tables that have seen nothing of the row's group."""
    found: list[tuple[Row, StepTime]] = []
    for held in dict.fromkeys(group(row) for row in rows):
        others = [row for row in rows if group(row) != held]
        by = fit_constants(others)
        table = fits(others, by)
        found += [
            (row, lookup(table, row.model, row.gpu, row.tp, row.precision, by)) for row in rows if group(row) == held
        ]
    return found


def mean_error(rows: Iterable[Row], predicted_us: Iterable[float]) -> float:
    """Mean absolute relative error of TPOT."""
    errors = [abs(us / (row.tpot_ms * 1000) - 1) for row, us in zip(rows, predicted_us, strict=True)]
    return sum(errors) / len(errors)


def _closed_loop(row: Row) -> list[float]:
    """Of each coefficient, how much of it a step holds; in the order of `PRIOR_SPREAD`."""
    requests, model, per_step = row.concurrency, row.model, row.concurrency / row.osl
    columns = [1.0, requests, requests * (row.isl + row.osl / 2) / 1000, per_step * row.isl]
    columns.append(per_step * row.isl * row.isl / 2 / 1e6)
    if model.experts:
        columns.append(distinct_experts(model.experts, model.experts_per_token, requests))
    return columns


def fit_readings(readings: Sequence[Reading], batched_tokens: int, source: str = "") -> StepTime:
    """Coefficients of the engine that was asked, Measured, with standard errors from resampled readings.

    batched_tokens   of one step of that engine: a longer prompt takes several steps
    raises           ValueError, if there are too few readings
    """
    for kind, least in READINGS_MIN.items():
        if sum(reading.trial.kind is kind for reading in readings) < least:
            raise ValueError(f"fewer than {least} readings of kind {kind}")
    assert all(reading.us > 0 for reading in readings), "a step that takes no time"
    columns = [_reading(reading, batched_tokens) for reading in readings]
    times = [reading.us for reading in readings]
    luck, samples = stream(0, "fit_readings"), []
    for _ in range(RESAMPLED):
        drawn = [luck.randrange(len(times)) for _ in times]
        samples.append(_named(_solve([columns[i] for i in drawn], [times[i] for i in drawn])))
    deviations = {name: float(np.std([sample[name] for sample in samples])) for name in samples[0]}
    shared = any(reading.trial.kind is Kind.SHARED for reading in readings)
    knows_rho = shared and deviations["rho"] <= RHO_DEVIATION_MAX
    if not knows_rho:
        columns = [[*row[:2], row[2] + row[3], 0.0, *row[4:]] for row in columns]
        deviations.pop("rho")
    solved = _solve(columns, times)
    left_out = []
    for i, column in enumerate(columns):
        others = _solve(columns[:i] + columns[i + 1 :], times[:i] + times[i + 1 :])
        left_out.append(abs(_product(column, others) / times[i] - 1))
    in_fit = [abs(_product(column, solved) / us - 1) for column, us in zip(columns, times, strict=True)]
    found = _named(solved) | {
        "label": "Measured",
        "source": source + ("" if knows_rho else "; rho is not told by the readings, hence 0"),
        "error": sum(in_fit) / len(in_fit),
        "error_left_out": sum(left_out) / len(left_out),
        "deviations": {name: round(value, 6) for name, value in deviations.items()},
    }
    return msgspec.convert(found, StepTime)


def predicted_us(coefficients: StepTime, reading: Reading, batched_tokens: int) -> float:
    """What the coefficients say to a reading's trial [microseconds]."""
    of = coefficients
    alone, shared = of.c_ns * (1 - of.rho), of.c_ns * of.rho
    return _product(
        _reading(reading, batched_tokens), [of.a_us, of.b_us, alone, shared, of.p_us, of.q_ps, of.request_us]
    )


def _reading(reading: Reading, batched_tokens: int) -> list[float]:
    """How much of each of `MEASURED` is in it."""
    trial = reading.trial
    if trial.kind is not Kind.PREFILL:
        return [1.0, trial.sequences, reading.context / 1000, reading.distinct / 1000, 0.0, 0.0, 0.0]
    steps = -(-trial.prompt // batched_tokens)
    return [steps, steps, 0.0, 0.0, trial.prompt, trial.prompt**2 / 2 / 1e6, 1.0]


def _named(solved: Sequence[float]) -> dict[str, Any]:
    """As fields of a step time."""
    found = dict(zip(MEASURED, solved, strict=True))
    alone, shared = found.pop("alone"), found.pop("shared")
    total = alone + shared
    return found | {"c_ns": total, "rho": shared / total if total else 0.0}


def _solve(columns: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """Non-negative, relative errors least; a reading that is far off counts by its distance, not by its square
    (Huber, Ann. Math. Stat. 35, 1964), for other work on a machine spoils some readings and not the rest."""
    matrix: Any = np.array(columns, dtype=float) / np.array(times)[:, None]
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)  # columns differ by orders of magnitude
    scaled, weights, solved = matrix / scale, np.ones(len(times)), np.zeros(len(scale))
    for _ in range(ROBUST_ROUNDS):
        solved, _ = nnls(scaled * weights[:, None], weights)
        weights = np.sqrt(FAR_OFF / np.maximum(np.abs(scaled @ solved - 1), FAR_OFF))
    return [float(value) for value in solved / scale]


def _product(columns: Sequence[float], factors: Sequence[float]) -> float:
    return sum(column * factor for column, factor in zip(columns, factors, strict=True))
