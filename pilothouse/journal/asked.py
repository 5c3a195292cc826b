"""A recorded day as a workload for simulated engines, and as the outcomes that it really had."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.speed import OUTPUT_TYPICAL
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.journal.day import CANCELLED, Ask, Day
from pilothouse.workload.outcomes import Histogram, Outcome, Sample
from pilothouse.workload.requests import Planned, Stage, Workload

ASIDE = "not counted"  # tenant of requests that make load and are in no figure
STAGE = "recorded"
SIZE = 16  # tokens of a block where no prompt names any
WARM = (
    "caches were warm when what is left of the journal begins, and are empty when the simulation does: --from leaves the "
    "first minutes out of the figures and still simulates them"
)
OPEN_LOOP = (
    "arrivals keep their recorded times: a client that would have waited for an earlier answer is not slowed down by a "
    "slower fleet, nor sped up by a faster one"
)


@dataclass(slots=True)
class Asked:
    """What is simulated, and what of it is looked at."""

    models: list[str]  # served by the same engines
    asks: dict[RequestId, Ask]  # by names that are unique, in order of arrival
    counted: dict[RequestId, Ask]  # those of the window whose end is recorded
    start_us: Micros  # of the first arrival: all times count from here
    window_us: tuple[Micros, Micros]  # after the start
    block_size: int
    workload: Workload
    notes: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        begin_us, end_us = self.window_us
        return len(self.counted) * SECOND / max(1, end_us - begin_us)


def asked(day: Day, model: str = "", from_us: int = 0, until_us: int | None = None) -> Asked:
    """Everything up to `until_us` is simulated, so that caches and queues are as they were when the window begins.

    from_us, until_us   after the journal's first entry
    """
    end_us = day.last_us if until_us is None else min(day.last_us, day.first_us + until_us)
    models = _models(day, model)
    found = [ask for ask in day.asks if ask.arrived.model in models and ask.arrived.at_us <= end_us]
    begin_us = day.first_us + from_us
    inside = [ask for ask in found if ask.arrived.at_us >= begin_us]
    if not inside:
        lasts = (day.last_us - day.first_us) / SECOND
        what = f"no request arrives between --from and --until; the journal lasts {lasts:.0f} s"
        raise ConfigError([Problem("replay", what if day.asks else "the journal holds no request")])
    asks: dict[RequestId, Ask] = {}
    for ask in found:
        name, again = ask.arrived.request, 1
        while name in asks:
            name, again = RequestId(f"{ask.arrived.request}#{again}"), again + 1
        asks[name] = ask
    start_us = found[0].arrived.at_us
    counted = {name: ask for name, ask in asks.items() if ask.arrived.at_us >= begin_us and _counts(ask)}
    size = _block_size(inside)
    window_us = (Micros(inside[0].arrived.at_us - start_us), Micros(inside[-1].arrived.at_us - start_us))
    notes, tenants = _notes(day, inside, models), len(models) > 1
    lengths = Lengths(found)
    requests = [
        _planned(name, ask, lengths, start_us, (ask.arrived.model if tenants else "") if name in counted else ASIDE)
        for name, ask in asks.items()
    ]
    seconds = (window_us[1] - window_us[0]) / SECOND
    rate = len(counted) / max(seconds, 1 / SECOND)
    workload = Workload(models[0], size, [Stage(STAGE, rate, seconds, requests)])
    return Asked(models, asks, counted, start_us, window_us, size, workload, notes + lengths.notes(inside))


class Lengths:
    """Output tokens of each request: as recorded; else what can be said of it."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        known: dict[str, list[int]] = {}
        paces: list[float] = []
        for ask in asks:
            if ask.done is not None and ask.done.output_tokens:
                known.setdefault(ask.arrived.model, []).append(ask.done.output_tokens)
                if ask.first_us is not None and ask.end_us is not None and ask.done.output_tokens > 1:
                    paces.append((ask.end_us - ask.first_us) / (ask.done.output_tokens - 1))
        self._means = {model: max(1, round(fmean(values))) for model, values in known.items()}
        self._tpot_us = fmean(paces) if paces else 0.0

    def of(self, ask: Ask) -> int:
        if ask.done is not None and ask.done.output_tokens:
            return ask.done.output_tokens
        if ask.error == CANCELLED and ask.first_us is not None and ask.end_us is not None and self._tpot_us:
            return 1 + round((ask.end_us - ask.first_us) / self._tpot_us)
        mean, most = self._means.get(ask.arrived.model, round(OUTPUT_TYPICAL)), ask.arrived.output_tokens_max
        return mean if most is None else max(1, min(mean, most))

    def notes(self, asks: Sequence[Ask]) -> list[str]:
        unknown = sum(ask.done is None or not ask.done.output_tokens for ask in asks)
        if not unknown:
            return []
        means = ", ".join(f"{mean} tokens ({model})" for model, mean in self._means.items()) or f"{OUTPUT_TYPICAL:.0f}"
        return [
            (
                f"{unknown} of {len(asks)} requests have no recorded output length: the model's mean is taken, {means}; "
                "of answers that the client broke off, what the mean TPOT makes of their time"
            )
        ]


def outcomes(given: Asked) -> list[Outcome]:
    """What the counted requests really met, in order of their end. Where no first token was seen, it is the end."""
    found = []
    for name, ask in given.counted.items():
        arrived, done, end_us = ask.arrived, ask.done, ask.end_us
        assert end_us is not None
        output = (done.output_tokens if done is not None else None) or 0
        cached = done.cached_tokens if done is not None and done.cached_tokens is not None else ask.cached_tokens
        found.append(
            Outcome(
                name,
                Micros(arrived.at_us - given.start_us),
                Micros((end_us if ask.first_us is None else ask.first_us) - given.start_us),
                Micros(end_us - given.start_us),
                arrived.prompt_tokens,
                cached,
                max(1, output),
                output,
                ask.endpoint or EndpointId(""),
                bool(ask.error),
                arrived.model if len(given.models) > 1 else "",
                ask.error,
            )
        )
    return sorted(found, key=lambda outcome: outcome.end_us)


def gaps(found: Sequence[Outcome]) -> Histogram:
    """A journal holds no times of single tokens: each answer's mean stands for all its gaps."""
    histogram = Histogram()
    for outcome in found:
        if not outcome.refused and outcome.output_tokens > 1 and outcome.first_us < outcome.end_us:
            histogram.add(outcome.tpot_us, outcome.output_tokens - 1)
    return histogram


def samples(day: Day, given: Asked) -> list[Sample]:
    """Load reports of the engines within the window."""
    begin_us, end_us = (Micros(given.start_us + us) for us in given.window_us)
    return [
        Sample((r.at_us - begin_us) / SECOND, r.endpoint, r.running, r.waiting, r.kv_used_ratio)
        for engine in serving(day, given.models)
        for r in day.engines[engine].reports
        if begin_us <= r.at_us <= end_us
    ]


def serving(day: Day, models: Sequence[str]) -> list[EndpointId]:
    """Engines that list any of the models, in order of their appearance."""
    return [e for e, engine in day.engines.items() if any(model in engine.seen.models for model in models)]


def _models(day: Day, model: str) -> list[str]:
    """Models that are asked for and served by the same engines. Several such groups: one must be chosen."""
    used = dict.fromkeys(ask.arrived.model for ask in day.asks)
    groups: dict[tuple[EndpointId, ...], list[str]] = {}
    for name in used:
        engines = tuple(serving(day, [name]))
        if engines:
            groups.setdefault(engines, []).append(name)
    if used and not groups:
        raise ConfigError([Problem("replay", f"no engine of the journal serves {', '.join(used)}")])
    if not used:
        return [model]
    if not model and len(groups) > 1:
        what = f"the journal has models on different engines, choose one: {'; '.join(', '.join(g) for g in groups.values())}"
        raise ConfigError([Problem("--model", what)])
    engines, chosen = next((item for item in groups.items() if not model or model in item[1]), ((), []))
    if not chosen:
        raise ConfigError([Problem("--model", f"nobody asked for {model!r}, but for: {', '.join(used)}")])
    mixed = [
        other for others, group in groups.items() if others != engines and set(others) & set(engines) for other in group
    ]
    if mixed:
        what = (
            f"some engines of {', '.join(chosen)} serve {', '.join(mixed)} as well, others do not: cannot be simulated"
        )
        raise ConfigError([Problem("--model", what)])
    return chosen


def _block_size(asks: Sequence[Ask]) -> int:
    sizes = sorted({ask.arrived.block_size for ask in asks if ask.arrived.blocks})
    if len(sizes) > 1:
        what = f"prompts are known by blocks of {' and '.join(map(str, sizes))} tokens: choose a window with one size"
        raise ConfigError([Problem("replay", what)])
    return sizes[0] if sizes else SIZE


def _counts(ask: Ask) -> bool:
    return ask.end_us is not None and ask.error != CANCELLED


def _planned(name: RequestId, ask: Ask, lengths: Lengths, start_us: Micros, tenant: str) -> Planned:
    arrived, output = ask.arrived, lengths.of(ask)
    return Planned(
        name,
        Micros(arrived.at_us - start_us),
        arrived.blocks,
        max(1, arrived.prompt_tokens),
        output,
        output,
        arrived.session,
        ask.output_blocks,
        None,
        tenant,
        arrived.constrained,
    )


def _notes(day: Day, inside: Sequence[Ask], models: Sequence[str]) -> list[str]:
    found = [OPEN_LOOP]
    cut, gone = sum(ask.end_us is None for ask in inside), sum(ask.error == CANCELLED for ask in inside)
    if cut or gone:
        found.append(
            f"{gone} requests that their clients broke off, and {cut} whose end is not in the journal, make load and are "
            "in no figure"
        )
    unseen = sum(ask.first_us is None and not ask.error and ask.end_us is not None for ask in inside)
    if unseen:
        found.append(
            f"{unseen} of {len(inside)} recorded answers were not streamed: their recorded TTFT is their E2E, their "
            "TPOT 0; the simulated ones are as if streamed"
        )
    failed = sum(bool(ask.error) and ask.error != CANCELLED for ask in inside)
    if failed:
        found.append(
            f"{failed} requests were not served when recorded; the simulated engines do not fail by themselves"
        )
    limited = sum(ask.arrived.output_tokens_max is not None for ask in inside)
    if limited:
        found.append(f"{limited} requests said how long their answer may be; the simulated gateway is not told")
    pinned = sum(ask.arrived.pinned is not None for ask in inside)
    if pinned:
        found.append(f"{pinned} requests had to go to the engine that holds their state; here they go anywhere")
    if day.altered:
        found.append(
            f"{day.altered} conversations went on otherwise than they had been answered, or their blocks were gone by "
            "then: what they add to the cache is not known and left out"
        )
    if day.is_warm and inside[0] is day.asks[0]:
        found.append(WARM)
    if day.gaps:
        found.append(f"the journal has {day.gaps} gaps: segments that are missing")
    ends = {endpoint: day.engines[endpoint].gone_us for endpoint in serving(day, models)}
    left = [e for e, gone_us in ends.items() if gone_us is not None and gone_us < inside[-1].arrived.at_us]
    if left:
        found.append(f"engines that left while it was recorded stay in the simulation: {', '.join(left)}")
    return found
