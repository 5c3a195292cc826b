"""What `size` says, as text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pilothouse.perf.catalog import GPUS, MODELS, Gpu
from pilothouse.plan.layouts import Candidate
from pilothouse.plan.size import Size

if TYPE_CHECKING:
    from pilothouse.plan.chat_rule import Chat
    from pilothouse.plan.varied import Varied

NAME_WIDTH = 22


def catalogue_lines() -> list[str]:
    """All models and GPUs by their names, and the few numbers that tell them apart."""
    models = [
        f"{m.name:<44} {m.parameters_b:>8.4g} B, {m.active_b:>6.4g} active, {m.published:<5} {' '.join(m.aliases)}".rstrip()
        for m in sorted(MODELS.values(), key=lambda m: m.name.lower())
    ]
    gpus = [
        f"{g.name:<14} {g.memory_gib:>6.1f} GiB, {g.bandwidth_tbps:>5.3g} TB/s  {' '.join(g.aliases)}".rstrip()
        for g in GPUS.values()
    ]
    return ["models", *models, "", "GPUs", *gpus]


def layout_lines(ways: Sequence[Candidate], why: bool) -> list[str]:
    """What the rules alone choose, other ways that would do, and with `why` those that would not."""
    kept = [way for way in ways if way.kept]
    lines = [_line("layout by the rules", f"{kept[0]}: {kept[0].reason}")] if kept else []
    lines += [_line("  or", f"{way}: {way.reason}") for way in kept[1:]]
    if kept and kept[0].replicas > 1:
        lines.append(_line("engines", f"{kept[0].replicas} alike; what follows is of one"))
    return lines + [f"not {way}: {way.reason}" for way in ways if not way.kept and (why or not kept)]


def lines_of(found: Size, told: "Varied | None", rule: "Chat | None", gpu: Gpu) -> list[str]:
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
        lines.append(_line("KV of a token", f"{found.kv_token_bytes:,.0f} B = {found.kv_token_bytes / 1024:.4g} KiB"))
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
        room = (
            f"{found.headroom:.0%} of KV space"
            if found.headroom >= 0
            else f"none: so many sessions need {1 - found.headroom:,.3g} times the KV space"
        )
        lines.append(_line("headroom", f"{room} at {_tokens(found.sessions[0].context)}"))
    lines += _varied_lines(told) if told else []
    lines += [f"note: {note}" for note in [f"model: {found.source}", *found.notes]]
    return lines + (_chat_lines(rule) if rule else [])


def _varied_lines(told: "Varied") -> list[str]:
    capped = f"; the engine runs {told.limit:,} at most (--max-num-seqs)" if 0 < told.limit < told.sequences else ""
    means = f"{told.prompt_tokens:,.0f} + {told.output_tokens:,.0f} tokens in the mean"
    return [
        _line("lengths", f"{told.source}; {means}"),
        _line(
            "sequences that fit",
            f"{told.sequences:,}: they need more than there is {100 * told.overflow:.2g}% of the time{capped}",
        ),
        _line(
            "by means alone", f"{told.by_means:,.0f}, which need more {100 * told.overflow_by_means:.2g}% of the time"
        ),
        _line("one of those", f"{told.mean_gb:.3g} GB in the mean, where long answers count as long as they run"),
    ]


def _chat_lines(rule: "Chat") -> list[str]:
    from pilothouse.plan.chat_rule import DECODERS, REQUESTS_PER_S, SESSIONS

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
