"""advise: what to change about a fleet, and why. Each question is a command; its work is done in `plan/`."""

from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.benching import LABELS, objectives_of
from pilothouse.cli.problems import exits_with_problems
from pilothouse.config.values import Duration
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.outcomes import Objectives

advise_app = typer.Typer(no_args_is_help=True, help="What to change, and why.")

SourceArgument = Annotated[
    Path,
    typer.Argument(help="journal directory, trace (*.jsonl, *.csv, agents' *.json), workload or scenario (*.yaml)"),
]
ModelOption = Annotated[str, typer.Option(help="a model of the catalogue, e.g. qwen3-32b")]
TpOption = Annotated[int, typer.Option(min=1, help="tensor-parallel degree: GPUs of one engine")]
PrecisionOption = Annotated[str, typer.Option(help="of the weights: bf16, fp8, fp4, int4")]
StepTimeOption = Annotated[
    Path | None, typer.Option(help="file of `pilothouse calibrate`; default: measured or estimated coefficients")
]
ServedOption = Annotated[str, typer.Option(help="which model of a journal, where several are on different engines")]
SeedOption = Annotated[int, typer.Option(help="of a workload file")]
LoadOption = Annotated[float, typer.Option(help="factor on the workload's own rate")]
JsonOption = Annotated[bool, typer.Option("--json", help="as JSON")]


@advise_app.callback()
def questions() -> None:
    """What to change, and why."""


@advise_app.command()
@exits_with_problems
def speculative(
    source: Annotated[Path, typer.Argument(help="journal directory, trace, workload or scenario file")],
    model: Annotated[str, typer.Option(help="a model of the catalogue, e.g. qwen3-32b")],
    gpu: Annotated[str, typer.Option(help="a GPU of the catalogue, e.g. h100")],
    tp: Annotated[int, typer.Option(min=1, help="tensor-parallel degree: GPUs of one engine")] = 1,
    precision: Annotated[str, typer.Option(help="of the weights: bf16, fp8, fp4, int4")] = "bf16",
    replicas: Annotated[int, typer.Option(min=0, help="engines; default: as many as the source knows, or 1")] = 0,
    work: Annotated[
        str, typer.Option(help="chat, code, summarise, agentic: what published acceptance to take")
    ] = "chat",
    gateway: Annotated[
        str, typer.Option(help="control address of a running gateway, whose engines speculate already")
    ] = "",
    draft_tokens: Annotated[
        int, typer.Option(min=1, max=32, help="what engines that speculate already draft per step")
    ] = 3,
    step_time: Annotated[
        Path | None, typer.Option(help="file of `pilothouse calibrate`, without speculation; default: estimated")
    ] = None,
    served_name: Annotated[str, typer.Option(help="which model of a journal")] = "",
    seed: Annotated[int, typer.Option(help="of a workload file")] = 1,
    load: Annotated[float, typer.Option(help="factor on the workload's own rate")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Does speculative decoding pay for this workload, and with which method? Acceptance measured where there is any."""
    from pilothouse.cli.advising_speculative import Asked
    from pilothouse.cli.advising_speculative import speculative as answer
    from pilothouse.plan.machine import Wanted

    wanted = Wanted(model, gpu, tp, precision, step_time)
    answer(Asked(source, wanted, replicas, work, served_name, gateway, draft_tokens, seed, load, as_json))


@advise_app.command()
@exits_with_problems
def tiers(
    source: SourceArgument,
    model: ModelOption = "",
    gpu: Annotated[str, typer.Option(help="a GPU of the catalogue, e.g. h100")] = "",
    tp: TpOption = 1,
    precision: PrecisionOption = "bf16",
    replicas: Annotated[int, typer.Option(min=0, help="engines; default: as many as the source knows, or 1")] = 0,
    step_time: StepTimeOption = None,
    hbm_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="KV tokens that all engines hold now; default: as the source or model says"),
    ] = None,
    dram_gb: Annotated[float | None, typer.Option(help="DRAM for KV, of each GPU; 0 = none")] = None,
    disk_gb: Annotated[float | None, typer.Option(help="disk for KV, of each GPU; 0 = none")] = None,
    served_name: ServedOption = "",
    seed: SeedOption = 1,
    load: LoadOption = 1.0,
    page: Annotated[Path | None, typer.Option(help="write the curve here (HTML)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Would a larger cache be hit more often, and is it worth having KV in DRAM, on disk, or in a shared store?"""
    from pilothouse.cli.advising_tiers import Asked
    from pilothouse.cli.advising_tiers import tiers as answer
    from pilothouse.plan.machine import Wanted

    if bool(model) != bool(gpu):
        raise ConfigError([Problem("--model" if gpu else "--gpu", "is missing: give both, or none of them")])
    wanted = Wanted(model, gpu, tp, precision, step_time) if model else None
    answer(Asked(source, wanted, replicas, hbm_tokens, dram_gb, disk_gb, served_name, seed, load, as_json, page))


@advise_app.command()
@exits_with_problems
def disaggregate(
    source: Annotated[
        str,
        typer.Argument(help="journal directory, trace, workload or scenario file; or a gateway's control address"),
    ],
    model: ModelOption,
    gpu: Annotated[str, typer.Option(help="of engines that decode, and of those that do both, e.g. h100")],
    tp: TpOption = 1,
    prefill_gpu: Annotated[str, typer.Option(help="of prefill engines; default: the same")] = "",
    prefill_tp: Annotated[int | None, typer.Option(min=1, help="of prefill engines; default: the same")] = None,
    precision: PrecisionOption = "bf16",
    step_time: StepTimeOption = None,
    prefill_step_time: StepTimeOption = None,
    price: Annotated[
        list[str] | None, typer.Option(help="GPU=USD per hour, e.g. h100=2.5; repeatable; default: the catalogue's")
    ] = None,
    objectives: Annotated[str, typer.Option(help="of each request, e.g. ttft=2s,tpot=50ms")] = "tpot=50ms",
    link_gb_per_s: Annotated[float, typer.Option(min=0.001, help="of each engine's network, for KV")] = 40.0,
    link_latency: Annotated[str, typer.Option(help="of one transfer, whatever its size")] = "2ms",
    headroom: Annotated[float, typer.Option(min=0.05, max=1, help="share of its capacity that a pool may use")] = 0.7,
    rate: Annotated[float | None, typer.Option(min=1e-6, help="requests per second; default: the source's")] = None,
    requests_max: Annotated[int, typer.Option(min=1, help="simulate no more than the first N")] = 2000,
    simulate: Annotated[bool, typer.Option(help="try the fleets before recommending one")] = True,
    served_name: ServedOption = "",
    seed: SeedOption = 1,
    load: LoadOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Would prefill and decode on engines of their own serve this workload better, and how many of each?"""
    from pilothouse.cli.advising_disaggregate import Asked
    from pilothouse.cli.advising_disaggregate import disaggregate as answer
    from pilothouse.plan.machine import Wanted, prices_of

    limits, latency_us = _limits(objectives, link_latency)
    decode = Wanted(model, gpu, tp, precision, step_time)
    same = not prefill_gpu and prefill_tp is None
    prefill = Wanted(
        model, prefill_gpu or gpu, prefill_tp or tp, precision,
        prefill_step_time or (step_time if same else None), "--prefill-gpu",
    )  # fmt: skip
    answer(
        Asked(
            source, decode, prefill, prices_of(price or []), limits, link_gb_per_s, latency_us, headroom, rate,
            requests_max, simulate, served_name, seed, load, as_json,
        )
    )  # fmt: skip


@advise_app.command("next")
@exits_with_problems
def next_step(
    source: Annotated[
        list[str],
        typer.Argument(
            help="journal directory or a gateway's control address; reports of bench or sim (*.json); or both"
        ),
    ],
    replicas: Annotated[
        list[int] | None, typer.Option(min=1, help="of each report, in their order; default: as simulations tell")
    ] = None,
    objectives: Annotated[str, typer.Option(help="of each request, e.g. ttft=2s,tpot=50ms; default: none")] = "",
    baseline: Annotated[str, typer.Option(help="how long a fleet in service must have been watched")] = "24h",
    tenants: Annotated[int | None, typer.Option(min=1, help="who share the fleet; default: as reports tell")] = None,
    model: ModelOption = "",
    gpu: Annotated[str, typer.Option(help="with --model: also estimate whether a split pays, e.g. h100")] = "",
    tp: TpOption = 1,
    precision: PrecisionOption = "bf16",
    label: Annotated[str, typer.Option(help="of what a journal recorded: Measured, or Emulated engines")] = "Measured",
    as_json: JsonOption = False,
) -> None:
    """What to change next, if anything: the one step of the growth path that a fleet's own figures call for."""
    from pilothouse.cli.advising_next import Asked, advise_next
    from pilothouse.plan.machine import Wanted

    problems: list[Problem] = []
    limits, baseline_us = objectives_of(objectives, problems), Micros(0)
    try:
        baseline_us = Duration.parse(baseline).us
    except ValueError as error:
        problems.append(Problem("--baseline", str(error)))
    if bool(model) != bool(gpu):
        problems.append(Problem("--model" if gpu else "--gpu", "is missing: give both, or none of them"))
    if label not in LABELS:
        problems.append(Problem("--label", f"unknown label {label!r}, known: {', '.join(LABELS)}"))
    if problems:
        raise ConfigError(problems)
    machine = Wanted(model, gpu, tp, precision) if model else None
    advise_next(Asked(source, replicas or [], limits, baseline_us / SECOND, tenants, machine, label, as_json))


def _limits(objectives: str, link_latency: str) -> tuple[Objectives, Micros]:
    """Raises ConfigError: the time per output token must be among the objectives."""
    problems: list[Problem] = []
    limits = objectives_of(objectives, problems)
    latency_us = Micros(0)
    try:
        latency_us = Duration.parse(link_latency).us
    except ValueError as error:
        problems.append(Problem("--link-latency", str(error)))
    if limits.tpot_us is None and not problems:
        problems.append(Problem("--objectives", "has no tpot: how large a batch may be depends on it"))
    if problems:
        raise ConfigError(problems)
    return limits, latency_us
