"""From what is asked to what is searched: names looked up, the workload read and put to a clock, prices found."""

from collections.abc import Sequence
from typing import Any

import msgspec

from pilothouse.cli.plan_wanted import Asked
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import GPUS, MODELS, Gpu, Precision, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import KV_BYTES
from pilothouse.plan.asks import Asks, asks_of, by_clock
from pilothouse.plan.document import Objective
from pilothouse.plan.model_source import find_gpu, find_model
from pilothouse.plan.prices import TERMS, Price, price_of, read_prices
from pilothouse.plan.search import Goal, Question
from pilothouse.plan.source import Source, read_source
from pilothouse.workload.requests import Planned

FOLLOWING = "requests that follow others come as they would if engines served nobody else, in sums and simulation"


def question_of(asked: Asked) -> tuple[Question, Source]:
    wanted, problems = asked.wanted, list[Problem]()
    for name in ("model", "gpu", "gpus", "workload"):
        if not getattr(wanted, name):
            problems.append(Problem(f"--{name}", "is missing"))

    if problems:
        raise ConfigError(problems)
    model, gpu = find_model(wanted.model), find_gpu(wanted.gpu)
    precisions: list[Precision] = []
    for name in wanted.precisions:
        try:
            precisions.append(precision_named(name))
        except KeyError as error:
            problems.append(Problem("--precision", str(error.args[0])))
    for where, value, known in (
        ("--goal", wanted.goal, [goal.value for goal in Goal]),
        ("--term", wanted.term, TERMS),
        ("--kv-precision", wanted.kv_precision, KV_BYTES),
    ):
        if value not in known:
            problems.append(Problem(where, f"{value!r} is none of {', '.join(known)}"))
    if problems:
        raise ConfigError(problems)
    source, asks = _asks(asked, model, gpu, precisions)
    if not (asks.rate or asked.at_once):
        raise ConfigError([Problem("--rate", "is missing: all requests of this workload come at once")])
    classes = _classes(asked, asks)
    limits = [None if limit is None else limit.seconds for limit in (wanted.ttft, wanted.tpot)]
    return Question(
        name=f"{model.name.rpartition('/')[2]} on {wanted.gpus} x {gpu.name}",
        model=model, gpu=gpu,
        model_said=model.name if model.name in MODELS else wanted.model,
        gpu_said=gpu.name if gpu.name in GPUS else wanted.gpu, gpus=wanted.gpus,
        asks=asks, objective=Objective(percentile=wanted.percentile, ttft_s=limits[0], tpot_s=limits[1]),
        classes=classes, workload=wanted.workload, rate=wanted.rate, goal=Goal(wanted.goal),
        price=price_for(asked, gpu), precisions=tuple(precisions),
        kv_precision=wanted.kv_precision, gpus_per_node=wanted.gpus_per_node, split=wanted.split,
        follows=wanted.follows,
    ), source  # fmt: skip


def _classes(asked: Asked, asks: Asks) -> dict[str, Objective]:
    wanted, found, problems = asked.wanted, dict[str, Objective](), list[Problem]()
    for name, own in wanted.classes.items():
        if name not in asks.classes:
            there = (
                f"which has: {', '.join(asks.classes)}" if asks.classes else "which has none: only a mix has tenants"
            )
            problems.append(Problem(f"classes.{name}", f"is no tenant of the workload, {there}"))
        ttft, tpot = (None if limit is None else limit.seconds for limit in (own.ttft, own.tpot))
        found[name] = Objective(percentile=own.percentile or wanted.percentile, ttft_s=ttft, tpot_s=tpot)
    if problems:
        raise ConfigError(problems)
    return found


def _asks(asked: Asked, model: Any, gpu: Any, precisions: Sequence[Precision]) -> tuple[Source, Asks]:
    times = step_time(model, gpu, 1, precisions[0])

    def lasts(planned: Planned) -> float:
        return times.p_us * planned.prompt_tokens + times.a_us * planned.output_tokens

    def clocked(load: float) -> Source:
        found = _source(asked, load)
        closed = any(planned.after is not None for stage in found.workload.stages for planned in stage.requests)
        notes = [*found.notes, *([FOLLOWING] if closed else [])]
        return msgspec.structs.replace(found, workload=by_clock(found.workload, lasts), notes=notes)

    wanted = asked.wanted
    source = clocked(1.0)
    asks = asks_of(source.workload)
    if wanted.rate is not None:
        source = clocked(wanted.rate / asks.rate if asks.rate else 1.0)
        asks = asks_of(source.workload, wanted.rate)
    return source, asks


def _source(asked: Asked, load: float) -> Source:
    said = asked.wanted.workload
    if isinstance(said, str):
        return read_source(asked.base / said, seed=asked.seed, load=load)
    return Source("workload", read_workload(said, asked.base).make(asked.seed, load))


def price_for(asked: Asked, gpu: Gpu) -> Price | None:
    wanted = asked.wanted
    if wanted.usd_per_hour is not None:
        return Price(wanted.usd_per_hour, "as given")
    own = read_prices(asked.base / wanted.prices) if wanted.prices else None
    found = price_of(gpu, wanted.term, own)
    if found is None and wanted.term != "on_demand":
        what = f"no {wanted.term} price of {gpu.name} is known: give one in a file (--prices) or with --usd-per-hour"
        raise ConfigError([Problem("--term", what)])
    return found
