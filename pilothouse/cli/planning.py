"""plan: a model, GPUs, a workload and objectives in; ranked fleets, reasons and a plan file out."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from msgspec import Meta, field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.cli.plan_page import write_page
from pilothouse.config.convert import convert
from pilothouse.config.load import read_yaml
from pilothouse.config.schema import Settings
from pilothouse.config.values import Duration
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.experiments.pool import cores
from pilothouse.perf.catalog import GPUS, MODELS, Gpu, Precision, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import KV_BYTES
from pilothouse.plan.asks import Asks, asks_of, by_clock
from pilothouse.plan.document import Confidence, Objective, Plan
from pilothouse.plan.model_source import find_gpu, find_model
from pilothouse.plan.plan_file import plan_text
from pilothouse.plan.prices import TERMS, Price, price_of, read_prices
from pilothouse.plan.rehearsal import Job, Rehearsed, confirmed, expected_of, job, rehearse
from pilothouse.plan.search import Found, Goal, Question, keeps, rank, search, titled
from pilothouse.plan.source import Source, read_source
from pilothouse.workload.requests import Planned, Workload

TRIED = 4  # plans that are simulated at a time: the best by sums
ROUNDS = 3  # of that, until one keeps its objectives
FOLLOWING = "requests that follow others come as they would if engines served nobody else, in sums and simulation"
SHOWN = 8  # lines of the table


class Wanted(Settings, frozen=True, kw_only=True):
    """What to plan for, as a file says it; the command line says the same and comes first."""

    model: Annotated[str, Meta(description="a model of the catalogue")] = ""
    gpu: Annotated[str, Meta(description="a GPU of the catalogue")] = ""
    gpus: Annotated[int, Meta(ge=0, le=4096, description="GPUs that there are")] = 0
    gpus_per_node: Annotated[int, Meta(ge=1, le=1024, description="GPUs with fast links to each other")] = 8
    workload: Annotated[Any, Meta(description="a workload, or the path of its file, of a trace or a journal")] = None
    rate: Annotated[float | None, Meta(gt=0, description="requests/s in busy times; default: the workload's own")] = (
        None
    )
    ttft: Annotated[Duration | None, Meta(description="time to first token, at `percentile`")] = None
    tpot: Annotated[Duration | None, Meta(description="time per output token, at `percentile`")] = None
    percentile: Annotated[int, Meta(ge=50, le=99, description="of the two")] = 95
    goal: Annotated[str, Meta(description="min-cost, max-goodput or min-gpus")] = Goal.MIN_COST.value
    precisions: Annotated[list[str], Meta(description="of the weights, that may be chosen")] = field(
        default_factory=lambda: ["bf16", "fp8"]
    )
    kv_precision: Annotated[str, Meta(description="of the KV cache: bf16, fp8, fp4")] = "bf16"
    prices: Annotated[str, Meta(description="file with prices of one's own")] = ""
    usd_per_hour: Annotated[float | None, Meta(gt=0, description="of one GPU, in place of any list")] = None
    term: Annotated[str, Meta(description="on_demand, reserved, spot or owned")] = "on_demand"
    follows: Annotated[
        int | None, Meta(ge=0, description="engines follow the load down to so many; default: all run all day")
    ] = None
    split: Annotated[bool, Meta(description="look at prefill and decode on engines of their own too")] = True


class Asked(msgspec.Struct, frozen=True):
    """What `plan` was asked beside."""

    wanted: Wanted
    base: Path  # paths of `wanted` are relative to this
    why: bool = False
    out: Path | None = None
    json: bool = False
    simulate: bool = True
    seed: int = 1
    page: Path | None = None


class Answer(msgspec.Struct, frozen=True):
    """As `--json` prints it."""

    plans: list[Plan]
    rejected: list[dict[str, str]]


def read_wanted(path: Path | None, given: dict[str, Any]) -> tuple[Wanted, Path]:
    """A file's wishes, with those of the command line in their place. Raises ConfigError."""
    data: Any = {}
    if path is not None:
        try:
            data = read_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Problem(str(path), f"cannot be read: {error}")]) from None
    if not isinstance(data, dict):
        raise ConfigError([Problem(str(path), "must be a mapping: model, gpu, gpus, workload ...")])
    said = {name: value for name, value in given.items() if value not in (None, "", [])}
    base = path.parent if path is not None else Path()
    if "workload" in said:
        said["workload"] = os.path.relpath(said["workload"], base)
    problems: list[Problem] = []
    wanted = convert(Wanted, data | said, "", problems)
    if problems or wanted is None:
        raise ConfigError([Problem(f"{path}: {p.where}" if path else p.where, p.what) for p in problems])
    return wanted, base


def plan(asked: Asked) -> None:
    question, source = _question(asked)
    found = search(question)
    console = Console(stderr=True)
    if asked.simulate and found.plans:
        found = _simulated(question, found, source.workload, asked, console)
    if asked.out is not None and found.plans:
        _write(asked.out, found.plans[0], asked.base)
    if asked.page is not None and found.plans:
        write_page(asked.page, question, found)
    if asked.json:
        rejected = [{"what": way.what, "why": way.why} for way in found.rejected]
        typer.echo(msgspec.json.format(msgspec.json.encode(Answer(found.plans, rejected)), indent=1).decode())
    else:
        show(question, found, source, asked.why)
    if not found.plans:
        raise PilothouseError(_nothing(question, found))
    for name, path in (("plan", asked.out), ("page", asked.page)):
        if path is not None and not asked.json:
            typer.echo(f"{name}: {path}")


def _question(asked: Asked) -> tuple[Question, Source]:
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
    limits = [None if limit is None else limit.seconds for limit in (wanted.ttft, wanted.tpot)]
    return Question(
        name=f"{model.name.rpartition('/')[2]} on {wanted.gpus} x {gpu.name}",
        model=model, gpu=gpu,
        model_said=model.name if model.name in MODELS else wanted.model,
        gpu_said=gpu.name if gpu.name in GPUS else wanted.gpu, gpus=wanted.gpus,
        asks=asks, objective=Objective(percentile=wanted.percentile, ttft_s=limits[0], tpot_s=limits[1]),
        workload=wanted.workload, goal=Goal(wanted.goal), price=_price(asked, gpu), precisions=tuple(precisions),
        kv_precision=wanted.kv_precision, gpus_per_node=wanted.gpus_per_node, split=wanted.split,
        follows=wanted.follows,
    ), source  # fmt: skip


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
    if not asks.rate:
        raise ConfigError([Problem("--rate", "is missing: all requests of this workload come at once")])
    return source, asks


def _source(asked: Asked, load: float) -> Source:
    said = asked.wanted.workload
    if isinstance(said, str):
        return read_source(asked.base / said, seed=asked.seed, load=load)
    return Source("workload", read_workload(said, asked.base).make(asked.seed, load))


def _price(asked: Asked, gpu: Gpu) -> Price | None:
    wanted = asked.wanted
    if wanted.usd_per_hour is not None:
        return Price(wanted.usd_per_hour, "as given")
    own = read_prices(asked.base / wanted.prices) if wanted.prices else None
    found = price_of(gpu, wanted.term, own)
    if found is None and wanted.term != "on_demand":
        what = f"no {wanted.term} price of {gpu.name} is known: give one in a file (--prices) or with --usd-per-hour"
        raise ConfigError([Problem("--term", what)])
    return found


def _simulated(question: Question, found: Found, workload: Workload, asked: Asked, console: Console) -> Found:
    """The best by sums first, until one of them keeps its objectives in simulation."""
    plans, done = list(found.plans), list[Plan]()
    for _ in range(ROUNDS):
        batch, plans = plans[:TRIED], plans[TRIED:]
        if not batch:
            break
        jobs = [job(p, question.model, question.gpu, question.asks, workload, asked.seed) for p in batch]
        done += [confirmed(p, did) for p, did in zip(batch, _rehearsed(jobs, console), strict=True)]
        if any(keeps(question.objective, expected_of(p)) for p in done):
            break

    def order(plan: Plan) -> tuple[Any, ...]:
        sure = expected_of(plan).confidence is Confidence.SIMULATED and keeps(question.objective, expected_of(plan))
        return not sure, *rank(question, plan)

    return Found(sorted([*done, *plans], key=order), found.rejected)


def _rehearsed(jobs: Sequence[Job], console: Console) -> list[Rehearsed]:
    """On all cores, each process started anew."""
    workers = min(cores(), len(jobs))
    if workers <= 1:
        return [rehearse(one) for one in jobs]
    done: list[Rehearsed] = []
    with (
        console.status(f"simulating {len(jobs)} plans") as status,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes,
    ):
        for one in processes.map(rehearse, jobs):
            done.append(one)
            status.update(f"simulating {len(jobs)} plans: {len(done)} done")
    return done


def _write(path: Path, plan: Plan, base: Path) -> None:
    """A workload's path is relative to the plan's own place."""
    workload = plan.workload
    if isinstance(workload, str):
        workload = os.path.relpath(base / workload, path.parent)
    try:
        path.write_text(plan_text(msgspec.structs.replace(plan, workload=workload)), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("-o", f"cannot write {path}: {error.strerror}")]) from None


def show(question: Question, found: Found, source: Source, why: bool) -> None:
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 220
    asks = question.asks
    mean = asks.demand
    said = f"{asks.rate:.3g} requests/s in busy times, {asks.rate_mean:.3g} in the mean"
    lengths = f"{mean.prompt_mean:,.0f} tokens in, {mean.output_mean:,.0f} out in the mean"
    console.print(Text(f"{question.name}: {source.name}: {said}; {lengths}", style="bold"), soft_wrap=True)
    if found.plans:
        console.print(_table(question, found.plans[:SHOWN]))
        for note in [*found.plans[0].why, *expected_of(found.plans[0]).notes]:
            console.print(Text(f"1: {note}", style="dim"), soft_wrap=True)
    if why:
        for way in found.rejected:
            console.print(Text(f"not {way.what}: {way.why}"), soft_wrap=True)
    for note in source.notes:
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def _table(question: Question, plans: Sequence[Plan]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    percentile = question.objective.percentile
    heads = (
        "", "fleet", "GPUs", f"TTFT p{percentile}", f"TPOT p{percentile}", "requests/s", "at most", "tokens/s", "KV tokens",
        "used", "USD/h", "USD/M in", "out", "blended", "bound", "confidence",
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head in ("fleet", "bound", "confidence") else "right")
    for i, plan in enumerate(plans, 1):
        found = expected_of(plan)
        costs = (found.usd_per_hour, found.usd_per_m_input, found.usd_per_m_output, found.usd_per_m)
        kept = keeps(question.objective, found)
        table.add_row(
            str(i), titled(plan.pools), str(plan.gpus), f"{found.ttft_s:.3g} s ±{found.ttft_band:.0%}",
            f"{found.tpot_s * 1e3:.3g} ms ±{found.tpot_band:.0%}", f"{found.requests_per_s:.3g}",
            f"{found.requests_per_s_max:.3g}", f"{found.output_per_s:,.0f}", f"{found.kv_tokens:,}",
            f"{found.utilisation:.0%}", *(f"{cost:.3g}" if question.price else "?" for cost in costs), found.bound.value,
            found.confidence.value + ("" if kept else ": misses an objective"), style="" if kept else "yellow",
        )  # fmt: skip
    return table


def _nothing(question: Question, found: Found) -> str:
    """Why there is no plan, and what would help."""
    tried = [way for way in found.rejected if way.tried] or found.rejected
    last = f": {tried[-1].what}: {tried[-1].why}" if tried else ""
    return f"no fleet of {question.gpus} x {question.gpu.name} keeps these objectives (--why lists all){last}"
