"""advise disaggregate: a workload and hardware in; yes or no, pool sizes and the reasons out, after a trial in simulation."""

import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilothouse.bench.run import shorten
from pilothouse.build import Setting, ran
from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.core.units import Micros
from pilothouse.plan import need as needs
from pilothouse.plan.disaggregate import FleetPlan, Need, SplitAdvice, Terms, advise_split
from pilothouse.plan.machine import Machine, Wanted, lasts, machine
from pilothouse.plan.source import read_source
from pilothouse.plan.trial import Machines, Simulate, Trial, fleets, settled, tried
from pilothouse.policies.profiles import DEFAULT
from pilothouse.report.tables import print_runs
from pilothouse.sim.world import Fleet
from pilothouse.workload.demand import context_mean, survey
from pilothouse.workload.outcomes import Objectives, Run
from pilothouse.workload.requests import Workload

ROUNDS = 8  # of hit rate and fleet size, which depend on each other
ASK_TIMEOUT_S = 5


class Asked(msgspec.Struct, frozen=True):
    """What `advise disaggregate` was asked."""

    source: str  # a path, or a control address
    decode: Wanted
    prefill: Wanted
    prices: dict[str, float]
    objectives: Objectives
    link_gb_per_s: float
    link_latency_us: Micros
    headroom: float
    rate: float | None
    requests_max: int
    simulate: bool
    served: str
    seed: int
    load: float
    json: bool


class Answer(msgspec.Struct, frozen=True):
    """All of it."""

    source: str
    pays: bool
    verdict: str
    label: str  # of the verdict
    hit_ratio: float
    estimate: SplitAdvice
    trials: list[Trial]
    notes: list[str]


class Given(msgspec.Struct, frozen=True):
    """The source as this question needs it."""

    name: str
    workload: Workload  # for trials
    machines: Machines
    estimate: SplitAdvice
    hit_ratio: float
    notes: list[str]


def given_by(asked: Asked) -> Given:
    return _of_path(asked) if Path(asked.source).exists() or ":" not in asked.source else _of_gateway(asked)


def disaggregate(asked: Asked) -> None:
    given = given_by(asked)
    answer, runs = _tried(asked, given)
    if asked.json:
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())
        return
    _show(answer, runs)


def _of_path(asked: Asked) -> Given:
    source = read_source(Path(asked.source), asked.served, asked.seed, asked.load)
    workload = source.workload
    machines = _machines(asked, context_mean(workload))
    found = survey(workload, lasts(machines.both))
    asks = found.demand
    rate = asked.rate or asks.rate
    if not rate:
        raise ConfigError([Problem("--rate", "is missing: all requests of this source come at once")])
    if source.cached_ratio is not None:
        hit, said = source.cached_ratio, f"hit rate as the engines reported, {source.cached_ratio:.1%} [Measured]"
        estimate = advise_split(needs.need(asks, hit, rate), *_each(machines), _terms(asked))
    else:
        tokens = machines.both.kv_tokens  # of a first guess, one engine
        hit = needs.hits(found.curve, asks, tokens, workload.block_size)
        for _ in range(ROUNDS):
            estimate = advise_split(needs.need(asks, hit, rate), *_each(machines), _terms(asked))
            plan = estimate.together or estimate.apart
            held = sum(pool.engines for pool in plan.pools) * machines.both.kv_tokens if plan else tokens
            if held == tokens:
                break
            tokens, hit = held, needs.hits(found.curve, asks, held, workload.block_size)
        estimate = advise_split(needs.need(asks, hit, rate), *_each(machines), _terms(asked))
        said = f"hit rate {hit:.1%} by the hit curve at {tokens:,} tokens of HBM [Estimated]"
    notes = [said, *source.notes]
    if asks.closed and asked.rate is None:
        notes.append(
            f"requests follow the end of others: {rate:.3g} requests/s as an engine that nobody else uses has them"
        )
    return Given(source.name, shorten(workload, asked.requests_max), machines, estimate, hit, notes)


def _of_gateway(asked: Asked) -> Given:
    url = f"http://{asked.source.removeprefix('http://')}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=ASK_TIMEOUT_S) as answer:
            text, date = answer.read().decode(), answer.headers.get("date", "")
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise PilothouseError(f"no gateway's control address answers at {asked.source}: {error}") from None
    mean, hit = needs.measured(text, date)
    mean = msgspec.structs.replace(mean, rate=(asked.rate or mean.rate) * asked.load)
    machines = _machines(asked, mean.context_tokens)
    estimate = advise_split(mean, *_each(machines), _terms(asked))
    notes = [
        (
            f"lengths, rate and hit rate ({hit:.1%}) of the gateway since it started [Measured]; requests of the trials have "
            "these means, and lengths from half to one and a half of them: a journal tells more"
        )
    ]
    return Given(asked.source, needs.alike(mean, asked.requests_max, asked.seed), machines, estimate, hit, notes)


def _each(machines: Machines) -> tuple[Machine, Machine, Machine]:
    return machines.both, machines.prefill, machines.decode


def _terms(asked: Asked) -> Terms:
    assert asked.objectives.tpot_us is not None
    return Terms(asked.objectives.tpot_us, asked.link_gb_per_s, asked.link_latency_us, asked.headroom)


def _machines(asked: Asked, context: float) -> Machines:
    decode, prefill = machine(asked.decode, asked.prices, context), machine(asked.prefill, asked.prices, context)
    unpriced = [m.gpu for m in (prefill, decode) if m.usd_h is None]
    if unpriced and prefill.gpu != decode.gpu:
        what = f"is missing for {unpriced[0]}: unlike GPUs are compared by what they cost, e.g. --price {unpriced[0]}=2"
        raise ConfigError([Problem("--price", what)])
    return Machines(decode, prefill, decode)


def _tried(asked: Asked, given: Given) -> tuple[Answer, list[Run]]:
    estimate, trials, runs = given.estimate, list[Trial](), list[Run]()
    notes = [*given.notes, *_hardware(given.machines)]
    if asked.simulate:
        plans = fleets(estimate, given.machines)
        status = Console(stderr=True)
        for plan in plans:
            with status.status(f"simulating {plan.name}"):
                trial, run = tried(plan, given.machines, given.workload, asked.objectives, estimate, _simulate(asked))
            trials.append(trial)
            runs.append(run)
    pays, verdict, label = estimate.pays, f"{estimate.verdict} [Estimated]", "Estimated"
    if trials:
        (pays, verdict), label = settled(estimate, trials), trials[0].label
    return Answer(given.name, pays, verdict, label, given.hit_ratio, estimate, trials, notes), runs


def _simulate(asked: Asked) -> Simulate:
    def run(fleet: Fleet, workload: Workload, setting: Setting) -> Run:
        return ran(fleet, workload, DEFAULT, setting, 1.0, asked.seed)

    return run


def _hardware(machines: Machines) -> list[str]:
    said = []
    for made in _each(machines):
        off = "" if made.step_time.error is None else f" (error {made.step_time.error:.0%})"
        price = made.price if made.usd_h is None else f"{made.usd_h:.3g} USD/h a GPU: {made.price}"
        times = f"step times {made.step_time.label}{off}: {made.step_time.source}"
        said.append(f"{made.title}: {made.kv_tokens:,} KV tokens [Estimated]; {price}; {times}")
    return list(dict.fromkeys(said))


def _show(answer: Answer, runs: list[Run]) -> None:
    console = Console()
    if not console.is_terminal:  # in a file or a pipe nobody folds lines at 80 columns
        console.width = 200
    mean = answer.estimate.need
    console.print(Text(_asks(answer.source, mean), style="bold"), soft_wrap=True)
    console.print(_fleets(answer.estimate))
    if runs:
        print_runs(runs, console)
    for reason in answer.estimate.reasons:
        console.print(Text(f"- {reason}"), soft_wrap=True)
    console.print(Text(f"estimate: {answer.estimate.verdict}"), soft_wrap=True)
    console.print(Text(f"split? {answer.verdict}", style="green" if answer.pays else "yellow"), soft_wrap=True)
    for note in answer.notes:
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)


def _asks(name: str, mean: Need) -> str:
    lengths = f"{mean.prompt_tokens:,.0f} tokens in, {mean.output_tokens:,.0f} out"
    return f"{name}: {mean.rate:.3g} requests/s of {lengths} in the mean"


def _fleets(estimate: SplitAdvice) -> Table:
    """Load is in engines that are busy all the time."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("fleet", "pool", "engines", "GPUs", "load", "batch", "USD/h"):
        table.add_column(head, justify="left" if head in ("fleet", "pool") else "right")
    plans: list[FleetPlan] = [plan for plan in (estimate.together, estimate.apart) if plan is not None]
    for plan in plans:
        for i, pool in enumerate(plan.pools):
            table.add_row(
                ("together" if len(plan.pools) == 1 else "apart") if i == 0 else "",
                pool.role,
                str(pool.engines),
                str(pool.gpus),
                f"{pool.load:.2f}",
                str(pool.batch or ""),
                "?" if pool.usd_h is None else f"{pool.usd_h:.4g}",
            )
    return table
