"""advise: what to change about a fleet, and why. Each question is a command; its work is done in `plan/`."""

from pathlib import Path
from typing import Annotated

import typer

from pilothouse.cli.problems import exits_with_problems

advise_app = typer.Typer(no_args_is_help=True, help="What to change, and why.")


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
