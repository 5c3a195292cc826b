"""size: a model, a GPU and a few numbers in, sums out. It imports little: it answers within 0.3 s."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import typer

from pilothouse.cli.problems import FAILED
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.perf.catalog import Gpu, gpu_named, precision_named
from pilothouse.perf.memory import KV_BYTES
from pilothouse.perf.models import Model
from pilothouse.plan.chat_rule import DECODERS, REQUESTS_PER_S, SESSIONS, Chat, chat
from pilothouse.plan.document import Layout
from pilothouse.plan.layouts import indivisible
from pilothouse.plan.model_source import find_gpu, find_model, usual_precision
from pilothouse.plan.size import Size
from pilothouse.plan.size import size as sums
from pilothouse.plan.varied import Varied, varied
from pilothouse.workload.lengths import Length, Lognormal

Found = TypeVar("Found")
NAME_WIDTH = 22


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `size`, as they were written."""

    model: str
    gpu: str
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
    varied: Varied | None = None
    chat: Chat | None = None


def size(asked: Asked) -> None:
    model, gpu = find_model(asked.model), find_gpu(asked.gpu)
    precision = (
        _named("--precision", precision_named, asked.precision)
        if asked.precision
        else usual_precision(model, asked.model)
    )
    if asked.kv_precision not in KV_BYTES:
        raise _wrong("--kv-precision", f"{asked.kv_precision!r} is none of {', '.join(KV_BYTES)}")
    layout = _layout(asked, model)
    found = sums(
        model, gpu, layout, precision, asked.kv_precision, _contexts(asked.contexts), asked.sessions,
        asked.utilisation, asked.max_num_seqs, asked.kv_gb,
    )  # fmt: skip
    told = None if found.refusal else _varied(asked, model, found)
    rule = None
    if asked.chat:
        rule = chat(model, gpu, _named("--chat", gpu_named, asked.chat), precision, asked.kv_precision)
    if asked.as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(Answer(found, told, rule)), indent=2).decode())
    else:
        typer.echo("\n".join(_lines(found, told, rule, gpu)))
    if found.refusal:
        typer.echo(f"pilothouse: {found.model}: {found.refusal}", err=True)
        raise typer.Exit(FAILED)


def _layout(asked: Asked, model: Model) -> Layout:
    if asked.dp > 1 and not model.experts:
        raise _wrong("--dp", "ranks of one engine share experts, and this model has none: start engines of their own")
    shares = bool(model.experts) and asked.tp * asked.dp > 1
    layout = Layout(tp=asked.tp, pp=asked.pp, dp=asked.dp, dcp=asked.dcp, expert_parallel=shares)
    if why_not := indivisible(model, layout):
        raise _wrong("--tp, --pp, --dcp", why_not)
    return layout


def _varied(asked: Asked, model: Model, found: Size) -> Varied | None:
    if not (asked.prompt or asked.output or asked.workload):
        return None
    if asked.workload and (asked.prompt or asked.output):
        raise _wrong("--workload", "has lengths of its own: leave --prompt and --output out")
    probability = _probability(asked.overflow)
    pairs, source = _recorded(asked.workload) if asked.workload else _described(asked)
    return varied(model, found, pairs, asked.shared, probability, source)


def _described(asked: Asked) -> tuple[Sequence[tuple[float, float, float]], str]:
    from pilothouse.plan.occupancy import points

    prompt, output = _length("--prompt", asked.prompt), _length("--output", asked.output)
    pairs = [(i, o, wi * wo) for i, wi in points(prompt) for o, wo in points(output)]
    return pairs, f"prompts {asked.prompt}, answers {asked.output}, one independent of the other"


def _recorded(name: str) -> tuple[Sequence[tuple[float, float, float]], str]:
    """Prompts with their own answers. Reading files imports much: only whoever has one waits for it."""
    from pilothouse.plan.source import read_source

    workload = read_source(Path(name)).workload
    planned = [request for stage in workload.stages if stage.reported for request in stage.requests]
    pairs = [(float(each.prompt_tokens), float(each.output_tokens), 1.0) for each in planned if each.output_tokens]
    if not pairs:
        raise _wrong("--workload", f"{name} has no request with an answer")
    return pairs, f"{len(pairs):,} requests of {Path(name).name}"


def _lines(found: Size, told: Varied | None, rule: Chat | None, gpu: Gpu) -> list[str]:
    held, layout = found.held, found.layout
    gpus = f"{layout.gpus} x {found.gpu}" if layout.gpus > 1 else found.gpu
    lines = [f"{found.model} in {found.precision} on {gpus}, KV in {found.kv_precision}  [Estimated]"]
    active = f", {found.active_b:.4g} of them active" if found.active_b < 0.9 * found.parameters_b else ""
    lines.append(_line("parameters", f"{found.parameters_b:.4g} billion{active}"))
    reported = "as CUDA reports it" if gpu.memory_reported else "as the vendor states it"
    lines += [
        _line("memory of each GPU", f"{gpu.memory_gib:.1f} GiB, {reported}"),
        _line("the engine uses", f"{found.memory_gib:.1f} GiB, a share of {found.utilisation:g}"),
        _line("  weights", f"{held.weights:.1f} GiB"),
        _line("  working memory", f"{held.activation + held.other:.1f} GiB"),
        _line("  left for KV", f"{held.kv:.1f} GiB"),
    ]
    if found.refusal:
        return lines
    lines.append(_line("KV space", f"{found.kv_gb:.1f} GB on all GPUs"))
    if found.kv_token_bytes:
        lines.append(_line("KV of a token", f"{found.kv_token_bytes:,.0f} B = {found.kv_token_bytes / 1024:g} KiB"))
    if found.state_mb:
        lines.append(_line("state of a sequence", f"{found.state_mb:.1f} MB, whatever its length"))
    lines.append(
        _line("tokens that fit", f"{found.tokens:,}" if found.kv_token_bytes else "no layer keeps all of them")
    )
    lines += [
        _line(f"sessions at {_tokens(each.context)}", f"{each.sequences:,.1f} of {each.gb:.3g} GB each")
        for each in found.sessions
    ]
    if found.headroom is not None:
        lines.append(_line("headroom", f"{found.headroom:.0%} of KV space at {_tokens(found.sessions[0].context)}"))
    lines += _varied_lines(told) if told else []
    lines += [f"note: {note}" for note in [f"model: {found.source}", *found.notes]]
    return lines + (_chat_lines(rule) if rule else [])


def _varied_lines(told: Varied) -> list[str]:
    means = f"{told.prompt_tokens:,.0f} + {told.output_tokens:,.0f} tokens in the mean"
    return [
        _line("lengths", f"{told.source}; {means}"),
        _line(
            "sequences that fit", f"{told.sequences:,}: they need more than there is {told.overflow:.2g} of the time"
        ),
        _line("by means alone", f"{told.by_means:,.0f}, which need more {told.overflow_by_means:.2g} of the time"),
        _line("one of those", f"{told.mean_gb:.3g} GB in the mean, where long answers count as long as they run"),
    ]


def _chat_lines(rule: Chat) -> list[str]:
    running = min(rule.sequences_kv, rule.sequences_tpot)
    ours = f"{running:.0f} running (KV holds {rule.sequences_kv:.0f}, 50 ms a token {rule.sequences_tpot})"
    return [
        f"{'chat, 800 + 200 tokens':<{NAME_WIDTH}}  {'rule of thumb':<16}  ours",
        f"{'  prefill GPU':<{NAME_WIDTH}}  {f'{REQUESTS_PER_S:g} requests/s':<16}  {rule.requests_per_s:.0f} requests/s",
        f"{'  decode GPU':<{NAME_WIDTH}}  {f'{SESSIONS} sessions':<16}  {ours}",
        f"{'  decode to prefill':<{NAME_WIDTH}}  {f'{DECODERS[0]} to {DECODERS[1]}':<16}  {rule.decoders:.1f}, all busy",
        *(f"  {line}" for line in rule.differences),
    ]


def _line(name: str, value: str) -> str:
    return f"{name:<{NAME_WIDTH}}  {value}"


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count % 1024 == 0 else f"{count:,}"


def _contexts(text: str) -> list[int]:
    contexts = []
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        number = word.removesuffix("k")
        if not number.isdigit() or not int(number):
            raise _wrong("--context", f"{word!r} is not a number of tokens such as 32768 or 32k")
        contexts.append(int(number) * (1024 if word.endswith("k") else 1))
    return contexts


def _length(where: str, text: str) -> Length:
    parts = text.replace(",", "").split(":")
    if not text or len(parts) not in (1, 3) or not all(part.isdigit() and int(part) for part in parts):
        raise _wrong(where, f"{text!r} is neither a mean nor mean:p99:longest, such as 800 or 800:3000:16000")
    if len(parts) == 1:
        return int(parts[0])
    try:
        return Lognormal(mean=int(parts[0]), p99=int(parts[1]), most=int(parts[2]))
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
