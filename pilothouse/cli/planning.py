"""plan: a model, GPUs, a workload and objectives in; ranked fleets, reasons and a plan file out."""

import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import typer
from rich.console import Console

from pilothouse.cli.plan_page import write_page
from pilothouse.cli.plan_question import question_of
from pilothouse.cli.plan_table import show, show_divisions
from pilothouse.cli.plan_wanted import Asked
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.experiments.pool import cores
from pilothouse.plan.analytic import INFINITE
from pilothouse.plan.division import Division, divisions
from pilothouse.plan.document import Confidence, Plan
from pilothouse.plan.plan_file import moved, plan_text
from pilothouse.plan.promise import expected_of, keeps
from pilothouse.plan.question import Question
from pilothouse.plan.rehearsal import Job, Rehearsed, confirmed, job, rehearse
from pilothouse.plan.search import Found, rank, search
from pilothouse.workload.requests import Workload

STOPS = (signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends processes without a word of each
TRIED = 4  # plans that are simulated at a time: the best by sums
ROUNDS = 3  # of that, until one keeps its objectives


class Answer(msgspec.Struct, frozen=True):
    """As `--json` prints it."""

    plans: list[Plan]
    rejected: list[dict[str, str]]
    divisions: list[Division] = []  # one fleet for all classes of requests, or several: cheapest first


def plan(asked: Asked) -> None:
    question, source = question_of(asked)
    found = search(question)
    divided = divisions(question, source.workload, found.plans)
    console = Console(stderr=True)
    if asked.simulate and found.plans:
        found = _simulated(question, found, source.workload, asked, console)
    if asked.json:
        rejected = [{"what": way.what, "why": way.why} for way in found.rejected]
        typer.echo(msgspec.json.format(msgspec.json.encode(Answer(found.plans, rejected, divided)), indent=1).decode())
    else:
        show(question, found, source, asked.why)
        show_divisions(question, divided, asked.why)
    if not found.plans:
        raise PilothouseError(_nothing(question, found))
    if asked.out is not None:  # what was found is on the screen already, should it not be possible to write it
        write_plan(asked.out, found.plans[0], asked.base)
    if asked.page is not None:
        write_page(asked.page, question, found, question.hardware)
    for name, path in (("plan", asked.out), ("page", asked.page)):
        if path is not None and not asked.json:
            typer.echo(f"{name}: {path}")


def _simulated(question: Question, found: Found, workload: Workload, asked: Asked, console: Console) -> Found:
    """The best by sums first, until one of them keeps its objectives in simulation."""
    plans, done = list(found.plans), list[Plan]()
    for _ in range(ROUNDS):
        batch, plans = plans[:TRIED], plans[TRIED:]
        if not batch:
            break
        jobs = [job(p, question.hardware, question.asks, workload, asked.seed) for p in batch]
        done += [confirmed(p, did) for p, did in zip(batch, rehearsed(jobs, console), strict=True)]
        if any(keeps(question.objective, expected_of(p)) for p in done):
            break

    def order(plan: Plan) -> tuple[Any, ...]:
        sure = expected_of(plan).confidence is Confidence.SIMULATED and keeps(question.objective, expected_of(plan))
        return not sure, *rank(question, plan)

    return Found(sorted([*done, *plans], key=order), found.rejected)


def rehearsed(jobs: Sequence[Job], console: Console) -> list[Rehearsed]:
    """On all cores, each process started anew."""
    workers = min(cores(), len(jobs))
    if workers <= 1:
        return [rehearse(one) for one in jobs]
    done: list[Rehearsed] = []
    with (
        console.status(f"simulating {len(jobs)} plans") as status,
        ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, STOPS) as processes,
    ):
        for one in processes.map(rehearse, jobs):
            done.append(one)
            status.update(f"simulating {len(jobs)} plans: {len(done)} done")
    return done


def write_plan(path: Path, plan: Plan, base: Path) -> None:
    """A workload's path is relative to the plan's own place."""
    workload = moved(plan.workload, base, path.parent)
    if plan.expected is not None and max(plan.expected.ttft_s, plan.expected.tpot_s) == INFINITE:
        plan = msgspec.structs.replace(plan, expected=None)  # some get no answer: there is nothing to expect
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(plan_text(msgspec.structs.replace(plan, workload=workload)), encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("-o", f"cannot write {path}: {error.strerror}")]) from None


def _nothing(question: Question, found: Found) -> str:
    """Why there is no plan, and what would help."""
    tried = [way for way in found.rejected if way.tried] or found.rejected
    last = f": {tried[-1].what}: {tried[-1].why}" if tried else ""
    return f"no fleet of {question.said} keeps these objectives (--why lists all){last}"
