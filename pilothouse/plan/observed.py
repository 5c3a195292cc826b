"""What a journal, reports of runs, or a running gateway tell of a fleet, for the growth path (`growth.py`)."""

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from pilothouse.core.errors import ConfigError, PilothouseError, Problem
from pilothouse.core.events import Role
from pilothouse.core.units import SECOND
from pilothouse.journal.day import CANCELLED, Day, Engine, read_day
from pilothouse.plan.growth import SATURATED
from pilothouse.plan.growth_facts import Concurrency, Observed, Phase, Scaling
from pilothouse.report import files
from pilothouse.workload.outcomes import Moment, Objectives, Run, StageRun, percentile, spread

TTFT = "pilothouse_time_to_first_token_seconds"
GAP = "pilothouse_inter_token_latency_seconds"
REQUESTS = "pilothouse_requests_total"
FAILED = ("failed", "refused", "rejected")  # outcomes of requests that were not served
QUEUED_MIN = 0.5  # of the time: more than bursts explain
SLOWED = 1.25  # times as long take the later half's requests where queues grow; filling up takes less. A judgement
TOTAL = "pilothouse_request_duration_seconds"


def of_journal(path: Path, limits: Objectives, tenants: int | None, label: str = "Measured") -> Observed:
    """Raises JournalError. All models together: what is asked is about the fleet. label: of engines that were emulated."""
    day = read_day(path)
    done = [ask for ask in day.asks if ask.end_us is not None and ask.error in ("", CANCELLED)]
    first = [(ask.first_us - ask.arrived.at_us) for ask in done if ask.first_us is not None]
    paces = [
        (ask.end_us - ask.first_us) / ((ask.done.output_tokens or 0) - 1)
        for ask in done
        if ask.first_us is not None and ask.end_us is not None and ask.done is not None and (ask.done.output_tokens or 0) > 1
    ]  # fmt: skip
    counted = [a.done for a in done if a.done is not None and a.done.cached_tokens is not None and a.done.prompt_tokens]
    prompt = sum(d.prompt_tokens or 0 for d in counted)
    engines = day.there
    gone = len(day.engines) - len(engines)
    return Observed(
        source=str(path), label=label, is_service=True, seconds=(day.last_us - day.first_us) / SECOND,
        requests=len(done), failed=sum(ask.error not in ("", CANCELLED) for ask in day.asks),
        overload=_queued(engines), asked=str(path), engines=len(engines), policy=_policy(day),
        hit_ratio=sum(d.cached_tokens or 0 for d in counted) / prompt if prompt else None,
        ttft=_phase(first, limits.ttft_us), tpot=_phase(paces, limits.tpot_us),
        is_split=any(engine.seen.role is not Role.BOTH for engine in engines),
        concurrency=_running(engines), speculates=any(engine.seen.speculation for engine in engines),
        models=_classes([engine.seen.models for engine in engines]), tenants=tenants,
        notes=[f"in no figure: engines that left, {gone}"] if gone else [],
    )  # fmt: skip


def _policy(day: Day) -> str | None:
    """Its name; "" for one without. Of the last segment: what is in force now."""
    told = day.headers[-1].policy if day.headers else None
    if isinstance(told, Mapping):
        told = told.get("like", told.get("name", ""))
    return told if isinstance(told, str) else None


def _running(engines: Sequence[Engine]) -> Concurrency | None:
    return _sampled([report.running for engine in engines for report in engine.reports])


def _sampled(running: Sequence[int]) -> Concurrency | None:
    """An idle engine says nothing of how many run at a time when some do."""
    values = sorted(float(count) for count in running if count)
    return Concurrency(fmean(values), percentile(values, 0.9)) if values else None


def _queued(engines: Sequence[Engine]) -> str:
    waits = [report.waiting > 0 for engine in engines for report in engine.reports]
    share = sum(waits) / len(waits) if waits else 0.0
    return f"requests wait in {share:.0%} of the engines' load reports" if share >= QUEUED_MIN else ""


def _phase(values_us: Sequence[float], limit_us: int | None) -> Phase | None:
    if not values_us:
        return None
    return Phase(spread(values_us).p90, None if limit_us is None else limit_us / SECOND)


def _classes(models: Sequence[Sequence[str]]) -> list[str]:
    """One name for each kind of engine: the first it lists, for adapters come after their model."""
    return list(dict.fromkeys(names[0] for names in models if names))


def of_reports(paths: Sequence[Path], replicas: Sequence[int], limits: Objectives, tenants: int | None) -> Observed:
    """Of several, the last is the fleet as it is; one of a single replica says what more of them gain.

    replicas   of each report, in the same order; empty = as the reports' own samples tell, as those of simulations
    """
    if replicas and len(replicas) != len(paths):
        raise ConfigError(
            [Problem("--replicas", f"is given {len(replicas)} times for {len(paths)} reports: one for each")]
        )
    runs = [_only_run(path) for path in paths]
    counts = list(replicas) or [_replicas(run) for run in runs]
    now, count = runs[-1], counts[-1]
    stages = now.stages
    top = _busiest(now)
    notes = _said(paths, runs)
    notes += ["of several stages, percentiles are those of the one with most output"] if len(stages) > 1 else []
    own = len({tenant: None for stage in stages for tenant in stage.tenants})
    policy = now.name if now.label == "Simulated" else None
    summary = top.summary
    return Observed(
        source=", ".join(path.name for path in paths), label=now.label, is_service=False,
        seconds=sum(stage.summary.seconds for stage in stages),
        requests=sum(stage.summary.requests - stage.summary.refused for stage in stages),
        failed=sum(stage.summary.refused for stage in stages), overload=_overload(top),
        engines=count or None, policy=policy, hit_ratio=summary.hit_ratio, scaling=_scaling(runs, counts),
        ttft=Phase(summary.ttft.p90, _seconds(limits.ttft_us)), tpot=Phase(summary.tpot.p90, _seconds(limits.tpot_us)),
        concurrency=_concurrent(top, count), tenants=tenants or own or None, notes=notes,
    )  # fmt: skip


def with_reports(seen: Observed, paths: Sequence[Path], replicas: Sequence[int]) -> Observed:
    """What a fleet in service shows, and beside it what reports say that more replicas gain."""
    told = of_reports(paths, replicas, Objectives(), None)
    source = f"{seen.source}; {told.source}"
    return replace(seen, scaling=told.scaling, source=source, notes=[*seen.notes, *told.notes])


def _said(paths: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    """What a reader must know of each, and of both together."""
    notes = [
        f"{path.name}: {note}" for path, run in zip(paths, runs, strict=True) for s in run.stages for note in s.notes
    ]
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    if len(scenarios) > 1:
        notes.append(
            f"what replicas gain is told by the same workload on each; these are called {', '.join(scenarios)}"
        )
    labels = list(dict.fromkeys(run.label for run in runs))
    return notes + ([f"reports are of different kinds: {', '.join(labels)}"] if len(labels) > 1 else [])


def _overload(stage: StageRun) -> str:
    summary = stage.summary
    if not _falls_behind(stage):
        return ""
    return f"{summary.achieved_rate:.3g} of {summary.offered_rate:.3g} requests/s were served"


def _falls_behind(stage: StageRun) -> bool:
    """Less is served than offered, and who comes later takes longer: the first alone may be the drain, or later turns."""
    if stage.summary.achieved_rate >= SATURATED * stage.summary.offered_rate:
        return False
    sent = [moment for moment in stage.timeline if moment.sent]
    if len(sent) < 2:
        return True
    tokens = stage.summary.output_per_second * stage.summary.seconds / max(1, stage.summary.requests)
    early, late = (_taken_s(part, tokens) for part in (sent[: len(sent) // 2], sent[len(sent) // 2 :]))
    return late >= SLOWED * early


def _taken_s(moments: Sequence[Moment], tokens: float) -> float:
    """Mean time of an answer of so many tokens."""
    times = (moment.sent * (moment.ttft.mean + moment.tpot.mean * tokens) for moment in moments)
    return sum(times) / sum(moment.sent for moment in moments)


def _only_run(path: Path) -> Run:
    runs = [run for run in files.read(path).runs if run.stages]
    if len(runs) > 1:
        names = ", ".join(dict.fromkeys(run.name for run in runs))
        raise ConfigError([Problem(str(path), f"has {len(runs)} runs ({names}): growth is told from one run a file")])
    return runs[0]


def _replicas(run: Run) -> int:
    return len(dict.fromkeys(sample.endpoint for stage in run.stages for sample in stage.replicas))


def _busiest(run: Run) -> StageRun:
    return max(run.stages, key=lambda stage: stage.summary.output_per_second)


def _scaling(runs: Sequence[Run], counts: Sequence[int]) -> Scaling | None:
    """None unless there is one report of a single replica and one of more."""
    one = next((run for run, count in zip(runs, counts, strict=True) if count == 1), None)
    many = [(count, run) for run, count in zip(runs, counts, strict=True) if count > 1]
    if one is None or not many:
        return None
    count, other = many[-1]
    tops = [_busiest(run) for run in (one, other)]
    full = all(_falls_behind(top) or not top.summary.offered_rate for top in tops)
    return Scaling(tops[0].summary.output_per_second, tops[1].summary.output_per_second, count, full)


def _concurrent(stage: StageRun, replicas: int) -> Concurrency | None:
    """By samples, else by Little's law: rate x time = requests in the system."""
    if sampled := _sampled([sample.running for sample in stage.replicas]):
        return sampled
    return Concurrency(stage.summary.achieved_rate * stage.summary.e2e.mean / replicas, None) if replicas else None


def _seconds(value_us: int | None) -> float | None:
    return None if value_us is None else value_us / SECOND


def of_gateway(source: str, status: Any, metrics: str, date: str, limits: Objectives, tenants: int | None) -> Observed:
    """Since it started, by its counters; engines as they are now.

    status    what its control address answers to /status
    metrics   to /metrics, with the answer's Date header in `date`
    """
    totals: dict[str, float] = {}
    failed = 0.0
    buckets: dict[str, dict[float, float]] = {TTFT: {}, GAP: {}}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
            failed += sample.value if sample.name == REQUESTS and sample.labels.get("outcome") in FAILED else 0.0
            if sample.name.removesuffix("_bucket") in buckets and "le" in sample.labels:
                counts = buckets[sample.name.removesuffix("_bucket")]
                edge = float(sample.labels["le"])
                counts[edge] = counts.get(edge, 0.0) + sample.value
    started = totals.get("process_start_time_seconds", 0.0)
    if not date or not started:
        raise PilothouseError(
            f"{source}: its metrics do not say since when they count; is it a gateway's control address?"
        )
    seconds = max(1.0, parsedate_to_datetime(date).timestamp() - started)
    engines = [e for e in status["endpoints"] if e["state"] != "gone"]
    prompt = totals.get("pilothouse_prompt_tokens_total", 0.0)
    busy = totals.get(f"{TOTAL}_sum", 0.0) / seconds / len(engines) if engines else 0.0
    emulated = any("emulated" in str(e.get("version", "")) for e in engines)
    return Observed(
        source=source, label="Emulated" if emulated else "Measured", is_service=True, seconds=seconds, asked=source,
        requests=round(totals.get(f"{TOTAL}_count", 0.0)), failed=round(failed), engines=len(engines), policy=status["policy"],
        hit_ratio=totals.get("pilothouse_cached_tokens_total", 0.0) / prompt if prompt else None,
        ttft=_bucketed(buckets[TTFT], limits.ttft_us), tpot=_bucketed(buckets[GAP], limits.tpot_us),
        is_split=any(e["role"] != Role.BOTH for e in engines), concurrency=Concurrency(busy, None) if engines else None,
        speculates=any(e["speculation"] for e in engines), models=_classes([e["models"] for e in engines]), tenants=tenants,
        notes=["percentiles are as exact as the buckets of the gateway's histograms; TPOT is by gaps between stream parts"],
    )  # fmt: skip


def _bucketed(counts: Mapping[float, float], limit_us: int | None) -> Phase | None:
    """The 90th percentile, linear within its bucket; in the last, which has no end, its beginning."""
    total = max(counts.values(), default=0.0)
    if not total:
        return None
    low, below = 0.0, 0.0
    for edge in sorted(counts):
        if counts[edge] >= 0.9 * total:
            inside = counts[edge] - below
            share = (0.9 * total - below) / inside if inside else 1.0
            value = low if edge == float("inf") else low + (edge - low) * share
            return Phase(value, _seconds(limit_us), (low, edge) if edge < float("inf") else None)
        low, below = edge, counts[edge]
    return None
