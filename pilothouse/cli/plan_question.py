"""From what is asked to what is searched: names looked up, the workload read (`plan_workload.py`), prices found."""

from collections.abc import Sequence

from pilothouse.cli.plan_wanted import Asked, Wanted
from pilothouse.cli.plan_workload import asks_for, classes_for, missing_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import GPUS, MODELS, Gpu, Precision, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import KV_BYTES
from pilothouse.plan.buying import ALL_DAY, BURSTS, Buying
from pilothouse.plan.document import Objective
from pilothouse.plan.model_source import find_gpu, find_model
from pilothouse.plan.prices import TERMS, Prices, public, read_prices
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
        prices=prices_of(asked, [gpu]), buying=buying_of(wanted), precisions=tuple(precisions),
        kv_precision=wanted.kv_precision, gpus_per_node=wanted.gpus_per_node, split=wanted.split,
    ), source  # fmt: skip


def prices_of(asked: Asked, gpus: Sequence[Gpu]) -> Prices:
    """Raises ConfigError where one of these GPUs has no price at a term that was asked for."""
    wanted = asked.wanted
    own = [read_prices(asked.base / wanted.prices, [gpu.name for gpu in gpus])] if wanted.prices else []
    prices = Prices((*own, public()), wanted.provider, wanted.usd_per_hour)
    if wanted.provider and wanted.provider not in prices.providers:
        what = f"{wanted.provider!r} is none of {', '.join(prices.providers)}"
        raise ConfigError([Problem("--provider", what)])
    for where, term in (("--term", wanted.term), ("--burst", wanted.burst)):
        needless = where == "--term" and term == "on_demand" and not (wanted.provider or wanted.prices)
        for gpu in gpus:
            if term and not needless and prices.of(gpu, term) is None:
                there = ", ".join(prices.terms(gpu)) or "none"
                of = f" of {wanted.provider}" if wanted.provider else ""
                what = f"no {term} price{of} of {gpu.name} is known (there is: {there})"
                raise ConfigError([Problem(where, f"{what}: give one in a file (--prices) or with --usd-per-hour")])
    return prices


def buying_of(wanted: Wanted) -> Buying:
    """Raises ConfigError for what makes no sense together."""
    problems = []
    if wanted.burst and wanted.burst not in BURSTS:
        problems.append(Problem("--burst", f"{wanted.burst!r} is none of {', '.join(BURSTS)}"))
    elif wanted.burst == wanted.term:
        problems.append(Problem("--burst", f"is {wanted.term} as what runs all day: give --term, or --follows alone"))
    if wanted.follows is not None and wanted.term in ALL_DAY and not wanted.burst:
        what = f"{wanted.term} capacity is paid for all day: say with --burst what comes with the load"
        problems.append(Problem("--follows", what))
    if problems:
        raise ConfigError(problems)
    start_s = None if wanted.start is None else wanted.start.seconds
    return Buying(
        term=wanted.term, burst=wanted.burst, follows=wanted.follows, start_s=start_s, keep_s=wanted.keep.seconds,
        spot_extra=wanted.spot_extra,
    )  # fmt: skip
