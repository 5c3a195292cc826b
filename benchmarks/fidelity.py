"""Is the simulator true? Published measurements against what follows from coefficients fitted on silicon rows alone.

    python -m benchmarks.fidelity [--ladder FILE] [--quick] [--json] [--seed N]

Step time, KV capacity, and the published ladder of the llm-d guide: 8 replicas, two routers, all rungs in one run with
warm caches. Everything but the published columns is simulated. The shared-context share `rho` was fitted on this ladder.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from time import process_time

import msgspec

from benchmarks.report import finish, say, table
from benchmarks.silicon import SHARED, silicon, step_times
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Picker, Scorer
from pilothouse.core.selection import Named, Profile
from pilothouse.core.units import SECOND, Micros
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.perf.coefficients import step_time as step_time_of
from pilothouse.perf.memory import Precision, kv_gib, kv_tokens
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.rivals import RIVALS, BestRandomTie
from pilothouse.sim.delays import Delays
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Fleet, Pool, summaries, world
from pilothouse.workload.outcomes import Summary
from pilothouse.workload.requests import total_requests
from pilothouse.workload.shared_prefix import Load, SharedPrefix, generate

KV_BLOCKS = 307_328 // 16  # published for such a deployment; the memory model gives 2.7 % more
OVERHEAD_US = Micros(80_000)  # client, gateway, tokenisation: read off the lowest rung
KNEE = 10.0  # mean TTFT this many times that of the lowest rung: the fleet is past its knee
KV_MEASURED = [  # model, TP, precision, utilisation, GiB per GPU: published by llm-d-planner, vLLM 0.11 on H100
    ("openai/gpt-oss-20b", 1, "fp4", 0.9, 50.28),
    ("openai/gpt-oss-120b", 1, "fp4", 0.95, 3.33),
    ("meta-llama/Llama-3.1-70B", 2, "fp8", 0.9, 32.00),
    ("meta-llama/Llama-3.1-8B", 1, "bf16", 0.9, 51.38),
    ("Qwen/Qwen3-0.6B", 1, "bf16", 0.9, 64.45),
    ("Qwen/Qwen3-32B", 1, "bf16", 0.9, 4.45),
    ("Qwen/Qwen3-32B", 2, "bf16", 0.9, 34.49),
]


class NoHitLru(Scorer, frozen=True):
    """llm-d's no-hit LRU with its memory, which the shipped approximation must do without. Shares `order` with the
    picker. For reproducing the published runs only."""

    order: list[str]  # endpoints, the one whose last cold assignment is longest ago first

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        if any(known.cached_tokens) or len(known.endpoints) == 1:
            return [0.5] * len(known.endpoints)
        ids = [endpoint.id for endpoint in known.endpoints]
        self.order.extend(i for i in ids if i not in self.order)
        return [1.0 - self.order.index(i) / (len(self.order) - 1) for i in ids]


class RememberCold(Picker, frozen=True):
    """The best, equal ones drawn from; remembers who got a cold prompt."""

    order: list[str]

    def pick(self, arrived: Arrived, known: Known, totals: list[float]) -> int:
        index = BestRandomTie().pick(arrived, known, totals)
        if not any(known.cached_tokens):
            self.order.remove(known.endpoints[index].id)
            self.order.append(known.endpoints[index].id)
        return index


def llmd() -> Profile:
    """llm-d's default weights, with the memory of cold assignments that llm-d has."""
    base, order = RIVALS["llmd_default"], list[str]()
    named = [Named(n.name, NoHitLru(order), n.weight) if "lru" in n.name else n for n in base.scorers]
    return Profile(base.name, [], named, RememberCold(order))


def kv_capacity(figures: dict[str, float]) -> None:
    gpu, rows, errors = GPUS["h100_sxm"], [], []
    for name, tp, precision, utilisation, measured in KV_MEASURED:
        gib = kv_gib(MODELS[name], gpu, tp, Precision(precision), utilisation)
        errors.append(abs(gib / measured - 1))
        rows.append([name, str(tp), precision, f"{measured:.2f}", f"{gib:.2f}", f"{gib / measured - 1:+.1%}"])
    table("KV space on H100 [GiB per GPU]", ["model", "TP", "weights", "Measured", "Estimated", "error"], rows)
    figures["kv_capacity"] = sum(errors) / len(errors)
    tokens = kv_tokens(MODELS["Qwen/Qwen3-32B"], gpu, 2, Precision.BF16, 0.95)
    figures["kv_capacity_of_the_ladder"] = abs(tokens / (KV_BLOCKS * 16) - 1)


def ladder_step_time() -> StepTime:
    return step_time_of(MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"], 2, Precision.BF16)


def ladder_fleet(step_time: StepTime, *, routed: bool) -> Fleet:
    """8 replicas. llm-d scrapes every 50 ms, and believes in 31,250 blocks of prefix per replica."""
    scrape_us = Micros(SECOND // 20) if routed else Micros(0)
    delays = Delays(OVERHEAD_US, Micros(0), Micros(5_000), scrape_us, Micros(0))
    pool = Pool("h100", 8, EngineSpec(step_time, KV_BLOCKS), index_blocks=31_250)
    return Fleet([pool], delays, tell_blocks=routed)


def climb(fleet: Fleet, profile: Profile, loads: list[Load], seed: int) -> list[Summary]:
    """The whole ladder in one run, as it was measured."""
    warm = Load(15, 50, reported=False)
    workload = generate(SharedPrefix(loads=[warm, *loads]), seed)
    settings = DispatcherSettings(seed=seed, strict=True, why_max=0)  # nobody reads the receipts
    began = process_time()
    results = world(fleet, Dispatcher(settings, profile), workload).run()
    seconds, count = process_time() - began, total_requests(workload.stages)
    say(f"  {profile.name}: {count} requests in {seconds:.1f} s of processor time, {count / seconds:.0f} per second")
    return summaries(results)


def knee(ttfts: list[float]) -> int:
    """The first rung past it; their number if there is none."""
    return next((i for i, ttft in enumerate(ttfts) if ttft > KNEE * ttfts[0]), len(ttfts))


def compare(router: str, rows: list[dict[str, str]], simulated: list[Summary], figures: dict[str, float]) -> None:
    names = {"out": "out_tok_s", "itl": "itl_mean_ms", "ttft": "ttft_mean_s", "ttft_p90": "ttft_p90_s"}
    shown, errors = [], defaultdict(list)
    for row, s in zip(rows, simulated, strict=True):
        got = {"out": s.output_per_second, "itl": s.tpot.mean * 1000, "ttft": s.ttft.mean, "ttft_p90": s.ttft.p90}
        cells = [row["qps"]]
        for name, column in names.items():
            published = float(row[column])
            errors[name].append(abs(got[name] / published - 1))
            cells.append(f"{published:g} | {got[name]:.4g} ({got[name] / published - 1:+.0%})")
        shown.append([*cells, f"{s.hit_ratio:.0%}"])
    table(f"{router}: Measured (published) | Simulated", ["req/s", *names, "hits"], shown)
    for name, parts in errors.items():
        figures[f"{router}_{name}"] = sum(parts) / len(parts)
    knees = knee([float(row["ttft_mean_s"]) for row in rows]), knee([s.ttft.mean for s in simulated])
    figures[f"{router}_knee_rungs_apart"] = abs(knees[0] - knees[1])


def read_ladder(path: Path, quick: bool) -> dict[str, list[dict[str, str]]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    ladder: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        ladder.setdefault(row["router"], []).append(row)
    return {router: part[:5] if quick else part for router, part in ladder.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, default=SHARED / "llmd_optimized_baseline_ladder.csv")
    parser.add_argument("--quick", action="store_true", help="the first five rungs only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not SHARED.is_dir() or not args.ladder.is_file():
        say(f"skipped: the reference data are not there ({args.ladder.name}, {SHARED.name}/)")
        if args.json:
            print(json.dumps({"figures": {}, "targets": {}, "skipped": "no reference data"}))
        sys.exit(0)
    figures: dict[str, float] = {}
    step_times(silicon(), figures)
    step_time = ladder_step_time()
    kv_capacity(figures)
    targets = {"silicon_tpot_in_fit": ("<=", 0.05), "silicon_tpot_leaving_tp_out": ("<=", 0.08)}
    targets |= {"kv_capacity": ("<=", 0.03), "kv_capacity_of_the_ladder": ("<=", 0.03)}
    for router, rows in read_ladder(args.ladder, args.quick).items():
        routed = router == "llmd_routed"
        loads = [Load(float(row["qps"]), float(row["stage_seconds"])) for row in rows]
        profile = llmd() if routed else RIVALS["kube_service"]
        compare(router, rows, climb(ladder_fleet(step_time, routed=routed), profile, loads, args.seed), figures)
        limits = {"out": 0.08, "itl": 0.05, "ttft": 0.12, "knee_rungs_apart": 1.0}
        targets |= {f"{router}_{name}": ("<=", limit) for name, limit in limits.items()}
    say(f"  coefficients: {msgspec.json.encode(step_time).decode()}")
    finish(figures, targets, args.json)


if __name__ == "__main__":
    main()
