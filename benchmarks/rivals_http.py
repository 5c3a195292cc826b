"""Rivals for real: Pilothouse and the Rust routers in front of the same eight emulated engines, over HTTP, in one run.

    python -m benchmarks.rivals_http [--quick] [--json] [--rounds N] [--only NAME,NAME] [--seed N]

Every contestant gets freshly started engines and the same requests at the same times; the order rotates from round to round,
and each round has texts and arrivals of its own. The workload is the published shared-prefix guide scaled down to what two
cores can carry: prompts as long as there (39 KB of text), fewer of them, answers a tenth as long, and engines with less KV,
so that the fleet just holds all prompts and one engine a seventh of them. Engines are Qwen3-32B on two A100s each at full
speed, all in one process: slow enough to be saturated by what one client can send. A round of all takes six minutes.

pilothouse        `pilothouse serve`, nothing configured but addresses
random            the same gateway with the policy `random`: what a Kubernetes service does
vllm_router       vllm-router, its default policy: cache_aware (text of earlier prompts)
vllm_router_kv    vllm-router with kv_aware, fed by the engines' KV events
sglang_router     sglang-router, its default policy: cache_aware

The routers are used where `.cache/rivals/NAME` is a virtual environment that holds them. Goodput counts the requests within
the objectives, per second of the schedule, which is the same for all. CPU is user and system time of the router's processes
per request. A level in which the client or the emulator was late is measured once more, and marked if it stays so.
Label: Emulated engines, measured routers. Both the times and the caches of the engines are simulated; HTTP, routing and
their cost are real.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import uvloop

from benchmarks import contest
from benchmarks.contest import DidNotStart, Ports, Programs, Running
from benchmarks.report import Target, finish, say, table
from pilothouse.bench.load import StageResult
from pilothouse.bench.run import Bench, Origin, run_until_stopped
from pilothouse.bench.settings import Settings
from pilothouse.config.workload import read_workload
from pilothouse.core.errors import PilothouseError
from pilothouse.core.units import SECOND, Micros
from pilothouse.workload.outcomes import Histogram, Objectives, Summary, summarise
from pilothouse.workload.requests import Stage, Workload

ENGINES, FIRST_PORT, KV_BLOCKS = 8, 19_300, 5000
OBJECTIVES = Objectives(ttft_us=Micros(2 * SECOND), tpot_us=Micros(60_000))  # of the guide's example scenario
LEVELS = ("unsaturated", "saturated")
RATES = {"warm-up": 12.0, "unsaturated": 6.0, "saturated": 36.0}  # requests per second
SECONDS = {"warm-up": 14, "unsaturated": 20, "saturated": 16}
QUICK_SECONDS = {"warm-up": 4, "unsaturated": 4, "saturated": 5}
CONTESTANTS = {  # name -> (program, policy)
    "pilothouse": ("", ""),
    "vllm_router": ("vllm-router", "cache_aware"),
    "sglang_router": ("sglang-router", "cache_aware"),
    "vllm_router_kv": ("vllm-router", "kv_aware"),
    "random": ("", "random"),
}
QUICK = ("pilothouse", "vllm_router", "random")  # the first two of them that are there
LATE_STEPS_MAX = 0.1  # of all steps, by more than 10 ms: beyond, the emulator was too busy to be believed
LATE_SHARE = 0.02  # of the mean TTFT, within which a late client does not matter


@dataclass(slots=True)
class Level:
    """One contestant at one level in one round."""

    summary: Summary
    within: float  # requests per second of the schedule that met the objectives
    hit_ratio: float  # as the engines count
    preemptions: float
    cpu_ms: float  # of the router, per request
    late: str  # who was late; empty = nobody
    client: str  # the client's own figures


@dataclass(slots=True)
class Contest:
    """One contestant's turn."""

    name: str
    ports: Ports
    folder: Path
    levels: dict[str, Level] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    exact_ratio: float = 1.0

    def run(self, workload: Workload, seed: int) -> bool:
        """False when it was interrupted. Raises DidNotStart, PilothouseError."""
        with Programs(self.folder) as programs:
            command = contest.emulator_command(self.ports, KV_BLOCKS, 1.0)
            programs.start("engines", command, f"{self.ports.urls[-1]}/health")
            router = programs.start(self.name, *self._command())
            meter = _Meter(self.ports, router)
            settings = Settings(
                url=f"http://{contest.HOST}:{self.ports.router}", model=contest.MODEL, label="Emulated",
                tokenizer=contest.asked(f"{self.ports.urls[0]}/v1/models")["data"][0]["root"], objectives=OBJECTIVES,
            )  # fmt: skip
            bench = Bench(workload, settings, Origin("rivals_http", 1.0, seed), lambda load, stages: None)
            bench.heard = meter.heard
            uvloop.run(run_until_stopped(bench))
            self.levels = meter.levels
            if self.name == "pilothouse" and not bench.stopped:
                self._inspect()
            return not bench.stopped

    def _command(self) -> tuple[list[str], str]:
        """How it starts, and the address that answers when it does."""
        program, policy = CONTESTANTS[self.name]
        base = f"http://{contest.HOST}:{self.ports.router}"
        if program:
            return contest.router_command(program, self.ports, policy), f"{base}/v1/models"
        return contest.gateway_command(self.ports, self.folder, policy), f"{base}/v1/models"

    def _inspect(self) -> None:
        """Did ours work as it claims?"""
        status = contest.asked(f"http://{contest.HOST}:{self.ports.control}/status")
        model = status["models"][0]
        self.exact_ratio = model["exact"] / max(1, model["exact"] + model["engine"] + model["text"])
        kinds = sorted({endpoint["kv"] for endpoint in status["endpoints"]})
        if self.exact_ratio < 1 or kinds != ["exact"] or status["degraded"]:
            self.notes.append(f"pilothouse was not exact: {model}, KV {kinds}, degraded {status['degraded']}")


@dataclass(slots=True)
class _Meter:
    """Makes levels of what the load reports at the end of each stage."""

    ports: Ports
    router: Running
    levels: dict[str, Level] = field(default_factory=dict)
    _before: dict[str, float] = field(default_factory=dict)
    _cpu_s: float = 0.0

    def heard(self, result: StageResult) -> None:
        now, cpu_s = contest.engines_now(self.ports), self.router.cpu_s()
        before, used_s = self._before, cpu_s - self._cpu_s
        self._before, self._cpu_s = now, cpu_s
        gaps = Histogram()
        for histogram in result.gaps.values():
            gaps.merge(histogram)
        stage, outcomes = result.stage, result.outcomes
        steps, late_steps = (contest.grown(now, before, name) for name in ("steps", "steps_late"))
        late = [f"emulator: {late_steps / steps:.0%} of its steps"] if late_steps > LATE_STEPS_MAX * steps else []
        summary = summarise(outcomes, result.start_us, stage.rate, "Emulated", OBJECTIVES, gaps)
        client, matters_us = result.client, LATE_SHARE * summary.ttft.mean * SECOND
        behind = client.is_bottleneck and max(client.late_p99_us, client.lag_p99_us) > matters_us
        late += [client.note()] if behind or client.is_full else []
        queries = contest.grown(now, before, "prefix_cache_queries_total")
        self.levels[stage.name] = Level(
            summary,
            sum(OBJECTIVES.met(outcome) for outcome in outcomes) / stage.seconds,
            contest.grown(now, before, "prefix_cache_hits_total") / max(1.0, queries),
            contest.grown(now, before, "num_preemptions_total"),
            used_s * 1000 / max(1, len(outcomes)),
            "; ".join(late),
            result.client.note(),
        )


def workload_of(seed: int, quick: bool) -> Workload:
    """The guide's prompts, fewer; its stages become three."""
    seconds = QUICK_SECONDS if quick else SECONDS
    stages = [{"rate": RATES[name], "duration": f"{seconds[name]}s", "reported": True} for name in RATES]
    spec = {
        "kind": "shared_prefix", "model": contest.MODEL, "groups": 16 if quick else 48, "prompts_per_group": 5,
        "shared_tokens": 6000, "own_tokens": 1200, "output_tokens": 100, "counted_ratio": 1.0, "pause": "1s", "stages": stages,
    }  # fmt: skip
    made = read_workload(spec, Path()).make(seed)
    named = [
        Stage(name, stage.rate, stage.seconds, stage.requests, stage.pause_us, stage.reported)
        for name, stage in zip(RATES, made.stages, strict=True)
    ]
    return Workload(made.model, made.block_size, named)


def entrants(only: str, quick: bool) -> tuple[list[str], dict[str, str]]:
    """Who takes part, and why others do not."""
    wanted = [name for name in CONTESTANTS if not only or name in only.split(",")]
    skipped = {name: why for name in wanted if (program := CONTESTANTS[name][0]) and (why := contest.missing(program))}
    there = [name for name in wanted if name not in skipped]
    return ([name for name in QUICK if name in there][:2] if quick and not only else there), skipped


def measure(
    names: list[str], rounds: int, seed: int, quick: bool, logs: Path | None
) -> tuple[dict[str, list[Contest]], dict[str, str]]:
    """All turns by contestant, and who failed to start. Raises KeyboardInterrupt."""
    turns: dict[str, list[Contest]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = logs or Path(temporary)
        for number, name in _order(names, rounds):
            workload = workload_of(seed + number, quick)
            for attempt in range(1 if quick else 2):
                turn = Contest(name, Ports(FIRST_PORT, ENGINES), folder)
                try:
                    if not turn.run(workload, seed + number):
                        raise KeyboardInterrupt
                except (DidNotStart, PilothouseError) as error:
                    failed[name] = str(error)
                    break
                late = {level: turn.levels[level].late for level in LEVELS if turn.levels[level].late}
                say(f"  round {number + 1}, {name}: " + "; ".join(_line(level, turn.levels[level]) for level in LEVELS))
                if not late:
                    break
                say(f"    LATE{', once more' if not attempt and not quick else ''}: {late}")
            else:
                turn.notes.append(f"{name}, round {number + 1}: client or emulator late: {late}")
            if turn.levels:
                turns[name].append(turn)
    return {name: done for name, done in turns.items() if done}, failed


def _order(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    for number in range(rounds):
        first = number % len(names)
        yield from ((number, name) for name in names[first:] + names[:first])


def _line(name: str, level: Level) -> str:
    s = level.summary
    return f"{name} TTFT {s.ttft.mean:.3f} s, goodput {level.within:.1f}/s, hits {level.hit_ratio:.0%}, CPU {level.cpu_ms:.1f} ms"


def figures_of(turns: dict[str, list[Contest]]) -> dict[str, float]:
    """Means over rounds, and ours over theirs."""
    figures: dict[str, float] = {}
    for level in LEVELS:
        for name, done in turns.items():
            levels = [turn.levels[level] for turn in done]
            summaries = [each.summary for each in levels]
            found = {
                "ttft_ms_mean": mean(s.ttft.mean for s in summaries) * 1000,
                "ttft_ms_p50": mean(s.ttft.p50 for s in summaries) * 1000,
                "ttft_ms_p99": mean(s.ttft.p99 for s in summaries) * 1000,
                "itl_ms_mean": mean(s.itl.mean for s in summaries) * 1000,
                "itl_ms_p99": mean(s.itl.p99 for s in summaries) * 1000,
                "output_tokens_per_s": mean(s.output_per_second for s in summaries),
                "goodput_per_s": mean(each.within for each in levels),
                "hit_ratio": mean(each.hit_ratio for each in levels),
                "router_cpu_ms_per_request": mean(each.cpu_ms for each in levels),
                "refused": sum(s.refused for s in summaries),
                "late_runs": sum(bool(each.late) for each in levels),
            }
            figures |= {f"{key}_{level}_{name}": value for key, value in found.items()}
        for rival in turns:
            if rival != "pilothouse" and "pilothouse" in turns:
                for key, column in (("ttft_ratio", "ttft_ms_mean"), ("goodput_ratio", "goodput_per_s")):
                    ours, theirs = (figures[f"{column}_{level}_{name}"] for name in ("pilothouse", rival))
                    figures[f"{key}_vs_{rival}_{level}"] = ours / theirs if theirs else float("inf")
    if "pilothouse" in turns:
        figures["pilothouse_exact_ratio"] = min(turn.exact_ratio for turn in turns["pilothouse"])
    return figures


def targets_of(figures: dict[str, float]) -> dict[str, Target]:
    """Never later and never less than any of them."""
    targets: dict[str, Target] = {}
    for name in figures:
        if name.startswith("ttft_ratio_vs_"):
            targets[name] = ("<=", 1.0)
        elif name.startswith("goodput_ratio_vs_"):
            targets[name] = (">=", 1.0)
        elif name.startswith("refused_") and name.endswith("_pilothouse"):
            targets[name] = ("<=", 0)
    if "pilothouse_exact_ratio" in figures:
        targets["pilothouse_exact_ratio"] = (">=", 1.0)
    return targets


def show(figures: dict[str, float], names: list[str], rounds: int, seconds: dict[str, int]) -> None:
    """One table a level."""
    columns = [
        "contestant", "TTFT mean", "p50", "p99 [ms]", "ITL mean", "p99 [ms]", "tokens/s", "goodput/s", "hit rate",
        "CPU ms/request", "refused", "late",
    ]  # fmt: skip
    keys = (
        "ttft_ms_mean", "ttft_ms_p50", "ttft_ms_p99", "itl_ms_mean", "itl_ms_p99", "output_tokens_per_s", "goodput_per_s",
        "hit_ratio", "router_cpu_ms_per_request", "refused", "late_runs",
    )  # fmt: skip
    for level in LEVELS:
        title = (
            f"{level}: {RATES[level]:g} requests/s for {seconds[level]} s, {rounds} rounds. Emulated engines. "
            "Goodput: TTFT within 2 s and TPOT within 60 ms"
        )
        rows = [[name, *(f"{figures[f'{key}_{level}_{name}']:.4g}" for key in keys)] for name in names]
        table(title, columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two contestants, one short round: not to be quoted")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help=f"some of {', '.join(CONTESTANTS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", type=Path, help="a directory for what the programs say; default: thrown away")
    chosen = parser.parse_args()
    unknown = sorted(set(filter(None, chosen.only.split(","))) - set(CONTESTANTS))
    if unknown:
        parser.error(f"--only: unknown {', '.join(unknown)}; known: {', '.join(CONTESTANTS)}")
    if chosen.logs and not chosen.logs.is_dir():
        parser.error(f"--logs: there is no directory {chosen.logs}")
    if chosen.rounds < 1:
        parser.error("--rounds: at least 1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    names, skipped = entrants(chosen.only, chosen.quick)
    rounds = 1 if chosen.quick else chosen.rounds
    for name, why in skipped.items():
        say(f"  skipped {name}: {why}")
    try:
        turns, failed = measure(names, rounds, chosen.seed, chosen.quick, chosen.logs)
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        sys.exit(130)
    for name, why in failed.items():
        say(f"  FAILED {name}: {why}")
    if "pilothouse" in failed or not turns:
        sys.exit(1)
    figures = figures_of(turns)
    show(figures, list(turns), rounds, QUICK_SECONDS if chosen.quick else SECONDS)
    for note in [note for done in turns.values() for turn in done for note in turn.notes]:
        say(f"  NOTE {note}")
    finish(figures, targets_of(figures), chosen.json)


if __name__ == "__main__":
    main()
