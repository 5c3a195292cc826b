"""Coefficients from measured closed loops: weighted non-negative least squares. The only part of `perf` with numpy.

Two fits. `fit` is for one configuration: its own rows, four or five coefficients. `fit_physics` is for a family of
configurations: the terms are what physics says a step costs (bytes over bandwidth, work over peak), the fit only says
how far from ideal each term is, so it answers for tensor-parallel degrees that nobody measured.

A closed loop at concurrency B, requests of isl + osl tokens, has every osl steps one prefill per sequence:

    TPOT = a + b B + c B (isl + osl / 2) + p B isl / osl + w_e x distinct experts

Weights are 1 / TPOT, so the relative error is what is minimised. A coefficient of zero is one the rows do not identify.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from pilothouse.perf.catalog import Gpu, Model
from pilothouse.perf.memory import Precision
from pilothouse.perf.priors import all_reduce_us, expert_read_us, kv_read_ns, prefill_compute_us, weight_read_us
from pilothouse.perf.step_time import StepTime, distinct_experts


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


def fit(rows: Sequence[Row], rho: float = 0.0, source: str = "") -> StepTime:
    """Coefficients of one configuration, all of whose rows these are; at least as many rows as coefficients."""
    model = rows[0].model
    assert len({row.configuration for row in rows}) == 1, "one configuration at a time"
    columns = [_closed_loop(row) for row in rows]
    solved = _solve(columns, rows)
    a, b, c, p, *expert = solved
    return StepTime(
        a,
        b,
        c * 1000,
        p,
        expert_us=expert[0] if expert else 0.0,
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        rho=rho,
        source=source or f"non-negative fit on {len(rows)} measured rows",
        error=mean_error(rows, [_product(column, solved) for column in columns]),
    )


def tpot_us(coefficients: StepTime, isl: float, osl: float, concurrency: int) -> float:
    """Mean time per output token of a steady closed loop without shared prefixes [microseconds]."""
    of, requests = coefficients, concurrency
    experts = of.expert_us * distinct_experts(of.experts, of.experts_per_token, requests)
    context = of.c_ns / 1000 * requests * (isl + osl / 2)
    return of.a_us + of.b_us * requests + context + of.p_us * requests * isl / osl + experts


class Physics(msgspec.Struct, frozen=True):
    """How far from ideal each physical term is, in a family of configurations. Order as in `_physics`."""

    efficiency: list[float]
    source: str = ""

    def tpot_us(self, row: Row) -> float:
        return _product(_physics(row), self.efficiency)

    def step_time(self, model: Model, gpu: Gpu, tp: int, precision: Precision, rho: float = 0.0) -> StepTime:
        """Coefficients for any configuration of the family."""

        def at(isl: float, osl: float, requests: int) -> list[float]:
            row = Row(model, gpu, precision, tp, isl, osl, requests, 1.0)
            return [value * factor for value, factor in zip(_physics(row), self.efficiency, strict=True)]

        unit = at(1.0, 1.0, 1)
        return StepTime(
            sum(unit[:2]),
            unit[2] + sum(unit[8:10]),
            sum(unit[3:5]) / 1.5 * 1000,
            sum(unit[5:8]),
            expert_us=expert_read_us(model, gpu, tp, precision) * self.efficiency[10] if model.experts else 0.0,
            experts=model.experts,
            experts_per_token=model.experts_per_token,
            rho=rho,
            source=self.source,
        )


def fit_physics(rows: Sequence[Row]) -> Physics:
    """One set of efficiencies for all of these rows, whatever their model, GPU and parallelism."""
    solved = _solve([_physics(row) for row in rows], rows)
    return Physics(solved, f"physics form, non-negative fit on {len(rows)} measured rows")


def leave_one_tp_out(rows: Sequence[Row], family: Callable[[Row], bool]) -> list[tuple[Row, float]]:
    """For each tensor-parallel degree: (row, TPOT [microseconds]) predicted from the other degrees of the family."""
    chosen = [row for row in rows if family(row)]
    predicted: list[tuple[Row, float]] = []
    for tp in sorted({row.tp for row in chosen}):
        others = [row for row in chosen if row.tp != tp]
        if others:
            physics = fit_physics(others)
            predicted += [(row, physics.tpot_us(row)) for row in chosen if row.tp == tp]
    return predicted


def mean_error(rows: Iterable[Row], predicted_us: Iterable[float]) -> float:
    """Mean absolute relative error of TPOT."""
    errors = [abs(us / (row.tpot_ms * 1000) - 1) for row, us in zip(rows, predicted_us, strict=True)]
    return sum(errors) / len(errors)


def _closed_loop(row: Row) -> list[float]:
    requests, model = row.concurrency, row.model
    columns = [1.0, requests, requests * (row.isl + row.osl / 2), requests * row.isl / row.osl]
    if model.experts:
        columns.append(distinct_experts(model.experts, model.experts_per_token, requests))
    return columns


def _physics(row: Row) -> list[float]:
    """Ideal times [microseconds]; GPUs of the Blackwell kind have columns of their own where they differ most."""
    model, gpu, tp, precision, requests = row.model, row.gpu, row.tp, row.precision, row.concurrency
    blackwell = gpu.fp4_tflops > 0
    context = kv_read_ns(model, gpu, tp) / 1000 * requests * (row.isl + row.osl / 2)
    prefilled = requests * row.isl / row.osl
    work, reduce = prefill_compute_us(model, gpu, tp, precision), all_reduce_us(model, gpu, tp)
    columns = [weight_read_us(model, gpu, tp, precision), float(model.layers), float(requests)]
    columns += [0.0, context] if blackwell else [context, 0.0]
    columns += [0.0, work * prefilled] if blackwell else [work * prefilled, 0.0]
    columns += [reduce * prefilled, reduce * requests, work * requests]
    touched = distinct_experts(model.experts, model.experts_per_token, requests)
    return [*columns, expert_read_us(model, gpu, tp, precision) * touched]


def _solve(columns: Sequence[Sequence[float]], rows: Sequence[Row]) -> list[float]:
    measured = np.array([row.tpot_ms * 1000 for row in rows])
    matrix: Any = np.array(columns, dtype=float) / measured[:, None]
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)  # columns differ by orders of magnitude
    solved, _ = nnls(matrix / scale, np.ones(len(rows)))
    return [float(value) for value in solved / scale]


def _product(columns: Sequence[float], factors: Sequence[float]) -> float:
    return sum(column * factor for column, factor in zip(columns, factors, strict=True))
