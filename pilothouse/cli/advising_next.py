"""advise next: what a fleet's own figures call for; one change, its numbers, how to verify it and how to roll it back."""

import re
import urllib.request
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from pilothouse.cli import advising_disaggregate as disaggregating
from pilothouse.cli.advising_disaggregate import given_by
from pilothouse.cli.showing import ask_gateway
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.core.units import Micros
from pilothouse.journal.log import segments
from pilothouse.plan import observed as reading
from pilothouse.plan.disaggregate import HEADROOM
from pilothouse.plan.growth import Advice, State, advise
from pilothouse.plan.growth_facts import Observed, Split
from pilothouse.plan.growth_steps import Step
from pilothouse.plan.machine import Wanted
from pilothouse.workload.outcomes import Objectives

ASK_TIMEOUT_S = 5
LINK_GB_PER_S, LINK_LATENCY_US = 40.0, Micros(2000)  # as `advise disaggregate` takes them where nobody says otherwise
KINDS = "a journal's directory, reports of `bench --json` or `sim --json`, or a running gateway's control address"


class Asked(msgspec.Struct, frozen=True):
    """What `advise next` was asked."""

    sources: list[str]
    replicas: list[int]  # of each report
    objectives: Objectives
    baseline_s: float
    tenants: int | None
    machine: Wanted | None  # on which a split is estimated; None = it is not
    label: str  # of what a journal recorded
    json: bool


def advise_next(asked: Asked) -> None:
    seen = _observed(asked)
    if asked.machine is not None:
        seen = msgspec.structs.replace(seen, split=_split(asked, asked.machine, seen))
    advice = advise(seen, asked.baseline_s)
    if asked.json:
        typer.echo(msgspec.json.format(msgspec.json.encode(advice), indent=1).decode())
        return
    _show(advice)


def _observed(asked: Asked) -> Observed:
    """Reports by themselves, or beside one fleet in service: then they say what more replicas gain."""
    reports = [Path(source) for source in asked.sources if Path(source).is_file()]
    others = [source for source in asked.sources if not Path(source).is_file()]
    if gone := [source for source in others if source.endswith(".json") and not Path(source).exists()]:
        raise ConfigError([Problem("SOURCE", f"{source} does not exist") for source in gone])
    if not others:
        return reading.of_reports(reports, asked.replicas, asked.objectives, asked.tenants)
    if len(others) > 1:
        raise ConfigError(
            [Problem("SOURCE", f"{' and '.join(others)} are two: name one of these, and reports beside it")]
        )
    seen = _in_service(asked, others[0])
    return reading.with_reports(seen, reports, asked.replicas) if reports else seen


def _in_service(asked: Asked, source: str) -> Observed:
    path = Path(source)
    if path.is_dir() and segments(path):
        return reading.of_journal(path, asked.objectives, asked.tenants, asked.label)
    source = source.removeprefix("http://").rstrip("/")
    if path.exists() or not re.fullmatch(r".+:\d{1,5}", source):
        raise ConfigError([Problem("SOURCE", f"{source} is none of these: {KINDS}")])
    try:
        status = ask_gateway(source, "/status")
    except PilothouseError as error:
        raise PilothouseError(
            f"{error}; it must be a gateway's control address (`control` in pilothouse.yaml)"
        ) from None
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{source}/metrics", timeout=ASK_TIMEOUT_S) as answer:
            text, date = answer.read().decode(), answer.headers.get("date", "")
    except (OSError, ValueError) as error:
        raise PilothouseError(f"{source}/metrics: {error}") from None
    return reading.of_gateway(source, status, text, date, asked.objectives, asked.tenants)


def _split(asked: Asked, wanted: Wanted, seen: Observed) -> Split:
    """What `advise disaggregate` estimates, without its trial."""
    if not seen.is_service:
        raise ConfigError([Problem("--model", "is of no use with reports: they do not say what each request needs")])
    if asked.objectives.tpot_us is None:
        raise ConfigError([Problem("--objectives", "has no tpot: how large a batch may be depends on it")])
    if seen.models is not None and len(seen.models) > 1:
        what = f"the estimate is of one model, and there are {', '.join(seen.models)}: leave --model and --gpu out"
        raise ConfigError([Problem("--model", what)])
    estimate = given_by(
        disaggregating.Asked(
            seen.asked, wanted, wanted, {}, asked.objectives, LINK_GB_PER_S, LINK_LATENCY_US, HEADROOM, None, 1,
            False, "", 1, 1.0, False,
        )
    ).estimate  # fmt: skip
    return Split(estimate.pays, estimate.verdict)


def _show(advice: Advice) -> None:
    console = Console()
    style = "green" if advice.step is Step.NOTHING else "yellow"

    def line(words: str, style: str = "") -> None:
        console.print(Text(words, style=style), soft_wrap=True)

    unknown = [check for check in advice.checks if check.state is State.UNKNOWN]
    partly = ", as far as is known" if advice.step is Step.NOTHING and unknown else ""
    line(f"next: {advice.step}{partly}", f"bold {style}")
    for number in advice.numbers:
        line(f"- {number} [{advice.label}]" if not number.endswith("]") else f"- {number}")
    line(f"change: {advice.change}")
    line(f"verify: {advice.verify}")
    line(f"roll back: {advice.roll_back}")
    line("the path:", "dim")
    for check in advice.checks:
        said = "; ".join([*check.numbers, *([check.why] if check.why else [])]) or "no figures"
        wanted = f"; wanted: {check.missing}" if check.state is State.UNKNOWN else ""
        line(f"  {check.step}: {check.state}: {said}{wanted}", "dim")
    for note in [f"source: {advice.source}", *advice.notes]:
        line(f"note: {note}", "dim" if note.startswith("source") else "")
