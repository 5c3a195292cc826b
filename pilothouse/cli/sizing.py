"""size: a model, a GPU and a few numbers in, sums out. It imports little: it answers within 0.3 s."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import typer

from pilothouse.cli.problems import FAILED
from pilothouse.cli.size_lines import catalogue_lines, layout_lines, lines_of
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import Gpu, gpu_named, precision_named
from pilothouse.perf.memory import KV_BYTES, Precision, default_limits
from pilothouse.perf.models import Model
from pilothouse.plan.document import Layout
from pilothouse.plan.layouts import Candidate, Needs, candidates, indivisible
from pilothouse.plan.model_source import find_gpu, find_model, usual_precision
from pilothouse.plan.size import Size
from pilothouse.plan.size import size as sums
from pilothouse.workload.lengths import Length
from pilothouse.workload.written import TOKENS_MAX

if TYPE_CHECKING:  # what only some options need is imported with them
    from pilothouse.plan.varied import Varied

Found = TypeVar("Found")
KV_GB_MAX = 10_000_000  # more than all the GPUs that may be asked for have


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `size`, as they were written."""

    model: str
    gpu: str
    gpus: int  # that there are: the rules choose a layout; 0 = the one below
    nodes: int
    why: bool
    long_prompt: str
    long_context: str
    tp: int
    pp: int
    dp: int
    dcp: int
    precision: str
    kv_precision: str
    contexts: str
    sessions: int
    utilisation: float
    max_num_seqs: int | None
    kv_gb: float | None
    prompt: str
    output: str
    workload: str
    shared: int
    overflow: str
    chat: str
    as_json: bool


class Answer(msgspec.Struct, frozen=True):
    """All of it, as JSON has it."""

    size: Size
    varied: object | None = None  # a `Varied`
    chat: object | None = None  # a `Chat`
    layouts: list[
        Candidate
    ] = []  # where the rules were asked: all, those kept first and their choice before all others


def size(asked: Asked) -> None:
    if "list" in (asked.model, asked.gpu):
        typer.echo("\n".join(catalogue_lines()))
        return
    if not asked.gpu:
        raise _wrong("--gpu", "is missing: a name, or `list` for those that are known")
    model, gpu = find_model(asked.model), find_gpu(asked.gpu)
    precision = (
        _named("--precision", precision_named, asked.precision)
        if asked.precision
        else usual_precision(model, asked.model)
    )
    _check(asked)
    ways = _by_rules(asked, model, gpu, precision) if asked.gpus else []
    if ways and not ways[0].kept and not asked.as_json:
        typer.echo("\n".join(layout_lines(ways, True)))
    if ways and ways[0].kept:
        layout, precision = ways[0].layout, ways[0].precision
    else:
        layout = _layout(asked, model)
    found = sums(
        model, gpu, layout, precision, asked.kv_precision, _contexts("--context", asked.contexts), asked.sessions,
        asked.utilisation, asked.max_num_seqs, asked.kv_gb,
    )  # fmt: skip
    told = None if found.refusal else _varied(asked, model, gpu, found)
    rule = None
    if asked.chat:
        from pilothouse.plan.chat_rule import chat

        rule = chat(model, gpu, _named("--chat", gpu_named, asked.chat), precision, asked.kv_precision)
    if asked.as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(Answer(found, told, rule, ways)), indent=2).decode())
    elif not ways or ways[0].kept:
        typer.echo("\n".join([*layout_lines(ways, asked.why), *lines_of(found, told, rule, gpu)]))
    if ways and not ways[0].kept:
        typer.echo(f"pilothouse: {found.model}: no layout of {asked.gpus} {found.gpu} holds it", err=True)
        raise typer.Exit(FAILED)
    if found.refusal:
        typer.echo(f"pilothouse: {found.model}: {found.refusal}", err=True)
        raise typer.Exit(FAILED)


def _check(asked: Asked) -> None:
    """Raises ConfigError for what makes no sense, by itself or with the rest."""
    if asked.kv_precision not in KV_BYTES:
        raise _wrong("--kv-precision", f"{asked.kv_precision!r} is none of {', '.join(KV_BYTES)}")
    if not 0 < asked.utilisation <= 1:  # which no number is too
        raise _wrong("--utilisation", "must be above 0 and at most 1")
    if asked.kv_gb is not None and not 0 < asked.kv_gb <= KV_GB_MAX:
        raise _wrong("--kv-gb", f"must be above 0 and at most {KV_GB_MAX:,} GB")
    if not asked.gpus:
        for option, given in (
            ("--nodes", asked.nodes != 1), ("--why", asked.why), ("--long-prompt", asked.long_prompt),
            ("--long-context", asked.long_context),
        ):  # fmt: skip
            if given:
                raise _wrong(option, "is for the rules: give --gpus as well, how many there are")


def _by_rules(asked: Asked, model: Model, gpu: Gpu, precision: Precision) -> list[Candidate]:
    """Raises ConfigError where a layout is given as well."""
    if given := [f"--{name}" for name in ("tp", "pp", "dp", "dcp") if getattr(asked, name) != 1]:
        raise _wrong(", ".join(given), "the rules choose where --gpus says how many there are")
    if asked.gpus % asked.nodes:
        raise _wrong("--nodes", f"{asked.gpus} GPUs do not make {asked.nodes} equal nodes")
    needs = Needs(
        prompt_tokens=max(_contexts("--long-prompt", asked.long_prompt), default=0),
        context_tokens=max(_contexts("--long-context", asked.long_context), default=0),
        kv_precision=asked.kv_precision,
        utilisation=asked.utilisation,
    )
    return candidates(model, gpu, asked.gpus, asked.nodes, [precision] if asked.precision else [], needs)


def _layout(asked: Asked, model: Model) -> Layout:
    if asked.dp > 1 and not model.experts:
        raise _wrong("--dp", "ranks of one engine share experts, and this model has none: start engines of their own")
    shares = bool(model.experts) and asked.tp * asked.dp > 1
    layout = Layout(tp=asked.tp, pp=asked.pp, dp=asked.dp, dcp=asked.dcp, expert_parallel=shares)
    if why_not := indivisible(model, layout):
        raise _wrong("--tp, --pp, --dcp", why_not)
    return layout


def _varied(asked: Asked, model: Model, gpu: Gpu, found: Size) -> "Varied | None":
    if not (asked.prompt or asked.output or asked.workload):
        return None
    if asked.workload and (asked.prompt or asked.output):
        raise _wrong("--workload", "has lengths of its own: leave --prompt and --output out")
    for name, other in (("prompt", "output"), ("output", "prompt")):
        if not asked.workload and not getattr(asked, name):
            raise _wrong(f"--{name}", f"is missing: --{other} is given, and both are needed")
    from pilothouse.plan.varied import varied

    probability = _probability(asked.overflow)
    pairs, source = _recorded(asked.workload) if asked.workload else _described(asked)
    mean = sum(prompt * weight for prompt, _, weight in pairs) / sum(weight for _, _, weight in pairs)
    if asked.shared >= mean:
        raise _wrong("--shared", f"must be fewer than prompts have in the mean, {mean:,.0f} tokens")
    limit = (asked.max_num_seqs or default_limits(gpu)[0]) * found.layout.dp
    return varied(model, found, pairs, asked.shared, probability, source, limit)


def _described(asked: Asked) -> tuple[Sequence[tuple[float, float, float]], str]:
    from pilothouse.plan.occupancy import points

    prompt, output = _length("--prompt", asked.prompt), _length("--output", asked.output)
    pairs = [(i, o, wi * wo) for i, wi in points(prompt) for o, wo in points(output)]
    return pairs, f"prompts {asked.prompt}, answers {asked.output}, one independent of the other"


def _recorded(name: str) -> tuple[Sequence[tuple[float, float, float]], str]:
    """Prompts with their own answers. Reading files imports much: only whoever has one waits for it."""
    from pilothouse.plan.source import read_given

    workload = read_given("--workload", Path(name)).workload
    planned = [request for stage in workload.stages if stage.reported for request in stage.requests]
    pairs = [(float(each.prompt_tokens), float(each.output_tokens), 1.0) for each in planned if each.output_tokens]
    if not pairs:
        raise _wrong("--workload", f"{name} has no request with an answer")
    return pairs, f"{len(pairs):,} requests of {Path(name).name}"


def _contexts(where: str, text: str) -> list[int]:
    contexts = []
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        number = word.removesuffix("k")
        if not re.fullmatch("[0-9]{1,12}", number) or not int(number):
            raise _wrong(where, f"{word!r} is not a number of tokens such as 32768 or 32k")
        contexts.append(int(number) * (1024 if word.endswith("k") else 1))
        if contexts[-1] > TOKENS_MAX:
            raise _wrong(where, f"{word!r} is above {TOKENS_MAX:,} tokens")
    return contexts


def _length(where: str, text: str) -> Length:
    from pilothouse.plan.described import parsed

    try:
        return parsed(text)[0]
    except ValueError as error:
        raise _wrong(where, str(error)) from None


def _probability(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise _wrong("--overflow", f"{text!r} is not a probability such as 1% or 0.01")
    return value


def _named(where: str, find: Callable[[str], Found], name: str) -> Found:
    try:
        return find(name)
    except KeyError as unknown:
        raise _wrong(where, str(unknown.args[0])) from None


def _wrong(where: str, what: str) -> ConfigError:
    return ConfigError([Problem(where, what)])
