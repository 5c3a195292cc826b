"""What `pilothouse plan` is asked: a file's wishes, with those of the command line in their place."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from pilothouse.config.convert import convert
from pilothouse.config.load import read_text, read_yaml
from pilothouse.config.schema import Settings
from pilothouse.config.values import Duration
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.units import SECOND
from pilothouse.plan.buying import KEEP_S, SPOT_EXTRA
from pilothouse.plan.prometheus import STEP, WINDOW, is_prometheus
from pilothouse.plan.question import Goal

MAY_GO = {
    "split": "prefill and decode on engines of their own",
    "speculation": "drafts, where something to draft with is known",
    "tiers": "KV in the hosts' memory",
}


class ClassWanted(Settings, frozen=True, kw_only=True):
    """What one class of requests, a tenant of the workload's mix, is to meet; what is left out is not asked for."""

    ttft: Annotated[Duration | None, Meta(description="time to first token")] = None
    tpot: Annotated[Duration | None, Meta(description="time per output token")] = None
    percentile: Annotated[int | None, Meta(ge=50, le=99, description="of the two; default: the plan's")] = None


class Wanted(Settings, frozen=True, kw_only=True):
    """What to plan for, as a file says it; the command line says the same and comes first."""

    model: Annotated[str, Meta(description="a model of the catalogue")] = ""
    gpu: Annotated[str, Meta(description="a GPU of the catalogue")] = ""
    gpus: Annotated[
        int | dict[str, int], Meta(description="GPUs that there are; of several kinds: {h100: 16, l40s: 32}")
    ] = 0
    gpus_per_node: Annotated[int, Meta(ge=1, le=1024, description="GPUs with fast links to each other")] = 8
    workload: Annotated[Any, Meta(description="a workload, or the path of its file, of a trace or a journal")] = None
    served_name: Annotated[str, Meta(description="which model of a journal or of Prometheus")] = ""
    window: Annotated[str, Meta(description="of Prometheus: how long until now")] = WINDOW
    step: Annotated[str, Meta(description="of Prometheus: time over which a rate is told")] = STEP
    prompt_tokens: Annotated[str | int, Meta(description="in place of a workload: lengths of prompts")] = ""
    output_tokens: Annotated[str | int, Meta(description="likewise: lengths of answers")] = ""
    shared_prefix: Annotated[
        str | int, Meta(description="likewise: tokens that all prompts begin with, or a share: 40%")
    ] = ""
    concurrency: Annotated[int | None, Meta(ge=1, description="likewise: requests under way, in place of a rate")] = (
        None
    )
    rate: Annotated[float | None, Meta(gt=0, description="requests/s in busy times; default: the workload's own")] = (
        None
    )
    ttft: Annotated[Duration | None, Meta(description="time to first token, at `percentile`")] = None
    tpot: Annotated[Duration | None, Meta(description="time per output token, at `percentile`")] = None
    percentile: Annotated[int, Meta(ge=50, le=99, description="of the two")] = 95
    classes: Annotated[dict[str, ClassWanted], Meta(description="objectives of single tenants of the workload")] = (
        field(default_factory=dict)
    )
    goal: Annotated[str, Meta(description="min-cost, max-goodput or min-gpus")] = Goal.MIN_COST.value
    precisions: Annotated[
        list[str], Meta(description="of the weights, that may be chosen; none: as published, of bf16 also fp8")
    ] = field(default_factory=list)
    kv_precision: Annotated[str, Meta(description="of the KV cache: bf16, fp8, fp4")] = "bf16"
    prices: Annotated[str, Meta(description="file with prices of one's own, which come before those that ship")] = ""
    provider: Annotated[str, Meta(description="whose prices; default: the lower median of all")] = ""
    usd_per_hour: Annotated[float | None, Meta(gt=0, description="of one GPU, in place of any list")] = None
    term: Annotated[str, Meta(description="on_demand, reserved (_1y, _3y), spot or owned: of what runs all day")] = (
        "on_demand"
    )
    burst: Annotated[str, Meta(description="on_demand or spot: of engines that only run in busy times")] = ""
    follows: Annotated[
        int | None, Meta(ge=0, description="engines follow the load down to so many of each pool; default: all stay")
    ] = None
    start: Annotated[Duration | None, Meta(description="until an engine serves; default: estimated")] = None
    keep: Annotated[Duration, Meta(description="that an idle engine stays")] = Duration(round(KEEP_S * SECOND))
    spot_extra: Annotated[float, Meta(ge=0, le=10, description="of spot hours, bought again when it is taken away")] = (
        SPOT_EXTRA
    )
    without: Annotated[list[str], Meta(description=f"what is not looked at: {', '.join(MAY_GO)}")] = field(
        default_factory=list
    )


class Asked(msgspec.Struct, frozen=True):
    """What `plan` was asked beside."""

    wanted: Wanted
    base: Path  # paths of `wanted` are relative to this
    why: bool = False
    out: Path | None = None
    json: bool = False
    simulate: bool = True
    seed: int = 1
    page: Path | None = None
    at_once: bool = False  # work that is all there at once is planned for too


def _read(path: Path) -> Any:
    data = read_yaml(read_text(path), str(path))
    if data is None:
        raise ConfigError([Problem(str(path), "is empty")])
    return data


def read_wanted(path: Path | None, given: dict[str, Any]) -> tuple[Wanted, Path]:
    """A file's wishes, with those of the command line in their place. Raises ConfigError."""
    data: Any = {} if path is None else _read(path)
    if not isinstance(data, dict):
        raise ConfigError([Problem(str(path), "must be a mapping: model, gpu, gpus, workload ...")])
    said = {name: value for name, value in given.items() if value not in (None, "", [])}
    if gpu := said.pop("gpu", None):
        said |= _gpus([gpu] if isinstance(gpu, str) else list(gpu))
    base = path.parent if path is not None else Path()
    if "workload" in said and not is_prometheus(said["workload"]):
        said["workload"] = os.path.relpath(said["workload"], base)
    if "prices" in said:
        said["prices"] = str(Path(said["prices"]).absolute())  # a plan's own folder is another
    problems: list[Problem] = []
    if "classes" in said:
        own = [_class(words, problems) for words in said["classes"]]
        before = data.get("classes")
        said["classes"] = (before if isinstance(before, dict) else {}) | dict(own)
    wanted = convert(Wanted, data | said, "", problems)
    if problems or wanted is None:
        raise ConfigError([Problem(f"{path}: {p.where}" if path else p.where, p.what) for p in problems])
    return wanted, base


def _gpus(words: list[str]) -> dict[str, Any]:
    """`["h100"]`, of which `--gpus` says how many, or `["h100=16", "l40s=32"]`, as a file would say it."""
    if len(words) == 1 and "=" not in words[0]:
        return {"gpu": words[0]}
    counts = dict(word.rpartition("=")[::2] for word in words)
    if not all(name and count.isdecimal() for name, count in counts.items()) or len(counts) < len(words):
        what = f"of several kinds say how many: --gpu h100=16 --gpu l40s=32, not {', '.join(words)}"
        raise ConfigError([Problem("--gpu", what)])
    return {"gpus": {name: int(count) for name, count in counts.items()}}


def _class(words: str, problems: list[Problem]) -> tuple[str, dict[str, Any]]:
    """`support:ttft=300ms,tpot=30ms` as a file would say it."""
    name, _, limits = (part.strip() for part in words.partition(":"))
    found: dict[str, Any] = {}
    for part in filter(None, limits.split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        found[key] = int(value) if key == "percentile" and value.isdigit() else value
        if not equals or not name:
            problems.append(
                Problem("--class", f"{words!r} is not of this form: support:ttft=300ms,tpot=30ms,percentile=90")
            )
            return name, {}
    return name, found
