"""Which policy is best? Ours, every rival's and an oracle, over many workloads, simulated.

    python -m benchmarks.policies [--trace FILE] [--quick] [--json] [--seeds N] [--rows a,b] [--policies a,b]

The fleet is eight replicas of Qwen3-32B on two H100 each. Each policy knows what its original knows of caches and load
(`policies/rivals/knowledge.py`); all meet the same requests at the same times. Goodput is the share of requests with a
TTFT within 2 s + 150 ms per 1,000 prompt tokens and 80 ms per output token. `--trace FILE` takes another trace in place of
the rows: Mooncake or ShareGPT (.jsonl), Azure (.csv), or a directory of agentic sessions; its loads are found by doubling.
Everything printed is Simulated.
"""

import argparse
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import msgspec

from benchmarks.report import Target, finish, say, table
from pilothouse import build
from pilothouse.config.scenario import Fault, Replicas, Scenario
from pilothouse.config.workload import read_workload
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.units import SECOND, Micros
from pilothouse.policies.profiles import DEFAULT, PROFILES
from pilothouse.policies.rivals import CACHE_KNOWLEDGE, RIVALS
from pilothouse.sim.oracle import ORACLES, Truth, oracle
from pilothouse.sim.world import summaries, world
from pilothouse.workload.outcomes import Objectives
from pilothouse.workload.spec import Recipe

TRACES = Path(__file__).parent.parent.parent / "shared" / "traces"
SLO = Objectives(Micros(2 * SECOND), Micros(80_000), ttft_us_per_1k=Micros(150_000))
FOREVER = Micros(24 * 3600 * SECOND)  # nobody is sent away: engines queue without bound, so may a gateway
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # Student, n - 1 degrees
GPUS = 16
WARM = {"rate": 15, "duration": "50s", "reported": False}
STALE = (Fault(kind="stale_metrics", endpoint="h100"),)
SLOW = (Fault(kind="slow", endpoint="h100-3", factor=2.0),)
QUICK_ROWS = ("guide_knee", "rag_saturated", "long_answers_slow_node")
QUICK_POLICIES = (DEFAULT, "llmd_default", "lmetric", "dynamo", "kube_service")


class Row(msgspec.Struct, frozen=True):
    """One workload under one load."""

    workload: dict[str, Any]
    load: float = 1.0
    faults: tuple[Fault, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """One run."""

    goodput: float  # share of requests
    ttft: float  # mean [s]
    ttft_p99: float
    itl_p99: float  # [s]
    tokens: float  # per GPU-second, over send + drain
    hits: float
    e2e: float  # mean [s]


def guide(rate: float, seconds: int) -> dict[str, Any]:
    stages = [WARM, {"rate": rate, "duration": f"{seconds}s"}]
    return {"kind": "shared_prefix", "stages": stages, "pause": "5s"}


def mooncake(name: str, requests: int) -> dict[str, Any]:
    return {"kind": "mooncake", "file": str(TRACES / f"mooncake_{name}_trace.jsonl"), "requests_max": requests}


def rag(rate: float, seconds: int) -> dict[str, Any]:
    tokens = {"kind": "lognormal", "mean": 24000, "p99": 90000, "least": 8000, "most": 100000}
    stages = [{"rate": rate, "duration": f"{seconds}s"}]
    return {
        "kind": "rag", "stages": stages, "documents": 200, "document_tokens": tokens, "question_tokens": [20, 400],
        "output_tokens": [100, 600], "block_size": 64,
    }  # fmt: skip


def plain(rate: float, seconds: int, **more: Any) -> dict[str, Any]:
    return {"kind": "open_loop", "stages": [{"rate": rate, "duration": f"{seconds}s"}], **more}


def tenants(load: float) -> dict[str, Any]:
    chat = {
        "kind": "chat", "stages": [{"rate": 3 * load, "duration": "180s"}], "system_prompts": 4, "turns": [2, 8],
        "user_tokens": [50, 600], "output_tokens": [50, 600], "think": {"mean": "10s", "p99": "60s", "most": "2m"},
    }  # fmt: skip
    search = plain(8 * load, 180, prefixes=3, prefix_tokens=2000, prompt_tokens=[500, 12000], output_tokens=[20, 150])
    nightly = plain(2 * load, 180, prompt_tokens=[500, 3000], output_tokens=[800, 3000])
    parts = (("chat", chat), ("search", search), ("nightly", nightly))
    return {"kind": "mix", "tenants": [{"name": name, "workload": workload} for name, workload in parts]}


def agents(users: int, count: int) -> dict[str, Any]:
    stages = [{"users": users, "count": count, "ramp": "60s"}]
    return {"kind": "agentic_trace", "file": str(TRACES / "agentic"), "stages": stages, "context_max": 120000}


def azure(requests: int) -> dict[str, Any]:
    file = str(TRACES / "AzureLLMInferenceTrace_conv_2023.csv")
    return {"kind": "azure", "file": file, "requests_max": requests, "block_size": 32}


DECODE = plain(16, 120, prefixes=20, prefix_tokens=2048, prompt_tokens=[200, 2000], output_tokens=[200, 1500])
ROWS = {
    "guide_unsaturated": Row(guide(10, 60)),
    "guide_knee": Row(guide(30, 50)),
    "guide_saturated": Row(guide(45, 45)),
    "conversation_unsaturated": Row(mooncake("conversation", 2000), 1.0),
    "conversation_saturated": Row(mooncake("conversation", 2000), 3.0),
    "synthetic_unsaturated": Row(mooncake("synthetic", 1500), 1.0),
    "synthetic_saturated": Row(mooncake("synthetic", 1500), 2.5),
    "agentic_unsaturated": Row(agents(16, 32)),
    "agentic_saturated": Row(agents(64, 96)),
    "azure_unsaturated": Row(azure(2500), 4.0),
    "azure_saturated": Row(azure(4000), 16.0),
    "rag_unsaturated": Row(rag(4, 200)),
    "rag_saturated": Row(rag(12, 150)),
    "tenants_unsaturated": Row(tenants(1.0)),
    "tenants_saturated": Row(tenants(2.2)),
    "long_answers_slow_node": Row(DECODE, 1.0, SLOW),
    "guide_stale_metrics": Row(guide(30, 50), 1.0, STALE),
    "rag_stale_metrics": Row(rag(8, 120), 1.0, STALE),
}


def recipe_of(row: Row) -> Recipe:
    return read_workload(row.workload, Path())


def run(row: Row, recipe: Recipe, policy: str, seed: int) -> Result:
    """One policy on one row with one seed; `oracle...` sees the engines."""
    pool = Replicas(name="h100", replicas=8, model="qwen3-32b", gpu="h100", tp=2, utilisation=0.95,
                    block_size=recipe.block_size)  # fmt: skip
    scenario = Scenario(pools=[pool], workload=None, faults=list(row.faults))
    workload, truth = recipe.make(seed, row.load), Truth()
    known = policy in ORACLES
    profile = oracle(truth, policy, SLO.ttft_us) if known else PROFILES.get(policy) or RIVALS[policy]
    rules = DispatcherSettings(
        seed=seed, strict=True, why_max=0, waiting_max=1 << 30, wait_us_max=FOREVER, held_us_max=FOREVER
    )
    fleet = build.fleet(
        scenario, CACHE_KNOWLEDGE.get(profile.name) or (CACHE_KNOWLEDGE["kube_service"] if known else None)
    )
    faults = [part for fault in scenario.faults for part in build.faults(fault, scenario)]
    driver = world(fleet, Dispatcher(rules, profile), workload, faults=faults)
    if known:
        truth.see(driver.hosts, workload, fleet.delays.network_us)
    driver.run()
    parts = summaries(driver.results, SLO)
    total = sum(s.requests for s in parts)

    def mean(values: list[float]) -> float:
        return sum(value * s.requests for value, s in zip(values, parts, strict=True)) / total

    return Result(
        goodput=sum(s.goodput * s.seconds for s in parts) / total,
        ttft=mean([s.ttft.mean for s in parts]),
        ttft_p99=mean([s.ttft.p99 for s in parts]),
        itl_p99=mean([s.itl.p99 for s in parts]),
        tokens=sum(s.output_per_second * s.seconds for s in parts) / sum(s.seconds for s in parts) / GPUS,
        hits=mean([s.hit_ratio for s in parts]),
        e2e=mean([s.e2e.mean for s in parts]),
    )


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean."""
    return T_95.get(len(values), 2.0) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def compare(rows: dict[str, Row], policies: list[str], seeds: list[int]) -> dict[str, dict[str, list[Result]]]:
    """Row -> policy -> a result for each seed, on all cores."""
    recipes = {name: recipe_of(row) for name, row in rows.items()}
    found: dict[str, dict[str, list[Result]]] = {name: defaultdict(list) for name in rows}
    jobs = [(name, policy, seed) for name in rows for policy in policies for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        futures = [pool.submit(run, rows[name], recipes[name], policy, seed) for name, policy, seed in jobs]
        for i, ((name, policy, _), future) in enumerate(zip(jobs, futures, strict=True)):
            found[name][policy].append(future.result())
            if i == len(jobs) - 1 or jobs[i + 1][0] != name:
                show(name, found[name])
    return found


def show(name: str, found: dict[str, list[Result]]) -> None:
    """One row's table, the best goodput first."""
    shown = []
    for policy, results in sorted(found.items(), key=lambda item: -fmean(r.goodput for r in item[1])):
        goods = [r.goodput for r in results]
        columns = [[r.ttft for r in results], [r.ttft_p99 for r in results], [1e3 * r.itl_p99 for r in results]]
        columns += [[r.tokens for r in results], [100 * r.hits for r in results], [r.e2e for r in results]]
        cells = [f"{fmean(values):.3g} ±{interval(values):.2g}" for values in columns]
        shown.append([policy, f"{fmean(goods):.1%} ±{interval(goods):.1%}", *cells])
    columns_ = ["policy", "goodput", "TTFT s", "p99", "ITL p99 ms", "tok/GPU-s", "hits %", "E2E s"]
    table(f"{name} (Simulated, {len(next(iter(found.values())))} seeds)", columns_, shown)


def judge(found: dict[str, dict[str, list[Result]]]) -> dict[str, float]:
    """How far ours is from the best rival on each row, and from the best single rival over all rows."""
    figures: dict[str, float] = {}
    share: dict[str, dict[str, float]] = {
        row: {policy: fmean(r.goodput for r in results) for policy, results in of.items()} for row, of in found.items()
    }
    rivals = [policy for policy in next(iter(share.values())) if policy in RIVALS]
    worst, behind = 0.0, []
    for row, of in share.items():
        best = max(rivals, key=lambda policy: of[policy])
        ahead = of[DEFAULT] / of[best] if of[best] else 1.0
        worst = max(worst, 1 - ahead)
        behind += [f"{row}: {of[best]:.1%} {best} against {of[DEFAULT]:.1%}"] if ahead < 0.98 else []
        ceiling = max((of[policy] for policy in ORACLES if policy in of), default=0.0)
        if ceiling:
            figures[f"{row}_of_oracle"] = of[DEFAULT] / ceiling
        figures[f"{row}_over_best_rival"] = ahead
    for line in behind:
        say(f"  a rival wins {line}")
    means = {policy: fmean(of[policy] for of in share.values()) for policy in rivals}
    single = max(means, key=lambda policy: means[policy])
    ours = fmean(of[DEFAULT] for of in share.values())
    say(f"  mean goodput over {len(share)} rows: {DEFAULT} {ours:.1%}, best single rival {single} {means[single]:.1%}")
    figures |= {"behind_best_on_worst_row": worst, "goodput_over_best_single_rival": ours / means[single]}
    return figures


def rows_of_trace(path: Path, quick: bool) -> dict[str, Row]:
    """Three loads of a given trace around the load at which our policy begins to miss."""
    count = 600 if quick else 1500
    if path.is_dir():
        sizes = {"unsaturated": 12, "knee": 40, "saturated": 80}
        stages = {name: [{"users": n, "count": n * 2, "ramp": "60s"}] for name, n in sizes.items()}
        return {
            f"trace_{name}": Row({"kind": "agentic_trace", "file": str(path), "stages": stage, "context_max": 120000})
            for name, stage in stages.items()
        }
    first = path.read_bytes()[:4096]
    kind = "azure" if path.suffix == ".csv" else "mooncake" if b"hash_ids" in first else "sharegpt"
    workload: dict[str, Any] = {"kind": kind, "file": str(path.absolute()), "requests_max": count}
    recipe, load = recipe_of(Row(workload)), 0.25
    while load < 512 and run(Row(workload, load), recipe, DEFAULT, 1).goodput > 0.95:
        load *= 2
    say(f"  {kind} trace: {DEFAULT} begins to miss at {load:g} times its own rate")
    return {
        f"trace_{name}": Row(workload, load * factor)
        for name, factor in (("unsaturated", 0.4), ("knee", 0.8), ("saturated", 1.6))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="another trace in place of the rows")
    parser.add_argument("--quick", action="store_true", help="few rows, policies and seeds; not to be quoted")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", default="", help="some rows only")
    parser.add_argument("--policies", default="", help="ours and some others only")
    args = parser.parse_args()
    rows = rows_of_trace(args.trace, args.quick) if args.trace else dict(ROWS)
    if args.rows or (args.quick and not args.trace):
        rows = {name: rows[name] for name in (args.rows.split(",") if args.rows else QUICK_ROWS)}
    files = {name: row.workload["file"] for name, row in rows.items() if "file" in row.workload}
    for name, file in files.items():
        if not Path(file).exists():
            say(f"  skipped {name}: {Path(file).name} is not there")
            del rows[name]
    policies = [DEFAULT, *RIVALS, *ORACLES]
    if args.policies or args.quick:
        policies = list(dict.fromkeys([DEFAULT, *(args.policies.split(",") if args.policies else QUICK_POLICIES)]))
    seeds = list(range(1, (1 if args.quick else args.seeds) + 1))
    figures = judge(compare(rows, policies, seeds))
    targets: dict[str, Target] = {"behind_best_on_worst_row": ("<=", 0.02)}
    targets["goodput_over_best_single_rival"] = (">=", 1.10)
    finish(figures, targets, args.json)


if __name__ == "__main__":
    main()
