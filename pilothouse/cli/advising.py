"""advise: what to change about a fleet, and why. Each question is a command; its work is done in `plan/`."""

from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.problems import exits_with_problems
from pilothouse.core.errors import ConfigError, Problem

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
