"""Step time of any model on any GPU: the one place that everybody asks.

Three ways, from best to worst, and the answer's label says which it was:
- `Estimated (fitted)`: published rows were measured for just this configuration (`fitted.py`).
- `Estimated (scaled)`: the model was measured on other GPUs, in another precision or parallelism. The physics prior of
  this configuration, each coefficient multiplied by what fit and prior differed by over there, near ones weighing more.
- `Estimated (prior)`: the model was never measured; physics alone (`priors.py`).
A file of `pilothouse calibrate`, Measured, is better than all of them.

accuracy   TPOT: 3 % in fit, 7 % leaving a tensor-parallel degree out (`benchmarks/fidelity.py`)
"""

from collections.abc import Iterable
from math import exp, log, log2

import msgspec

from pilothouse.perf.fitted import FITTED, Fitted
from pilothouse.perf.gpus import GPUS, Gpu
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import Model
from pilothouse.perf.priors import estimate
from pilothouse.perf.step_time import StepTime

RHO = 0.6
RHO_SOURCE = (
    "rho fitted on one published ladder (llm-d guide: Qwen3-32B, TP 2, H100, vLLM 0.19.1) and taken for all engines "
    "that share prefix blocks"
)
ERROR_SCALED = 0.07  # TPOT of published rows, predicted from the model's other tensor-parallel degrees
TERMS = ("a_us", "b_us", "c_ns", "p_us", "q_ps", "expert_us")
OTHER_GPU, OTHER_GENERATION, OTHER_PRECISION = 3.0, 6.0, 1.0  # in doublings of TP: how far configurations are apart
NEARNESS = 2.0  # a neighbour one step farther weighs e^-2 as much


def step_time(model: Model, gpu: Gpu, tp: int, precision: Precision) -> StepTime:
    """The best there is without measuring; its `label`, `source` and `error` say how good that is."""
    return lookup(FITTED, model, gpu, tp, precision)


def lookup(table: Iterable[Fitted], model: Model, gpu: Gpu, tp: int, precision: Precision) -> StepTime:
    """The same, from another table of fits."""
    prior = msgspec.structs.replace(estimate(model, gpu, tp, precision), rho=RHO)
    known = [fitted for fitted in table if fitted.model == model.name]
    apart = [_apart(fitted, gpu, tp, precision) for fitted in known]
    if 0.0 in apart:
        return _as_measured(prior, known[apart.index(0.0)])
    if known:
        return _scaled(prior, model, known, apart)
    return msgspec.structs.replace(prior, source=f"{prior.source}; {RHO_SOURCE}")


def _as_measured(prior: StepTime, fitted: Fitted) -> StepTime:
    return msgspec.structs.replace(
        prior,
        **{term: getattr(fitted, term) for term in TERMS},
        label="Estimated (fitted)",
        source=f"fit of {fitted.rows} published rows ({fitted.name}) held to the physics prior; {RHO_SOURCE}",
        error=fitted.error,
    )


def _scaled(prior: StepTime, model: Model, known: list[Fitted], apart: list[float]) -> StepTime:
    nearest = known[apart.index(min(apart))]
    weights = [exp(-NEARNESS * (distance - min(apart))) for distance in apart]
    theirs = [estimate(model, GPUS[f.gpu], f.tp, Precision(f.precision)) for f in known]

    def factor(term: str) -> float:
        """Weighted geometric mean of fit over prior."""
        pairs = [(getattr(fitted, term), getattr(other, term)) for fitted, other in zip(known, theirs, strict=True)]
        ratios = [log(fit / there) if fit > 0 and there > 0 else 0.0 for fit, there in pairs]
        return exp(sum(w * ratio for w, ratio in zip(weights, ratios, strict=True)) / sum(weights))

    return msgspec.structs.replace(
        prior,
        **{term: getattr(prior, term) * factor(term) for term in TERMS},
        label="Estimated (scaled)",
        source=f"{prior.source}, scaled as measured for {nearest.name}; {RHO_SOURCE}",
        error=ERROR_SCALED,
    )


def _apart(fitted: Fitted, gpu: Gpu, tp: int, precision: Precision) -> float:
    """How far a measured configuration is from the one asked for; 0 = it is the one."""
    distance = abs(log2(fitted.tp / tp)) + (OTHER_PRECISION if fitted.precision != precision else 0.0)
    if fitted.gpu != gpu.name:
        distance += OTHER_GPU if GPUS[fitted.gpu].blackwell == gpu.blackwell else OTHER_GENERATION
    return distance
