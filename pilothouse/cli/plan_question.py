"""From what is asked to what is searched: names looked up, the workload read (`plan_workload.py`), prices found."""

from collections.abc import Sequence

from pilothouse.cli.plan_wanted import MAY_GO, Asked, Wanted
from pilothouse.cli.plan_workload import asks_for, classes_for, missing_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import GPUS, MODELS, Gpu, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import KV_BYTES
from pilothouse.plan.buying import ALL_DAY, BURSTS, Buying
from pilothouse.plan.document import Objective
from pilothouse.plan.model_source import find_gpu, find_model, usual_ways
from pilothouse.plan.prices import TERMS, Prices, public, read_prices
from pilothouse.plan.question import Goal, Question, Stock
from pilothouse.plan.source import Source

GPUS_MAX = 4096  # of one kind


def question_of(asked: Asked) -> tuple[Question, Source]:
    wanted, problems = asked.wanted, list[Problem]()
    if not wanted.model:
        problems.append(Problem("--model", "is missing"))
    counts = _counts(wanted, problems)
    problems += missing_workload(wanted)
    if problems:
        raise ConfigError(problems)
    model, gpus = find_model(wanted.model), {name: find_gpu(name) for name in counts}
    for name in dict.fromkeys(gpu.name for gpu in gpus.values()):
        alike = [said for said, gpu in gpus.items() if gpu.name == name]
        if len(alike) > 1:
            problems.append(
                Problem("--gpu", f"{' and '.join(alike)} are one kind, {name}: say once how many there are")
            )
    precisions = [] if wanted.precisions else usual_ways(model, wanted.model)
    for name in wanted.precisions:
        try:
            precisions.append(precision_named(name))
        except KeyError as error:
            problems.append(Problem("--precision", str(error.args[0])))
    for where, value, known in (
        ("--goal", wanted.goal, [goal.value for goal in Goal]),
        ("--term", wanted.term, TERMS),
        ("--burst", wanted.burst, ("", *BURSTS)),
        ("--kv-precision", wanted.kv_precision, KV_BYTES),
    ):
        if value not in known:
            problems.append(Problem(where, f"{value!r} is none of {', '.join(filter(None, known))}"))
    problems += [
        Problem("--without", f"{name!r} is none of {', '.join(MAY_GO)}")
        for name in wanted.without
        if name not in MAY_GO
    ]
    if problems:
        raise ConfigError(problems)
    source, asks = asks_for(asked, step_time(model, next(iter(gpus.values())), 1, precisions[0]))
    classes = classes_for(wanted, asks)
    limits = [None if limit is None else limit.seconds for limit in (wanted.ttft, wanted.tpot)]
    prices, buying = prices_of(asked, list(gpus.values())), buying_of(wanted)
    stocks = [
        Stock(gpu=gpu, count=counts[said], said="" if gpu.name in GPUS else said, price=prices.of(gpu, wanted.term))
        for said, gpu in gpus.items()
    ]
    return Question(
        name=f"{model.name.rpartition('/')[2]} on {' + '.join(f'{each.count} x {each.gpu.name}' for each in stocks)}",
        model=model, stocks=stocks,
        model_said=model.name if model.name in MODELS else wanted.model,
        asks=asks, objective=Objective(percentile=wanted.percentile, ttft_s=limits[0], tpot_s=limits[1]),
        classes=classes, workload=source.said, rate=wanted.rate, goal=Goal(wanted.goal),
        precisions=tuple(precisions),
        kv_precision=wanted.kv_precision, gpus_per_node=wanted.gpus_per_node, split="split" not in wanted.without,
        speculation="speculation" not in wanted.without, tiers="tiers" not in wanted.without,
        prices=prices, buying=buying,
    ), source  # fmt: skip


def _counts(wanted: Wanted, problems: list[Problem]) -> dict[str, int]:
    """How many there are of each kind."""
    if isinstance(wanted.gpus, dict):
        found = wanted.gpus
        if wanted.gpu:
            problems.append(Problem("gpu", "is for one kind: of several, `gpus` says how many there are of each"))
    else:
        found = {wanted.gpu: wanted.gpus} if wanted.gpu and wanted.gpus else {}
        problems += [Problem(f"--{name}", "is missing") for name in ("gpu", "gpus") if not getattr(wanted, name)]
    for name, count in found.items():
        if not 1 <= count <= GPUS_MAX:
            problems.append(Problem("gpus", f"{count} of {name}: must be 1 to {GPUS_MAX:,}"))
    return found


def prices_of(asked: Asked, gpus: Sequence[Gpu]) -> Prices:
    """Raises ConfigError where one of these GPUs has no price at a term that was asked for."""
    wanted = asked.wanted
    own = [read_prices(asked.base / wanted.prices, [gpu.name for gpu in gpus])] if wanted.prices else []
    given = {} if wanted.usd_per_hour is None else {gpu.name: wanted.usd_per_hour for gpu in gpus}
    prices = Prices((*own, public()), wanted.provider, given)
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
    if wanted.burst == wanted.term:
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
