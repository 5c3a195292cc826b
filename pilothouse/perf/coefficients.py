"""Step time of any model on any GPU: the one place that everybody asks.

Three ways, from best to worst, and the answer's label says which it was:
- `Estimated (fitted)`: published rows were measured for just this configuration (`fitted.py`).
- `Estimated (scaled)`: the model was measured on other GPUs, in another precision or parallelism. The physics prior of
  this configuration, each coefficient multiplied by what fit and prior differed by over there, near ones weighing more.
- `Estimated (prior)`: the model was never measured; physics alone (`priors.py`).
A file of `pilothouse calibrate`, Measured, is better than all of them.

accuracy   TPOT: 3 % in fit; left out of it, 5 and 8 % (dense, experts) for configurations, 7 and 16 % for whole models
           (`benchmarks/plan_accuracy.py`, figures `holdout_*`)
"""

from collections.abc import Iterable
from math import exp, log, log2

import msgspec

from pilothouse.perf.fitted import FITTED, Fitted
from pilothouse.perf.gpus import GPUS, Gpu
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import Model
from pilothouse.perf.priors import CONSTANTS, Constants, estimate, kv_byte_as_measured
from pilothouse.perf.step_time import StepTime

RHO = 0.6
RHO_SOURCE = (
    "rho fitted on one published ladder (llm-d guide: Qwen3-32B, TP 2, H100, vLLM 0.19.1) and taken for all engines "
    "that share prefix blocks"
)
ERROR_SCALED = (0.05, 0.08)  # of TPOT, dense and with experts: rows of a configuration that the fit had not seen
ERROR_PRIOR = (0.07, 0.16)  # the same of a model that the fit had not seen
TERMS = ("a_us", "b_us", "c_ns", "p_us", "q_ps", "expert_us")
OTHER_GPU, OTHER_PRECISION = 2.0, 2.0  # in doublings of TP: how far configurations are apart
PRIOR_WEIGHT = 0.1  # of the prior's own word, a ratio of 1: a neighbour one step farther weighs 1 / e as much


def step_time(model: Model, gpu: Gpu, tp: int, precision: Precision, kv_byte: float | None = None) -> StepTime:
    """The best there is without measuring; its `label`, `source` and `error` say how good that is.

    kv_byte   of one value in the cache [bytes]; None = as in published rows
    """
    found = lookup(FITTED, model, gpu, tp, precision)
    if kv_byte is None:
        return found
    share = kv_byte / kv_byte_as_measured(model, gpu, precision)
    return msgspec.structs.replace(found, c_ns=found.c_ns * share)


def lookup(
    table: Iterable[Fitted], model: Model, gpu: Gpu, tp: int, precision: Precision, by: Constants = CONSTANTS
) -> StepTime:
    """The same, from another table of fits and other constants of the prior."""
    prior = msgspec.structs.replace(estimate(model, gpu, tp, precision, by=by), rho=RHO)
    known = [fitted for fitted in table if fitted.model == model.name]
    apart = [_apart(fitted, gpu, tp, precision) for fitted in known]
    if 0.0 in apart:
        return _as_measured(prior, known[apart.index(0.0)])
    if known:
        return _scaled(prior, model, known, apart, by)
    return msgspec.structs.replace(
        prior, source=f"{prior.source}; {RHO_SOURCE}", error=ERROR_PRIOR[bool(model.experts)]
    )


def _as_measured(prior: StepTime, fitted: Fitted) -> StepTime:
    return msgspec.structs.replace(
        prior,
        **{term: getattr(fitted, term) for term in TERMS},
        label="Estimated (fitted)",
        source=f"fit of {fitted.rows} published rows ({fitted.name}) held to the physics prior; {RHO_SOURCE}",
        error=fitted.error,
    )


def _scaled(prior: StepTime, model: Model, known: list[Fitted], apart: list[float], by: Constants) -> StepTime:
    nearest = known[apart.index(min(apart))]
    weights = [exp(-distance) for distance in apart]
    theirs = [estimate(model, GPUS[f.gpu], f.tp, Precision(f.precision), by=by) for f in known]

    def factor(term: str) -> float:
        """Weighted geometric mean of fit over prior."""
        pairs = [(getattr(fitted, term), getattr(other, term)) for fitted, other in zip(known, theirs, strict=True)]
        ratios = [log(fit / there) if fit > 0 and there > 0 else 0.0 for fit, there in pairs]
        return exp(sum(w * r for w, r in zip(weights, ratios, strict=True)) / (PRIOR_WEIGHT + sum(weights)))

    return msgspec.structs.replace(
        prior,
        **{term: getattr(prior, term) * factor(term) for term in TERMS},
        label="Estimated (scaled)",
        source=f"{prior.source}, scaled as measured for {nearest.name}; {RHO_SOURCE}",
        error=ERROR_SCALED[bool(model.experts)],
    )


def _apart(fitted: Fitted, gpu: Gpu, tp: int, precision: Precision) -> float:
    """How far a measured configuration is from the one asked for; 0 = it is the one."""
    distance = abs(log2(fitted.tp / tp)) + (OTHER_PRECISION if fitted.precision != precision else 0.0)
    return distance + (OTHER_GPU if fitted.gpu != gpu.name else 0.0)
