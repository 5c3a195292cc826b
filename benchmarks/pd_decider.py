"""When does it pay to split prefill from decode? Our decider against always and never, simulated.

    python -m benchmarks.pd_decider [--quick] [--json] [--seeds N] [--rows a,b] [--fleets a,b]

Eight engines of Qwen3-32B on two H100 each, KV over 400 Gb/s, in two fleets: two prefill and six decode engines, and four
of each. Workloads are chat (800 tokens asked, 200 answered), RAG (16,000 and 300) and both at once, with long tails, each
at five loads from idle to beyond the knee. The same requests meet `pays` (the default), `always` and `never`, and for
comparison eight engines that all do both.

The figure is the mean time from request to last token: what splitting takes from first tokens and gives to the others
weighs the same. Beside it stands the share of requests with a TTFT within 1 s + 150 ms per 1,000 tokens and 50 ms per
output token; there too `pays` must not be behind the better of the two. Everything printed is Simulated.
"""

import argparse
from statistics import fmean
from typing import Any

import msgspec

from benchmarks.report import Target, finish, table
from pilothouse.config.scenario_load import Ready, scenario_from_data
from pilothouse.experiments.pool import run_all
from pilothouse.experiments.tasks import Ended, Task

DECIDERS = ("pays", "always", "never")
ENGINE = {"model": "qwen3-32b", "gpu": "h100", "tp": 2}
FLEETS = {"2+6": (2, 6), "4+4": (4, 4)}  # prefill and decode engines
BOTH = [{"name": "b", "replicas": 8, **ENGINE}]
SLO = {"ttft": "1s", "ttft_per_1k": "150ms", "tpot": "50ms"}
LOADS = (0.2, 0.5, 0.8, 1.0, 1.25)
WARM_SHARE, QUICK_SHARE = 4, 3  # a quarter as long before it counts; a third as long if in a hurry


class Part(msgspec.Struct, frozen=True):
    """One kind of request: mean and 99th percentile of tokens, and about what the split fleets can bear of it."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    rate: float  # per second


PARTS = {"chat": Part((800, 3_000), (200, 800), 70.0), "rag": Part((16_000, 40_000), (300, 900), 3.5)}
ROWS = {"chat": {"chat": 1.0}, "rag": {"rag": 1.0}, "mix": {"chat": 0.5, "rag": 0.5}}  # shares of those rates
SECONDS = {"chat": 40, "rag": 120, "mix": 60}


def lognormal(mean: int, p99: int) -> dict[str, Any]:
    return {"kind": "lognormal", "mean": mean, "p99": p99, "least": mean // 10, "most": 2 * p99}


def open_loop(part: Part, share: float, seconds: int) -> dict[str, Any]:
    rate = part.rate * share
    stages = [
        {"rate": rate, "duration": f"{seconds // WARM_SHARE}s", "reported": False},
        {"rate": rate, "duration": f"{seconds}s"},
    ]
    lengths = {"prompt_tokens": lognormal(*part.prompt), "output_tokens": lognormal(*part.output)}
    return {"kind": "open_loop", "stages": stages, **lengths}


def workload(row: str, seconds: int) -> dict[str, Any]:
    parts = {name: open_loop(PARTS[name], share, seconds) for name, share in ROWS[row].items()}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return {"kind": "mix", "tenants": [{"name": name, "workload": part} for name, part in parts.items()]}


def scenario(row: str, fleet: str, seconds: int) -> Ready:
    """`fleet`: one of FLEETS, or none of them for engines that do both."""
    pools = BOTH
    if fleet:
        counts = zip(("prefill", "decode"), FLEETS[fleet], strict=True)
        pools = [{"name": role[0], "replicas": count, "role": role, **ENGINE} for role, count in counts]
    return scenario_from_data({"name": row, "pools": pools, "workload": workload(row, seconds), "objectives": SLO})


def policy(decider: str) -> dict[str, Any]:
    return {"like": "marginal_cost", "name": decider, "decider": decider}


class Result(msgspec.Struct, frozen=True):
    """Means over seeds."""

    e2e_s: float
    ttft_s: float
    tpot_ms: float
    good: float  # share of requests within the service level


def result(several: list[Ended]) -> Result:
    found = []
    for ended in several:
        assert ended.run is not None, ended.error
        (stage,) = ended.run.stages
        found.append(stage.summary)
    return Result(
        fmean(s.e2e.mean for s in found),
        fmean(s.ttft.mean for s in found),
        fmean(s.tpot.mean for s in found) * 1e3,
        fmean(s.goodput * s.seconds / s.requests for s in found),
    )


Key = tuple[str, str, float, str]  # row, fleet, load, decider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one fleet, two loads, one seed, shorter; not to be quoted"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--fleets", default=",".join(FLEETS))
    args = parser.parse_args()
    rows, fleets, loads = args.rows.split(","), args.fleets.split(","), (0.5, 1.0) if args.quick else LOADS
    fleets = fleets[:1] if args.quick else fleets
    seeds = range(1, 2 if args.quick else args.seeds + 1)
    scenarios: list[Ready] = []
    keys: list[Key] = []
    tasks: list[Task] = []
    for row in rows:
        for fleet in (*fleets, ""):
            scenarios.append(scenario(row, fleet, SECONDS[row] // (QUICK_SHARE if args.quick else 1)))
            for load in loads:
                for decider in DECIDERS if fleet else ("both",):
                    chosen = policy(decider) if fleet else "marginal_cost"
                    keys += [(row, fleet, load, decider)] * len(seeds)
                    tasks += [Task(chosen, load, seed, len(scenarios) - 1) for seed in seeds]
    runs: dict[Key, list[Ended]] = {}
    for key, ended in zip(keys, run_all(scenarios, tasks), strict=True):
        runs.setdefault(key, []).append(ended)
    results = {key: result(several) for key, several in runs.items()}
    figures: dict[str, float] = {}
    targets: dict[str, Target] = {}
    for row in rows:
        for fleet in fleets:
            judge(results, row, fleet, loads, figures)
        figures[f"{row}_worst_time"] = max(figures.pop(f"{row}_time_{fleet}") for fleet in fleets)
        figures[f"{row}_worst_goodput"] = min(figures.pop(f"{row}_goodput_{fleet}") for fleet in fleets)
        figures[f"{row}_gain"] = fmean(figures.pop(f"{row}_gain_{fleet}") for fleet in fleets)
        targets |= {f"{row}_worst_time": ("<=", 1.03), f"{row}_worst_goodput": (">=", 0.97)}
    targets["mix_gain"] = (">=", 1.0)
    finish(figures, targets, args.json)


def judge(
    results: dict[Key, Result], row: str, fleet: str, loads: tuple[float, ...], figures: dict[str, float]
) -> None:
    """One table, and over its loads: the worst time and goodput of `pays` against the better of the two, and how many
    times as long those two take at best, on average."""
    shown, times, goods = [], [], []
    for load in loads:
        at = {decider: results[row, fleet, load, decider] for decider in DECIDERS} | {
            "both": results[row, "", load, "both"]
        }
        best_s = min(at["always"].e2e_s, at["never"].e2e_s)
        times.append(at["pays"].e2e_s / best_s)
        goods.append(at["pays"].good / max(at["always"].good, at["never"].good))
        for decider, r in at.items():
            first = f"{load:g}" if decider == "pays" else ""
            cells = [
                f"{r.e2e_s:.2f}",
                f"{r.ttft_s:.3f}",
                f"{r.tpot_ms:.1f}",
                f"{r.good:.1%}",
                f"{r.e2e_s / best_s:.3f}",
            ]
            shown.append([first, decider, *cells])
    columns = ["load", "decider", "E2E s", "TTFT s", "TPOT ms", "good", "E2E / better of always, never"]
    table(f"{row} on {fleet} (Simulated)", columns, shown)
    figures[f"{row}_time_{fleet}"], figures[f"{row}_goodput_{fleet}"] = max(times), min(goods)
    figures[f"{row}_gain_{fleet}"] = fmean(1 / time for time in times)


if __name__ == "__main__":
    main()
