"""The workload that is planned for: read, asked of Prometheus or made of lengths, and put to a clock."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from pilothouse.cli.plan_wanted import Asked, Wanted
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.step_time import StepTime
from pilothouse.plan import prometheus
from pilothouse.plan.asks import Asks, asks_of, by_clock, closed_of, spread
from pilothouse.plan.described import workload_of
from pilothouse.plan.document import Objective
from pilothouse.plan.prometheus import address, is_prometheus
from pilothouse.plan.source import Source, read_given
from pilothouse.workload.requests import Planned, total_requests

MISSING = "is missing: give a file, a trace, a journal, prometheus:URL, or --prompt-tokens, --output-tokens and --rate"
BY_CLOCK = "users wait for their answers no more: their requests come at the rate that is asked for, as Poisson's do"
PLAYED_MAX = 500_000  # requests of a workload: some GB of memory, half a minute
FOLLOWING = "requests that follow others come as they would if engines served nobody else, in sums and simulation"


def missing_workload(wanted: Wanted) -> list[Problem]:
    described = any((wanted.prompt_tokens, wanted.output_tokens, wanted.concurrency, wanted.shared_prefix))
    if wanted.workload and described:
        return [Problem("--workload", "is given, and lengths or concurrency as well: which is it?")]
    if not (wanted.workload or described):
        return [Problem("--workload", MISSING)]
    needless = [("--served-name", "a journal or Prometheus")] if described and wanted.served_name else []
    if not is_prometheus(wanted.workload):
        times = (("--window", wanted.window, prometheus.WINDOW), ("--step", wanted.step, prometheus.STEP))
        needless += [(option, "Prometheus") for option, said, usual in times if said != usual]
    return [Problem(option, f"is for a workload of {source}") for option, source in needless]


def asks_for(asked: Asked, times: StepTime) -> tuple[Source, Asks]:
    """(requests, what they ask). `times`: of an engine, for requests that follow others.

    They come by the clock, unless all of them are of users who wait for each answer, and no rate is asked for.
    """
    wanted, source_at = asked.wanted, _reader(asked)

    def lasts(planned: Planned) -> float:
        return times.p_us * planned.prompt_tokens + times.a_us * planned.output_tokens

    def clocked(found: Source) -> Source:
        workload = by_clock(found.workload, lasts)
        if closed is not None:
            return replace(found, workload=spread(workload, asked.seed), notes=[*found.notes, BY_CLOCK])
        follows = any(planned.after is not None for stage in found.workload.stages for planned in stage.requests)
        return replace(found, workload=workload, notes=[*found.notes, *([FOLLOWING] if follows else [])])

    first = source_at(1.0)
    closed = closed_of(first.workload, lasts)
    source = clocked(first)
    asks = asks_of(source.workload, closed=closed)
    if wanted.rate is None and closed is not None:
        return first, asks
    if wanted.rate is not None:
        factor = wanted.rate / asks.rate if asks.rate else 1.0
        _few_enough(first, source_at, factor, wanted.rate)
        source = clocked(source_at(factor))
        asks = asks_of(source.workload, wanted.rate)
    if not (asks.rate or asked.at_once):
        raise ConfigError([Problem("--rate", "is missing: all requests of this workload come at once")])
    return source, asks


def _few_enough(first: Source, source_at: Callable[[float], Source], factor: float, rate: float) -> None:
    """Raises ConfigError for a rate at which the workload would not fit in memory. Traces are only played faster."""
    made = total_requests(first.workload.stages)
    if made * factor <= PLAYED_MAX or total_requests(source_at(2.0).workload.stages) < 1.5 * made:
        return
    what = (
        f"{rate:g} requests/s of this workload are {made * factor:,.0f} requests, and {PLAYED_MAX:,} can be planned for"
    )
    raise ConfigError([Problem("--rate", f"{what}: shorten it, or give --prompt-tokens and --output-tokens instead")])


def classes_for(wanted: Wanted, asks: Asks) -> dict[str, Objective]:
    """Of tenants that have objectives of their own."""
    found, problems = dict[str, Objective](), list[Problem]()
    there = f"which has: {', '.join(asks.classes)}" if asks.classes else "which has none: only a mix has tenants"
    for name, own in wanted.classes.items():
        if name not in asks.classes:
            problems.append(Problem(f"classes.{name}", f"is no tenant of the workload, {there}"))
        ttft, tpot = (None if limit is None else limit.seconds for limit in (own.ttft, own.tpot))
        found[name] = Objective(percentile=own.percentile or wanted.percentile, ttft_s=ttft, tpot_s=tpot)
    if problems:
        raise ConfigError(problems)
    return found


def _reader(asked: Asked) -> Callable[[float], Source]:
    """What gives the requests at a factor on their rate. Prometheus is asked once."""
    wanted, name, notes = asked.wanted, "workload", list[str]()
    said: Any = wanted.workload
    if is_prometheus(said):
        name = said
        said, notes = prometheus.read(prometheus.Wanted(address(said), wanted.served_name, wanted.window, wanted.step))
    elif not said:
        name, lengths = "as described", (str(wanted.prompt_tokens), str(wanted.output_tokens))
        said, notes = workload_of(*lengths, wanted.rate, wanted.concurrency, str(wanted.shared_prefix))
    if isinstance(said, str):
        return lambda load: _named(
            said, read_given("workload", asked.base / said, wanted.served_name, asked.seed, load)
        )
    recipe = read_workload(said, asked.base)
    return lambda load: Source(name, recipe.make(asked.seed, load), notes, said=said)


def _named(path: str, source: Source) -> Source:
    """How a plan says it: by its path, unless it is a bare trace."""
    return replace(source, said=path if source.said is None else source.said | {"file": path})
