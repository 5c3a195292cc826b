"""bench: a workload file sent to a server; progress while it runs, a table at the end, files for later."""

import os
import resource
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import typer
import uvloop
from rich.console import Console

from pilothouse.bench.load import StageLoad
from pilothouse.bench.run import Bench, Origin, run_until_stopped, shorten
from pilothouse.bench.settings import Api, Prompts, Settings
from pilothouse.config.values import Duration
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.report.files import Saved, save
from pilothouse.report.page import check_extra, write_page
from pilothouse.report.tables import print_runs
from pilothouse.workload.outcomes import Objectives, Run
from pilothouse.workload.requests import Workload

console = Console(stderr=True)
if not console.is_terminal:
    console.width = 160
LINE_EVERY = 10  # of the progress lines that come once a second, where each stays on the screen
FILES_ASIDE = 256  # open files that are not streams
LABELS = ("Measured", "Emulated")
OBJECTIVES = ("ttft", "tpot", "e2e")
SOURCE_MAX = 40_000  # characters of a workload file that a report quotes
STOPPED = 130  # exit status after Ctrl-C, as a shell expects it


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What `bench` was asked for."""

    url: str
    workload: Path
    load: float
    seed: int
    model: str
    requests_max: int | None
    page: Path | None
    json: Path | None
    api: str
    prompts: str
    vocabulary: str
    tokenizer: str
    label: str
    api_key_env: str
    timeout: str
    objectives: str
    concurrency_max: int


def bench(wanted: Wanted) -> None:
    """Everything that can be wrong without asking the server is said first."""
    problems: list[Problem] = []
    settings = _settings(wanted, problems)
    if not wanted.load > 0:
        problems.append(Problem("--load", "must be above 0"))
    for option, path in (("--out", wanted.page), ("--json", wanted.json)):
        if path is not None and not path.absolute().parent.is_dir():
            problems.append(Problem(option, f"there is no directory {path.absolute().parent}"))
    workload = _workload(wanted, problems)
    if problems or settings is None or workload is None:
        raise ConfigError(problems)
    if wanted.page is not None:
        check_extra()
    _allow_connections(wanted.concurrency_max)
    requests = sum(len(stage.requests) for stage in workload.stages)
    console.print(f"{wanted.url}: {requests} requests in {len(workload.stages)} stages", highlight=False)
    runner = Bench(workload, settings, Origin(wanted.workload.stem, wanted.load, wanted.seed), _Progress().tell)
    run = uvloop.run(run_until_stopped(runner))
    _show(run, wanted)
    if runner.stopped:
        raise typer.Exit(STOPPED)
    if run.stages and all(stage.summary.requests == stage.summary.refused for stage in run.stages):
        raise PilothouseError(f"{wanted.url}: not one request was served; why is above")


def _allow_connections(count: int) -> None:
    """Every stream is an open file; shells often allow a thousand and would let us have more."""
    wanted = 2 * count + FILES_ASIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and soft != resource.RLIM_INFINITY:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < count:
            console.print(f"this system allows {allowed} open files: no more streams than that", style="yellow")


def _settings(wanted: Wanted, problems: list[Problem]) -> Settings | None:
    before = len(problems)
    base = wanted.url.rstrip("/").removesuffix("/v1")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        problems.append(Problem("URL", f"{wanted.url!r} is not http://host:port"))
    if wanted.api not in list(Api):
        problems.append(Problem("--api", f"unknown API {wanted.api!r}, known: {', '.join(Api)}"))
    prompts = wanted.prompts or (Prompts.TOKENS if wanted.api == Api.COMPLETIONS else Prompts.TEXT)
    if prompts not in list(Prompts):
        problems.append(Problem("--prompts", f"unknown kind {prompts!r}, known: {', '.join(Prompts)}"))
    elif prompts == Prompts.TOKENS and wanted.api == Api.CHAT:
        problems.append(Problem("--prompts", "token ids cannot be sent to the chat API: add --api completions"))
    if wanted.label not in LABELS:
        problems.append(Problem("--label", f"unknown label {wanted.label!r}, known: {', '.join(LABELS)}"))
    key = os.environ.get(wanted.api_key_env) if wanted.api_key_env else None
    if wanted.api_key_env and not key:
        problems.append(Problem("--api-key-env", f"the environment has no variable {wanted.api_key_env}"))
    if wanted.tokenizer and not Path(wanted.tokenizer).is_dir():
        problems.append(Problem("--tokenizer", f"there is no directory {wanted.tokenizer}"))
    timeout = _duration("--timeout", wanted.timeout, problems)
    objectives = objectives_of(wanted.objectives, problems)
    vocabulary = _vocabulary(wanted.vocabulary, problems)
    if len(problems) > before:
        return None
    return Settings(
        url=base, model=wanted.model, api=Api(wanted.api), prompts=Prompts(prompts), tokenizer=wanted.tokenizer,
        vocabulary=vocabulary, key=key, label=wanted.label, objectives=objectives, timeout_us=timeout.us,
        concurrency_max=wanted.concurrency_max,
    )  # fmt: skip


def _workload(wanted: Wanted, problems: list[Problem]) -> Workload | None:
    try:
        workload = read_workload(wanted.workload, Path()).make(wanted.seed, wanted.load)
    except ConfigError as error:
        problems += error.problems
        return None
    except ValueError:  # a load that is no factor, of which the caller has spoken
        return None
    if wanted.requests_max is not None:
        workload = shorten(workload, wanted.requests_max)
    if not any(stage.requests for stage in workload.stages):
        problems.append(Problem("--workload", f"{wanted.workload} makes no request"))
    return workload


def _duration(option: str, text: str, problems: list[Problem]) -> Duration:
    try:
        value = Duration.parse(text)
    except ValueError as error:
        problems.append(Problem(option, str(error)))
        return Duration(1)
    if value <= 0:
        problems.append(Problem(option, "must be above 0"))
    return value


def objectives_of(text: str, problems: list[Problem]) -> Objectives:
    limits = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        if name not in OBJECTIVES:
            problems.append(Problem("--objectives", f"unknown objective {name!r}, known: {', '.join(OBJECTIVES)}"))
        else:
            limits[f"{name}_us"] = _duration(f"--objectives {name}", value, problems).us
    return Objectives(**limits)


def _vocabulary(text: str, problems: list[Problem]) -> tuple[int, int] | None:
    """FIRST-LAST, or a size: then all ids from a thousand on, below which special tokens lie in common vocabularies."""
    if not text:
        return None
    first, dash, last = text.partition("-")
    try:
        found = (int(first), int(last)) if dash else (min(1000, int(first) // 4), int(first) - 1)
    except ValueError:
        found = (0, 0)
    if not 0 <= found[0] < found[1] < 1 << 31:
        problems.append(Problem("--vocab", f"{text!r} is neither a size such as 151936 nor a range such as 1000-30000"))
    return found


class _Progress:
    """One moving line on a terminal, a line every ten seconds elsewhere. No thread: it would delay the sending."""

    def __init__(self) -> None:
        self._told = 0

    def tell(self, load: StageLoad, stages: int) -> None:
        self._told += 1
        counts = load.counts
        line = (
            f"{load.stage.name} (of {stages} stages), {load.seconds:.0f} s: {counts.sent} of {len(load.stage.requests)} sent, "
            f"{len(load.in_flight)} in flight, {counts.served} answered, {counts.failed} failed"
        )
        if console.is_terminal:
            console.print(line[: console.width - 1].ljust(console.width - 1), end="\r", highlight=False, markup=False)
        elif self._told % LINE_EVERY == 0:
            console.print(line, highlight=False, markup=False)


def _show(run: Run, wanted: Wanted) -> None:
    if console.is_terminal:
        console.print(" " * (console.width - 1), end="\r")
    tables = console if str(wanted.json) == "-" else Console(width=None if console.is_terminal else console.width)
    print_runs([run], tables)
    for note in [] if run.stages else run.notes:  # stopped before the first stage that is reported
        tables.print(f"note: {note}", style="dim", highlight=False, markup=False, soft_wrap=True)
    for stage in run.stages:
        s = stage.summary
        if s.steady_seconds:
            tables.print(
                f"{stage.name}: {s.output_per_second:.0f} output tokens/s over send + drain ({s.seconds:.1f} s), "
                f"{s.steady_output_per_second:.0f} over the steady window ({s.steady_seconds:.1f} s)",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        for why, count in s.errors.items():
            tables.print(f"{stage.name}: {count} x {why}", style="red", highlight=False, markup=False, soft_wrap=True)
    source = wanted.workload.read_text(encoding="utf-8", errors="replace")[:SOURCE_MAX]
    saved = Saved([run], _command(wanted), source)
    if str(wanted.json) == "-":
        typer.echo(msgspec.json.encode(saved))
    elif wanted.json is not None:
        save(saved, wanted.json)
    if wanted.page is not None and run.stages:
        write_page([run], wanted.page, saved)
        console.print(f"report: {wanted.page}", highlight=False, markup=False)


def _command(wanted: Wanted) -> str:
    """What makes this run again."""
    parts = ["pilothouse", "bench", wanted.url, "--workload", str(wanted.workload), "--api", wanted.api]
    for option, value in (("--prompts", wanted.prompts), ("--objectives", wanted.objectives)):
        parts += [option, value] if value else []
    return shlex.join([*parts, "--load", f"{wanted.load:g}", "--seed", str(wanted.seed)])
