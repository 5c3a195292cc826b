"""From what is asked to what is searched: names looked up, the workload read (`plan_workload.py`), prices found."""

from pilothouse.cli.plan_wanted import Asked
from pilothouse.cli.plan_workload import asks_for, classes_for, missing_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import GPUS, MODELS, Gpu, Precision, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import KV_BYTES
from pilothouse.plan.document import Objective
from pilothouse.plan.model_source import find_gpu, find_model
from pilothouse.plan.prices import TERMS, Price, price_of, read_prices
from pilothouse.plan.search import Goal, Question
from pilothouse.plan.source import Source


def question_of(asked: Asked) -> tuple[Question, Source]:
    wanted, problems = asked.wanted, list[Problem]()
    for name in ("model", "gpu", "gpus"):
        if not getattr(wanted, name):
            problems.append(Problem(f"--{name}", "is missing"))
    problems += missing_workload(wanted)
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
    source, asks = asks_for(asked, step_time(model, gpu, 1, precisions[0]))
    classes = classes_for(wanted, asks)
    limits = [None if limit is None else limit.seconds for limit in (wanted.ttft, wanted.tpot)]
    return Question(
        name=f"{model.name.rpartition('/')[2]} on {wanted.gpus} x {gpu.name}",
        model=model, gpu=gpu,
        model_said=model.name if model.name in MODELS else wanted.model,
        gpu_said=gpu.name if gpu.name in GPUS else wanted.gpu, gpus=wanted.gpus,
        asks=asks, objective=Objective(percentile=wanted.percentile, ttft_s=limits[0], tpot_s=limits[1]),
        classes=classes, workload=source.said, rate=wanted.rate, goal=Goal(wanted.goal),
        price=price_for(asked, gpu), precisions=tuple(precisions),
        kv_precision=wanted.kv_precision, gpus_per_node=wanted.gpus_per_node, split=wanted.split,
        follows=wanted.follows,
    ), source  # fmt: skip


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
