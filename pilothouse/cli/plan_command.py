"""The options of `pilothouse plan`; its work is done in `planning.py`, which is imported when it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.later import Later
from pilothouse.cli.problems import exits_with_problems

if TYPE_CHECKING:
    from pilothouse.cli import plan_given, plan_judging, plan_wanted, planning
else:
    planning, plan_wanted = Later("planning"), Later("plan_wanted")
    plan_given, plan_judging = Later("plan_given"), Later("plan_judging")

# What is long to say.
FILE = typer.Argument(help="all of this in one file (YAML), options come first; or a plan to judge")
BLUEPRINT = typer.Option(
    help="begin with chat, rag, batch, grid, hybrid or edge, changed as asked; list: which there are"
)
GPU = typer.Option(help="a GPU of the catalogue, e.g. h100, or a YAML entry; several kinds: h100=16, repeatable")
MODEL = typer.Option(help="of the catalogue, a directory with config.json, a YAML entry, or a hub name")
WORKLOAD = typer.Option(help="workload file, trace, a journal's directory, or prometheus:http://HOST:PORT")
PROMPT_TOKENS = typer.Option(
    help="in place of a workload: 800, 200-1400, mean=800,p99=3000 or p50=600,p90=1800,p99=3000"
)
SHARED_PREFIX = typer.Option(help="tokens with which all prompts begin, beside the others; or a share of them: 40%")
CLASSES = typer.Option(
    "--class", help="limits of one tenant of the workload: support:ttft=300ms,tpot=30ms,percentile=90; repeatable"
)
TERM = typer.Option(help="on_demand, reserved (_1y, _3y), spot or owned: what runs all day; default: on_demand")
FOLLOWS = typer.Option(min=0, help="engines follow the load down to so many of each pool; 0: none when idle")


@exits_with_problems
def plan(
    file: Annotated[Path | None, FILE] = None,
    blueprint: Annotated[str, BLUEPRINT] = "",
    model: Annotated[str, MODEL] = "",
    gpu: Annotated[list[str] | None, GPU] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs that there are")] = None,
    workload: Annotated[str, WORKLOAD] = "",
    served_name: Annotated[str, typer.Option(help="which model of a journal or of Prometheus")] = "",
    window: Annotated[str, typer.Option(help="of Prometheus: how long until now; default: 7d")] = "",
    step: Annotated[str, typer.Option(help="of Prometheus: time over which a rate is told; default: 1h")] = "",
    prompt_tokens: Annotated[str, PROMPT_TOKENS] = "",
    output_tokens: Annotated[str, typer.Option(help="likewise, of answers")] = "",
    shared_prefix: Annotated[str, SHARED_PREFIX] = "",
    concurrency: Annotated[int | None, typer.Option(min=1, help="requests under way at all times, not a rate")] = None,
    rate: Annotated[float | None, typer.Option(help="requests/s in busy times; default: the workload's own")] = None,
    ttft: Annotated[str, typer.Option("--ttft-p95", help="most time to first token, e.g. 500ms")] = "",
    tpot: Annotated[str, typer.Option("--tpot-p95", help="most time per output token, e.g. 40ms")] = "",
    percentile: Annotated[int | None, typer.Option(help="of the two limits, in place of 95")] = None,
    classes: Annotated[list[str] | None, CLASSES] = None,
    goal: Annotated[str, typer.Option(help="min-cost, max-goodput or min-gpus; default: min-cost")] = "",
    precision: Annotated[list[str] | None, typer.Option(help="of weights, repeatable; default: as published")] = None,
    kv_precision: Annotated[str, typer.Option(help="of the KV cache: bf16, fp8, fp4; default: bf16")] = "",
    prices: Annotated[str, typer.Option(help="file with prices of your own: before those that ship")] = "",
    provider: Annotated[str, typer.Option(help="whose prices, e.g. aws; default: the lower median of all")] = "",
    without: Annotated[
        list[str] | None, typer.Option(help="do not look at: split, speculation or tiers; repeatable")
    ] = None,
    usd_per_hour: Annotated[float | None, typer.Option(help="of one GPU, in place of any list")] = None,
    term: Annotated[str, TERM] = "",
    burst: Annotated[str, typer.Option(help="on_demand or spot: what only runs in busy times, beside --term")] = "",
    follows: Annotated[int | None, FOLLOWS] = None,
    why: Annotated[bool, typer.Option("--why", help="each rejected way in one line")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write the best plan here (YAML)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all plans as JSON")] = False,
    page: Annotated[Path | None, typer.Option(help="write charts here (HTML)")] = None,
    simulate: Annotated[bool, typer.Option(help="try the best plans in the simulator")] = True,
    seed: Annotated[int, typer.Option(help="of a workload file")] = 1,
) -> None:
    """Which fleet serves this workload within its objectives, what to expect of it, and what it costs.

    FILE may also be a plan (of -o, or written by hand): then that one is judged as it is. So is a blueprint's.
    """
    given = {
        "model": model, "gpu": gpu, "gpus": gpus, "workload": workload, "served_name": served_name, "window": window,
        "step": step, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "shared_prefix": shared_prefix,
        "concurrency": concurrency, "rate": rate, "ttft": ttft, "tpot": tpot, "percentile": percentile,
        "classes": classes, "goal": goal, "precisions": precision, "kv_precision": kv_precision, "prices": prices,
        "provider": provider, "usd_per_hour": usd_per_hour, "term": term, "burst": burst, "follows": follows,
        "without": without,
    }  # fmt: skip
    if blueprint == "list":
        plan_given.list_blueprints()
        return
    if blueprint or plan_given.is_there(file):
        plan_given.check(blueprint, file, given, plan_judging.How(simulate, seed, out, page, as_json))
        return
    wanted, base = plan_wanted.read_wanted(file, given)
    planning.plan(plan_wanted.Asked(wanted, base, why, out, as_json, simulate, seed, page))
