"""When does it pay to split prefill from decode? Our decider against always and never, simulated.

    python -m benchmarks.pd_decider [--quick] [--json] [--seeds N] [--rows a,b]

Eight engines of Qwen3-32B on two H100 each: two prefill, six decode, KV over 400 Gb/s. Workloads are chat (800 tokens
asked, 200 answered), RAG (16,000 and 300) and both at once, each at five loads from idle to beyond the knee. The same
requests meet `pays` (the default), `always` and `never`, and for comparison eight engines that all do both.

The figure is the mean time from request to last token, over both of its halves: what splitting takes from the first token
and gives to the others weighs the same. Goodput, requests per second with a TTFT within 1 s + 150 ms per 1,000 tokens
and 50 ms per output token, is shown beside it. Everything printed is Simulated.
"""

import argparse
from statistics import fmean
from typing import Any

import msgspec

from benchmarks.report import Target, finish, say, table
from pilothouse.config.scenario_load import Ready, scenario_from_data
from pilothouse.experiments.pool import run_all
from pilothouse.experiments.tasks import Ended, Task

DECIDERS = ("pays", "always", "never")
ENGINE = {"model": "qwen3-32b", "gpu": "h100", "tp": 2}
SPLIT = [
    {"name": "p", "replicas": 2, "role": "prefill", **ENGINE},
    {"name": "d", "replicas": 6, "role": "decode", **ENGINE},
]
BOTH = [{"name": "b", "replicas": 8, **ENGINE}]
SLO = {"ttft": "1s", "ttft_per_1k": "150ms", "tpot": "50ms"}
LOADS = (0.2, 0.5, 0.8, 1.0, 1.2)
SECONDS, SECONDS_QUICK = 60, 30


class Row(msgspec.Struct, frozen=True):
    """One workload; `rate` [requests per second] is about what the split fleet can bear."""

    prompt: int
    output: int
    rate: float


PARTS = {"chat": Row(800, 200, 60.0), "rag": Row(16_000, 300, 4.0)}
MIX = {"chat": 0.5, "rag": 0.5}  # shares of those rates


def spread(mean: int) -> list[int]:
    """Lengths around a mean."""
    return [mean // 2, mean * 3 // 2]


def open_loop(row: Row, rate: float, seconds: int) -> dict[str, Any]:
    stages = [{"rate": rate, "duration": "20s", "reported": False}, {"rate": rate, "duration": f"{seconds}s"}]
    lengths = {"prompt_tokens": spread(row.prompt), "output_tokens": spread(row.output)}
    return {"kind": "open_loop", "stages": stages, **lengths}


def workload(name: str, seconds: int) -> dict[str, Any]:
    if name != "mix":
        return open_loop(PARTS[name], PARTS[name].rate, seconds)
    tenants = [
        {"name": part, "workload": open_loop(PARTS[part], PARTS[part].rate * share, seconds)}
        for part, share in MIX.items()
    ]
    return {"kind": "mix", "tenants": tenants}


def scenario(name: str, pools: list[dict[str, Any]], seconds: int = SECONDS) -> Ready:
    return scenario_from_data({"name": name, "pools": pools, "workload": workload(name, seconds), "objectives": SLO})


def policy(decider: str) -> dict[str, Any]:
    return {"like": "marginal_cost", "name": decider, "decider": decider}


class Result(msgspec.Struct, frozen=True):
    """Means over seeds."""

    e2e_s: float
    ttft_s: float
    tpot_ms: float
    goodput: float


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
        fmean(s.goodput for s in found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two loads, one seed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default="chat,rag,mix")
    args = parser.parse_args()
    names, loads = args.rows.split(","), (0.5, 1.0) if args.quick else LOADS
    seeds = range(1, 2 if args.quick else args.seeds + 1)
    seconds = SECONDS_QUICK if args.quick else SECONDS
    scenarios = [scenario(name, pools, seconds) for name in names for pools in (SPLIT, BOTH)]
    keys, tasks = [], []
    for i, name in enumerate(names):
        for load in loads:
            for decider in (*DECIDERS, "both"):
                for seed in seeds:
                    keys.append((name, load, decider))
                    chosen = "marginal_cost" if decider == "both" else policy(decider)
                    tasks.append(Task(chosen, load, seed, 2 * i + (decider == "both")))
    runs: dict[tuple[str, float, str], list[Ended]] = {}
    for key, ended in zip(keys, run_all(scenarios, tasks), strict=True):
        runs.setdefault(key, []).append(ended)
    show({key: result(several) for key, several in runs.items()}, names, loads, args.json)


def show(
    results: dict[tuple[str, float, str], Result], names: list[str], loads: tuple[float, ...], as_json: bool
) -> None:
    say("  everything below is Simulated")
    figures: dict[str, float] = {}
    targets: dict[str, Target] = {}
    for name in names:
        rows, ratios, gains = [], [], []
        for load in loads:
            at = {decider: results[name, load, decider] for decider in (*DECIDERS, "both")}
            better = min(at["always"].e2e_s, at["never"].e2e_s)
            ratios.append(at["pays"].e2e_s / better)
            gains.append(better / at["pays"].e2e_s)
            rows += [
                [f"{load:g}" if decider == "pays" else "", decider, f"{r.e2e_s:.2f}", f"{r.ttft_s:.3f}", f"{r.tpot_ms:.1f}",
                 f"{r.goodput:.1f}", f"{r.e2e_s / better:.3f}"]
                for decider, r in at.items()
            ]  # fmt: skip
        columns = ["load", "decider", "E2E s", "TTFT s", "TPOT ms", "goodput", "E2E / better of always, never"]
        table(f"{name} (Simulated)", columns, rows)
        figures[f"{name}_worst_ratio"] = max(ratios)
        targets[f"{name}_worst_ratio"] = ("<=", 1.03)
        if name == "mix":
            figures["mix_worst_gain"], figures["mix_mean_gain"] = min(gains), fmean(gains)
            targets["mix_mean_gain"] = (">=", 1.0)
    finish(figures, targets, as_json)


if __name__ == "__main__":
    main()
