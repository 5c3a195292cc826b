"""All commands. Each one is a few lines here; the work is done below."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pilothouse import __version__
from pilothouse.cli.later import App, Later, group_later
from pilothouse.cli.manifests_command import manifests
from pilothouse.cli.plan_command import plan
from pilothouse.cli.problems import exits_with_problems
from pilothouse.cli.size_command import size

if TYPE_CHECKING:
    from pilothouse.cli import benching, calibrating, replaying, running, showing, simulating, tuning
else:
    benching, calibrating, replaying, running = map(Later, ("benching", "calibrating", "replaying", "running"))
    showing, simulating, tuning = map(Later, ("showing", "simulating", "tuning"))

app = App(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Steers a fleet of LLM inference engines: each request goes where its first token comes soonest.",
)
config_app = typer.Typer(no_args_is_help=True, help="Check and explain configurations.")
app.add_typer(config_app, name="config")
app.add_typer(group_later("advising", "advise_app", "What to change, and why."), name="advise")
app.add_typer(group_later("checking", "fleet_app", "Look at the engines of a configuration."), name="fleet")

app.command()(plan)
app.command()(size)
app.command()(manifests)

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="configuration file (YAML)")]
NoLog = Annotated[bool, typer.Option("--no-log", help="no log line per request on standard output")]


@app.callback(invoke_without_command=True)
def start(version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if sys.flags.optimize:
        typer.echo("pilothouse: assertions guard its state; run Python without -O", err=True)
        raise typer.Exit(2)
    if version:
        typer.echo(__version__)
        raise typer.Exit()


@app.command()
@exits_with_problems
def serve(config: ConfigFile = Path("pilothouse.yaml"), no_log: NoLog = False) -> None:
    """Run the gateway in front of engines that run already."""
    running.serve(config, not no_log)


@app.command()
@exits_with_problems
def up(
    model: Annotated[str, typer.Option(help="model: a directory or a hub name")],
    replicas: Annotated[
        int | None, typer.Option(min=1, help="engines to start; default: 1, or none beside --prefill and --decode")
    ] = None,
    prefill: Annotated[int, typer.Option(min=0, help="engines that compute prompts for others")] = 0,
    decode: Annotated[int, typer.Option(min=0, help="engines that answer, with KV of the former where that pays")] = 0,
    connector: Annotated[
        str, typer.Option(help="how KV goes from one to the other: nixl, nixl_push, files, mooncake, multi")
    ] = "nixl",
    engine: Annotated[str, typer.Option(help="which engine; vllm is the one there is")] = "vllm",
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(help="passed to each engine, e.g. --engine-arg='--max-model-len=4096'; repeatable"),
    ] = None,
    served_name: Annotated[str, typer.Option(help="the model's name for clients; default: the engine's own")] = "",
    listen: Annotated[str, typer.Option(help="address of the API")] = "127.0.0.1:8080",
    control: Annotated[str, typer.Option(help="address of metrics, status and explain")] = "127.0.0.1:9090",
    workers: Annotated[int, typer.Option(min=1, help="gateway processes that carry traffic")] = 1,
    policy: Annotated[str, typer.Option(help="routing policy: a name, or a mapping as in pilothouse.yaml")] = "",
    journal: Annotated[Path | None, typer.Option(help="directory for the journal; default: none")] = None,
    logs: Annotated[Path, typer.Option(help="directory for the engines' logs")] = Path("logs"),
    log: Annotated[bool, typer.Option("--log", help="a log line per request on standard output")] = False,
) -> None:
    """Start engines on this machine and the gateway in front of them. Ctrl-C stops all."""
    from pilothouse.policies.profiles import DEFAULT

    running.up(
        running.Wanted(
            model, int(not prefill and not decode) if replicas is None else replicas, engine, tuple(engine_arg or ()),
            served_name, listen, control, workers, policy or DEFAULT, str(journal) if journal else None, str(logs), log,
            prefill, decode, connector,
        )
    )  # fmt: skip


@app.command()
@exits_with_problems
def explain(
    request_id: Annotated[str, typer.Argument(help="x-request-id of a request")],
    control: Annotated[str, typer.Option(help="control address of a running gateway")] = "127.0.0.1:9090",
    journal: Annotated[Path | None, typer.Option(help="read this journal instead of asking a gateway")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Why a request went where it went: every candidate, every score, what was known and how old it was."""
    showing.explain(request_id, control, journal, as_json)


@app.command()
@exits_with_problems
def status(
    control: Annotated[str, typer.Option(help="control address of a running gateway")] = "127.0.0.1:9090",
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Endpoints, models, and everything that works less well than it could."""
    showing.status(control, as_json)


@app.command()
@exits_with_problems
def replay(
    journal: Annotated[Path, typer.Argument(help="journal directory, or one segment", exists=True)],
    verify: Annotated[bool, typer.Option("--verify", help="same events, same commands? exit status 1 if not")] = False,
    what_if: Annotated[
        Path | None, typer.Option(help="simulate the recorded arrivals under this pilothouse.yaml or scenario")
    ] = None,
    begin: Annotated[str, typer.Option("--from", help="count from here on, after the journal's begin, e.g. 10m")] = "",
    until: Annotated[str, typer.Option(help="simulate no longer than this, after the journal's begin")] = "",
    model: Annotated[str, typer.Option(help="which model, where several are on different engines")] = "",
    step_time: Annotated[
        Path | None, typer.Option(help="file of `pilothouse calibrate`; default: learned from the journal")
    ] = None,
    objectives: Annotated[
        str, typer.Option(help="what goodput counts, e.g. ttft=500ms,tpot=50ms; default: the scenario's")
    ] = "",
    label: Annotated[str, typer.Option(help="of what was recorded: Measured, or Emulated engines")] = "Measured",
    out: Annotated[Path | None, typer.Option(help="write a report here (HTML)")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="the runs, for `pilothouse report`")] = None,
) -> None:
    """Run a journal's events through a fresh dispatcher, or its arrivals under another configuration."""
    if what_if is None or verify:
        showing.replay(journal, verify)
    if what_if is not None:
        replaying.what_if(
            replaying.Asked(journal, what_if, begin, until, model, step_time, objectives, label, out, as_json)
        )


@app.command()
@exits_with_problems
def sim(
    scenario: Annotated[Path, typer.Argument(help="scenario file (YAML), or a plan")],
    seed: Annotated[str, typer.Option(help="seeds, e.g. 1,2,3; default: the scenario's")] = "",
    policy: Annotated[str, typer.Option(help="policies to compare, e.g. cache_and_load,kube_service")] = "",
    load: Annotated[str, typer.Option(help="factors on the workload's own rate, or on a plan's, e.g. 0.5,1,2")] = "",
    out: Annotated[Path | None, typer.Option(help="the report; default: the scenario's name with .html")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="the runs, for `pilothouse report`")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="processes at once; default: one per core")] = None,
) -> None:
    """Simulate a fleet in virtual time: policies x loads x seeds, a table, and a report to look at."""
    simulating.sim(scenario, simulating.Asked(seed, policy, load, out, as_json, jobs))


@app.command()
@exits_with_problems
def tune(
    scenario: Annotated[Path, typer.Argument(help="scenario file (YAML), as `sim` reads it")],
    policy: Annotated[str, typer.Option(help="whose numbers to search; default: the scenario's first policy")] = "",
    objective: Annotated[
        str, typer.Option(help="goodput, ttft, ttft_p99, tpot, itl_p99, e2e, throughput ...; default: goodput or ttft")
    ] = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option(help="search this one, e.g. stall_share or queue.stretch=1:10; repeatable; default: all"),
    ] = None,
    seeds_train: Annotated[int, typer.Option(min=1, max=100, help="seeds to search on")] = 4,
    seeds_held_back: Annotated[int, typer.Option(min=3, max=100, help="seeds to confirm on")] = 6,
    evaluations: Annotated[int, typer.Option(min=4, help="candidates x training seeds to simulate at most")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="of the search; the same one finds the same")] = 1,
    out: Annotated[Path | None, typer.Option(help="file for the policy found (YAML)")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="runs on held-back seeds, for `report`")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="processes at once; default: one per core")] = None,
) -> None:
    """Search a policy's numbers in simulation, and confirm on other seeds. Ctrl-C gives the best so far."""
    tuning.tune(
        scenario,
        tuning.Asked(
            policy,
            objective,
            tuple(parameter or ()),
            seeds_train,
            seeds_held_back,
            evaluations,
            seed,
            out,
            as_json,
            jobs,
        ),
    )


@app.command()
@exits_with_problems
def report(
    runs: Annotated[list[Path], typer.Argument(help="files of `sim --json` and `bench --json`")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the page")] = Path("report.html"),
) -> None:
    """Put runs on one page, simulated and measured ones side by side."""
    simulating.report(runs, out)


@app.command()
@exits_with_problems
def bench(
    url: Annotated[str, typer.Argument(help="the server: an engine or a gateway, http://host:port")],
    workload: Annotated[Path, typer.Option("--workload", "-w", help="workload file (YAML), as `sim` reads it")],
    load: Annotated[float, typer.Option(help="factor on the workload's own rate")] = 1.0,
    seed: Annotated[int, typer.Option(help="of arrivals, lengths and texts; another one meets a cold cache")] = 1,
    model: Annotated[str, typer.Option(help="default: the workload's, or the only one that the server has")] = "",
    requests_max: Annotated[
        int | None, typer.Option("--requests-max", min=1, help="send no more than the first N")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write a report here (HTML)")] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="store the run here, for `pilothouse report`; - = standard output")
    ] = None,
    api: Annotated[str, typer.Option(help="chat or completions")] = "chat",
    prompts: Annotated[str, typer.Option(help="text or tokens; default: tokens for completions")] = "",
    vocab: Annotated[
        str, typer.Option(help="token ids to draw from: size or FIRST-LAST; default: ask the server")
    ] = "",
    tokenizer: Annotated[
        str,
        typer.Option(help="the model's directory, for words and ids; default: as the server lists it, if it is here"),
    ] = "",
    label: Annotated[str, typer.Option(help="Measured, or Emulated where the server is an emulator")] = "Measured",
    api_key_env: Annotated[str, typer.Option(help="environment variable that holds the server's API key")] = "",
    timeout: Annotated[str, typer.Option(help="of one request")] = "10m",
    objectives: Annotated[str, typer.Option(help="what goodput counts, e.g. ttft=500ms,tpot=50ms,e2e=20s")] = "",
    concurrency_max: Annotated[
        int, typer.Option("--concurrency-max", min=1, help="requests in flight; more are not sent, and counted")
    ] = 4096,
) -> None:
    """Send a workload to a real server by the clock and say what came of it. Ctrl-C ends it with a partial report."""
    benching.bench(
        benching.Wanted(
            url=url, workload=workload, load=load, seed=seed, model=model, requests_max=requests_max, page=out,
            json=as_json, api=api, prompts=prompts, vocabulary=vocab, tokenizer=tokenizer, label=label, api_key_env=api_key_env,
            timeout=timeout, objectives=objectives, concurrency_max=concurrency_max,
        )
    )  # fmt: skip


@app.command()
@exits_with_problems
def calibrate(
    url: Annotated[str, typer.Argument(help="an engine that serves nobody else meanwhile, http://host:port")],
    model: Annotated[str, typer.Option(help="default: the only one that the engine has")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="file of step times to write (JSON)")] = Path(
        "step-time.json"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="fewer trials, within a minute")] = False,
    seconds: Annotated[float | None, typer.Option(min=5, help="for measuring; default: 180, quick 45")] = None,
    batched_tokens: Annotated[
        int, typer.Option(min=1, help="most tokens of one step: the engine's --max-num-batched-tokens")
    ] = 8192,
    machine: Annotated[str, typer.Option(help="what it runs on, to be kept with the figures")] = "",
    api_key_env: Annotated[str, typer.Option(help="environment variable that holds the engine's API key")] = "",
) -> None:
    """Measure a running engine: how long its steps take, for `sim`, `emulate` and the scheduler."""
    calibrating.run(
        calibrating.Wanted(
            url=url, model=model, out=out, quick=quick, seconds=seconds, batched_tokens=batched_tokens,
            machine=machine, api_key_env=api_key_env,
        )
    )  # fmt: skip


@app.command()
@exits_with_problems
def plugins(kind: Annotated[str, typer.Argument(help="filter, scorer or picker; default: all")] = "") -> None:
    """The manual of every filter, scorer and picker, and the policies made of them."""
    showing.plugins(kind)


@app.command()
@exits_with_problems
def emulate(
    model: Annotated[str, typer.Option(help="a model of the catalogue, e.g. qwen3-32b")],
    gpu: Annotated[str, typer.Option(help="a GPU of the catalogue, e.g. h100")],
    tp: Annotated[int, typer.Option(min=1, help="tensor-parallel degree")] = 1,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="engines, on ports from --port on")] = 1,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port of the first engine; 0 = any that are free")] = 8000,
    served_name: Annotated[str, typer.Option(help="the model's name for clients; default: as --model says")] = "",
    tokenizer: Annotated[Path | None, typer.Option(help="folder with tokenizer.json; default: built in")] = None,
    step_time: Annotated[Path | None, typer.Option(help="coefficients of `pilothouse calibrate`")] = None,
    precision: Annotated[str, typer.Option(help="of the weights: bf16, fp8, fp4, int4")] = "bf16",
    max_model_len: Annotated[int, typer.Option(min=16, help="context [tokens]")] = 32_768,
    block_size: Annotated[int, typer.Option(min=1, help="of a KV block [tokens]")] = 16,
    kv_blocks: Annotated[int | None, typer.Option(min=4, help="KV blocks; default: what fits on the GPUs")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="most sequences of one step")] = 1024,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="most tokens of one step")] = 8192,
    max_num_queued_reqs: Annotated[int | None, typer.Option(min=0, help="waiting requests beyond which 503")] = None,
    hashing: Annotated[str, typer.Option(help="of block names: sha256_cbor or sha256")] = "sha256_cbor",
    output_tokens: Annotated[int, typer.Option(min=1, help="of answers whose length nobody asked for")] = 256,
    time_scale: Annotated[float, typer.Option(help="engine seconds in one second; 2 = twice as fast")] = 1.0,
    transfer_gb_per_s: Annotated[float, typer.Option(help="KV from a prefill engine [GB/s]")] = 50.0,
    lora: Annotated[list[str] | None, typer.Option(help="adapter, NAME or NAME=PATH; repeatable")] = None,
    kv_events: Annotated[bool, typer.Option(help="publish KV events")] = True,
    kv_events_port: Annotated[int, typer.Option(help="port N, replay N+1, next replica N+2; 0 = any free")] = 0,
    fault: Annotated[
        list[str] | None, typer.Option(help="[REPLICA:]name=value,... e.g. 1:slow=3 or error_rate=0.1; repeatable")
    ] = None,
    seed: Annotated[int, typer.Option(help="of injected luck")] = 0,
) -> None:
    """Run engines that are not there: vLLM's API with simulated step times, for testing gateways without GPUs."""
    from pilothouse.cli import emulating
    from pilothouse.emulate.settings import Wanted

    wanted = Wanted(
        model=model, gpu=gpu, tp=tp, precision=precision, served_name=served_name, tokenizer=tokenizer,
        step_time=step_time, max_model_len=max_model_len, block_size=block_size, kv_blocks=kv_blocks,
        sequences_max=max_num_seqs, batched_tokens_max=max_num_batched_tokens, queued_max=max_num_queued_reqs,
        hashing=hashing, output_tokens=output_tokens, time_scale=time_scale, transfer_gb_per_s=transfer_gb_per_s,
        loras=tuple(lora or ()), kv_events=kv_events, seed=seed,
    )  # fmt: skip
    emulating.emulate(wanted, replicas, f"{host}:{port}", kv_events_port, fault or [])


@config_app.command("check")
@exits_with_problems
def config_check(config: ConfigFile = Path("pilothouse.yaml")) -> None:
    """Validate a configuration: every problem at once, exit status 2 if there is any."""
    showing.config_check(config)


@config_app.command("explain")
@exits_with_problems
def config_explain(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="configuration file")] = None,
) -> None:
    """Each field with its value, unit, default, origin and meaning; without a file, the defaults."""
    showing.config_explain(config)


@app.command(hidden=True)
@exits_with_problems
def process(role: str, runtime: Path, no_log: NoLog = False) -> None:
    """A child of the supervisor: picker or worker."""
    running.process(role, runtime, not no_log)
