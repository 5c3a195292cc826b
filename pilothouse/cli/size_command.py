"""The options of `pilothouse size`; its work is done in `sizing.py`, which is imported when it is used."""

from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse.cli.later import Later
from pilothouse.cli.problems import exits_with_problems

if TYPE_CHECKING:
    from pilothouse.cli import sizing
else:
    sizing = Later("sizing")


@exits_with_problems
def size(
    model: Annotated[
        str, typer.Option(help="a name (list: those known), a directory with config.json, a YAML entry, or a hub name")
    ],
    gpu: Annotated[str, typer.Option(help="a GPU of the catalogue, e.g. h100, or a YAML entry")] = "",
    gpus: Annotated[int, typer.Option(min=0, max=4096, help="that there are: the rules choose the layout")] = 0,
    nodes: Annotated[int, typer.Option(min=1, help="of equal size that these GPUs are in")] = 1,
    why: Annotated[
        bool, typer.Option("--why", help="with --gpus: every layout that is not chosen, and why not")
    ] = False,
    long_prompt: Annotated[str, typer.Option(help="with --gpus: prompts so long must be quick too, e.g. 128k")] = "",
    long_context: Annotated[str, typer.Option(help="with --gpus: so long do sequences get, e.g. 128k")] = "",
    tp: Annotated[int, typer.Option(min=1, help="tensor-parallel degree: GPUs of one engine")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="pipeline stages")] = 1,
    dp: Annotated[int, typer.Option(min=1, help="data-parallel ranks that share experts")] = 1,
    dcp: Annotated[int, typer.Option(min=1, help="decode context parallelism: ranks that share a context")] = 1,
    precision: Annotated[str, typer.Option(help="of the weights: bf16, fp8, fp4, int4; default: as published")] = "",
    kv_precision: Annotated[str, typer.Option(help="of the KV cache: bf16, fp8, fp4")] = "bf16",
    context: Annotated[str, typer.Option(help="lengths of sessions [tokens]; k = 1,024")] = "32k,128k,512k",
    sessions: Annotated[int, typer.Option(min=0, help="of the first length: what headroom do they leave?")] = 0,
    utilisation: Annotated[float, typer.Option(min=0.05, max=1.0, help="the engine's share of GPU memory")] = 0.9,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="the engine's limit; default: its own")] = None,
    kv_gb: Annotated[float | None, typer.Option(min=0, help="space for KV instead of what is left [1e9 B]")] = None,
    prompt: Annotated[
        str, typer.Option(help="lengths of prompts: 800, 200-1400, mean=800,p99=3000 or p50=600,p99=3000")
    ] = "",
    output: Annotated[str, typer.Option(help="lengths of answers, likewise")] = "",
    workload: Annotated[str, typer.Option(help="lengths out of a workload file, a trace or a journal instead")] = "",
    shared: Annotated[int, typer.Option(min=0, help="of each prompt, common to all and kept once [tokens]")] = 0,
    overflow: Annotated[str, typer.Option(help="how often KV space may not do for the sequences that run")] = "1%",
    chat: Annotated[str, typer.Option(help="GPU of decode: compare with the rule of thumb for chat")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Quick sums: weights, KV per token, tokens and sessions that fit; exit status 1 with the reason if none do."""
    sizing.size(
        sizing.Asked(
            model=model, gpu=gpu, gpus=gpus, nodes=nodes, why=why, long_prompt=long_prompt, long_context=long_context,
            tp=tp, pp=pp, dp=dp, dcp=dcp, precision=precision, kv_precision=kv_precision, contexts=context,
            sessions=sessions, utilisation=utilisation, max_num_seqs=max_num_seqs, kv_gb=kv_gb, prompt=prompt,
            output=output, workload=workload, shared=shared, overflow=overflow, chat=chat, as_json=as_json,
        )
    )  # fmt: skip
