"""One engine as a planner sees it: a model on some GPUs, how fast, with how much room, at what price."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.config.scenario_load import read_step_time
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import Gpu, Model, Precision, gpu_named, model_named, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import SEQUENCE_TOKENS, default_limits, kv_gib, kv_tokens, sequence_bytes
from pilothouse.perf.step_time import StepTime
from pilothouse.plan.prices import Prices, public
from pilothouse.workload.requests import Planned


class Machine(msgspec.Struct, frozen=True):
    """One engine."""

    model: str
    gpu: str
    tp: int  # GPUs
    precision: str
    step_time: StepTime
    kv_tokens: int  # that its GPUs hold
    token_bytes: float  # KV of one token, of the whole model
    batched_tokens: int = 8192  # of one step
    sequences: int = 1024  # of one step
    usd_h: float | None = None  # of one GPU; None = no price known
    price: str = ""  # where that is from
    step_time_file: str | None = None  # None = of the catalogue

    @property
    def title(self) -> str:
        return f"{self.model} {self.precision} on {self.tp} x {self.gpu}"

    @property
    def engine_usd_h(self) -> float | None:
        return None if self.usd_h is None else self.tp * self.usd_h


class Wanted(msgspec.Struct, frozen=True):
    """What a machine is made of, by the names people use."""

    model: str
    gpu: str
    tp: int = 1
    precision: str = "bf16"
    step_time: Path | None = None
    option: str = "--gpu"  # that named the GPU, for messages


def machine(wanted: Wanted, prices: Mapping[str, float], context: float = SEQUENCE_TOKENS) -> Machine:
    """Raises ConfigError for what is unknown or does not fit.

    prices    of a GPU by the catalogue's names [USD per hour]
    context   mean length of a sequence: matters for models with windows or states [tokens]
    """
    model, gpu, precision = _found(wanted)
    room = kv_gib(model, gpu, wanted.tp, precision)
    if room <= 0:
        what = f"{model.name} in {precision} does not fit on {wanted.tp} x {gpu.name}: {-room:.1f} GiB missing on each"
        raise ConfigError([Problem(wanted.option, f"{what}; raise the tensor-parallel degree")])
    times = (
        read_step_time(wanted.step_time)
        if wanted.step_time is not None
        else step_time(model, gpu, wanted.tp, precision)
    )
    length = max(1, round(context))
    sequences, tokens = default_limits(gpu)
    usd_h, price = _price(gpu, prices)
    return Machine(
        model.name, gpu.name, wanted.tp, precision.value, times,
        kv_tokens(model, gpu, wanted.tp, precision, sequence_tokens=length),
        sequence_bytes(model, 1, length) / length, tokens, sequences, usd_h, price,
        str(wanted.step_time.absolute()) if wanted.step_time is not None else None,
    )  # fmt: skip


def prices_of(options: list[str]) -> dict[str, float]:
    """`gpu=usd` for each GPU, per hour. Raises ConfigError."""
    prices, problems = dict[str, float](), list[Problem]()
    for option in options:
        name, _, value = option.partition("=")
        try:
            prices[gpu_named(name).name] = usd = float(value)
            if not 0 < usd < float("inf"):
                raise ValueError
        except KeyError as error:
            problems.append(Problem("--price", str(error.args[0])))
        except ValueError:
            problems.append(Problem("--price", f"{option!r} is not GPU=USD, as in h100=2.5: dollars per GPU and hour"))
    if problems:
        raise ConfigError(problems)
    return prices


def _found(wanted: Wanted) -> tuple[Model, Gpu, Precision]:
    problems: list[Problem] = []

    def look(option: str, lookup: Callable[[str], Any], name: str) -> Any:
        try:
            return lookup(name)
        except KeyError as error:
            problems.append(Problem(option, str(error.args[0])))

    model = look("--model", model_named, wanted.model)
    gpu = look(wanted.option, gpu_named, wanted.gpu)
    precision = look("--precision", precision_named, wanted.precision)
    if problems:
        raise ConfigError(problems)
    return model, gpu, precision


def _price(gpu: Gpu, prices: Mapping[str, float]) -> tuple[float | None, str]:
    """As given, else by the list that ships."""
    if gpu.name in prices:
        return prices[gpu.name], "--price"
    found = Prices((public(),)).of(gpu, "on_demand")
    return (None, f"no price found for {gpu.name}") if found is None else (found.usd_h, found.said)


def lasts(machine: Machine | None) -> Callable[[Planned], float]:
    """How long a request takes an engine that nobody else uses [microseconds]; without one, no time at all."""
    if machine is None:
        return lambda _: 0.0
    times = machine.step_time
    return lambda planned: times.p_us * planned.prompt_tokens + times.a_us * planned.output_tokens
