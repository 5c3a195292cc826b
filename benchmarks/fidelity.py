"""Is the simulator true? Published measurements against what follows from coefficients fitted on silicon rows alone.

    python -m benchmarks.fidelity [--ladder FILE] [--quick] [--json] [--seed N] [--seeds N]

Step time, KV capacity, and a published ladder: each router of the file, all rungs in one run with warm caches, as it was
measured; each figure is the mean over some seeds. Everything but the published columns is simulated. Two numbers come
from the ladder of the llm-d guide itself, one value for all of its rungs and routers, and are taken for every other
ladder: `rho`, the shared share of context reads, and `OVERHEAD_US`.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, pstdev
from time import process_time

import msgspec

from benchmarks.ladder import LLMD, METRICS, WARM_UP, Ladder, engine, profile_for, read
from benchmarks.report import Target, finish, say, table
from benchmarks.silicon import SHARED, silicon, step_times
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.selection import Profile
from pilothouse.core.units import SECOND, Micros
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.perf.memory import Precision, kv_gib, kv_tokens
from pilothouse.policies.profiles import PROFILES
from pilothouse.policies.rivals import CACHE_KNOWLEDGE, RIVALS, CacheKnowledge, Knows
from pilothouse.sim.delays import Delays
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Fleet, Pool, summaries, world
from pilothouse.workload.outcomes import Summary
from pilothouse.workload.requests import total_requests
from pilothouse.workload.shared_prefix import Load, SharedPrefix, generate

GUIDE = SHARED / "llmd_optimized_baseline_ladder.csv"
OVERHEAD_US = Micros(42_000)  # client, gateway, network, tokenisation: read off the lowest rung of the guide's ladder
COUNTED = 0.97  # of the generated tokens, as clients count them: published runs lie between 0.94 and 0.99
LLMD_KNOWS = CacheKnowledge(Knows.APPROXIMATE, 31_250, Micros(SECOND // 20))  # of the guide: own index, scraped often
KNEE = 10.0  # mean TTFT this many times that of the lowest rung: the fleet is past its knee
LIMITS = {"out": 0.08, "itl": 0.05, "ttft": 0.12, "knee_rungs_apart": 1.0}
KV_MEASURED = [  # model, TP, precision, utilisation, GiB per GPU: published by llm-d-planner, vLLM 0.11 on H100
    ("openai/gpt-oss-20b", 1, "fp4", 0.9, 50.28),
    ("openai/gpt-oss-120b", 1, "fp4", 0.95, 3.33),
    ("meta-llama/Llama-3.1-70B", 2, "fp8", 0.9, 32.00),
    ("meta-llama/Llama-3.1-8B", 1, "bf16", 0.9, 51.38),
    ("Qwen/Qwen3-0.6B", 1, "bf16", 0.9, 64.45),
    ("Qwen/Qwen3-32B", 1, "bf16", 0.9, 4.45),
    ("Qwen/Qwen3-32B", 2, "bf16", 0.9, 34.49),
]


def kv_capacity(figures: dict[str, float]) -> None:
    gpu, rows, errors = GPUS["h100_sxm"], [], []
    for name, tp, precision, utilisation, measured in KV_MEASURED:
        gib = kv_gib(MODELS[name], gpu, tp, Precision(precision), utilisation)
        errors.append(abs(gib / measured - 1))
        rows.append([name, str(tp), precision, f"{measured:.2f}", f"{gib:.2f}", f"{gib / measured - 1:+.1%}"])
    table("KV space on H100 [GiB per GPU]", ["model", "TP", "weights", "Measured", "Estimated", "error"], rows)
    figures["kv_capacity"] = sum(errors) / len(errors)
    tokens = kv_tokens(MODELS["Qwen/Qwen3-32B"], gpu, 2, Precision.BF16, 0.95)
    figures["kv_capacity_of_the_ladder"] = abs(tokens / 307_328 - 1)  # published for the guide's deployment


def guide_engine() -> EngineSpec:
    """A replica of the guide's fleet, as far as it follows from lookups."""
    guide = Ladder("", MODELS["Qwen/Qwen3-32B"], Precision.BF16, GPUS["h100_sxm"], 8, 2, 0.95, "0.19.1", [])
    found = engine(guide)
    assert found is not None
    return found


def ladder_fleet(spec: EngineSpec, replicas: int = 8, known: CacheKnowledge = LLMD_KNOWS) -> Fleet:
    """Equal replicas behind a router that is told so much of them."""
    delays = Delays(OVERHEAD_US, Micros(0), Micros(5_000), known.scrape_us, Micros(0))
    pool = Pool("replica", replicas, spec, exact=known.knows is Knows.PRECISE, index_blocks=known.blocks)
    return Fleet([pool], delays, tell_blocks=known.knows is not Knows.NOTHING)


def climb(fleet: Fleet, profile: Profile, loads: list[Load], seed: int) -> list[Summary]:
    """The whole ladder in one run, as it was measured."""
    workload = generate(SharedPrefix(loads=[WARM_UP, *loads], counted_ratio=COUNTED), seed)
    settings = DispatcherSettings(seed=seed, strict=True, why_max=0)  # nobody reads the receipts
    began = process_time()
    results = world(fleet, Dispatcher(settings, profile), workload).run()
    seconds, count = process_time() - began, total_requests(workload.stages)
    say(f"  {profile.name}, seed {seed}: {count} requests in {seconds:.1f} s of processor time")
    return summaries(results)


def one(spec: EngineSpec, ladder: Ladder, name: str, seed: int) -> list[Summary]:
    """One seed; in a process of its own."""
    known = LLMD_KNOWS if name == LLMD else CACHE_KNOWLEDGE.get(name) or CacheKnowledge(Knows.PRECISE, None, SECOND)
    profile = {**PROFILES, **RIVALS}[name]
    return climb(ladder_fleet(spec, ladder.replicas, known), profile, [rung.load for rung in ladder.rungs], seed)


def got(summary: Summary) -> dict[str, float]:
    """A summary under the names of METRICS."""
    ttft = summary.ttft
    values = (summary.output_per_second, summary.tpot.mean * 1000, ttft.mean, ttft.p90)
    return dict(zip(METRICS, values, strict=True))


def knee(ttfts: list[float]) -> int:
    """The first rung past it; their number if there is none."""
    return next((i for i, ttft in enumerate(ttfts) if ttft > KNEE * ttfts[0]), len(ttfts))


def compare(title: str, ladder: Ladder, runs: list[list[Summary]], figures: dict[str, float]) -> None:
    """Means over seeds against the published columns."""
    shown, errors, of_seeds = [], defaultdict(list), defaultdict(list)
    means: list[dict[str, float]] = []
    for i, rung in enumerate(ladder.rungs):
        values = [got(run[i]) for run in runs]
        means.append({name: fmean(value[name] for value in values) for name in METRICS})
        cells = [f"{rung.load.rate:g}"]
        for name in METRICS:
            published, mean = rung.measured.get(name), means[i][name]
            spread = f" ±{pstdev(value[name] for value in values) / mean:.0%}" if len(runs) > 1 else ""
            if published:
                errors[name].append(abs(mean / published - 1))
                of_seeds[name].append([abs(value[name] / published - 1) for value in values])
                cells.append(f"{published:g} | {mean:.4g}{spread} ({mean / published - 1:+.0%})")
            else:
                cells.append(f"- | {mean:.4g}{spread}")
        shown.append([*cells, f"{fmean(run[i].hit_ratio for run in runs):.0%}"])
    table(f"{title}: Measured (published) | Simulated, mean ± deviation of {len(runs)} seeds (error)",
          ["req/s", *METRICS, "hits"], shown)  # fmt: skip
    for name, parts in errors.items():
        figures[f"{title}_{name}"] = fmean(parts)
        single = [fmean(rung[seed] for rung in of_seeds[name]) for seed in range(len(runs))]
        say(f"  {name}: {fmean(parts):.1%} of the means; single seeds {min(single):.1%} to {max(single):.1%}")
    if all("ttft" in rung.measured for rung in ladder.rungs):
        knees = knee([rung.measured["ttft"] for rung in ladder.rungs]), knee([mean["ttft"] for mean in means])
        figures[f"{title}_knee_rungs_apart"] = abs(knees[0] - knees[1])


def climb_all(ladders: list[Ladder], seeds: list[int], figures: dict[str, float]) -> dict[str, Target]:
    """Every ladder with every seed on all cores; returns the targets."""
    targets: dict[str, Target] = {}
    several = len({ladder.fleet for ladder in ladders}) > 1
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(seeds))) as workers:
        for ladder in ladders:
            name = profile_for(ladder.router)
            say(f"{ladder.router} (simulated as {name}) on {ladder.fleet}")
            spec = engine(ladder)
            title = f"{ladder.router}_{ladder.fleet}".replace(" ", "_") if several else ladder.router
            targets |= {f"{title}_{figure}": ("<=", limit) for figure, limit in LIMITS.items()}
            if spec is not None:
                tasks = [workers.submit(one, spec, ladder, name, seed) for seed in seeds]
                compare(title, ladder, [task.result() for task in tasks], figures)
    return targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladder", type=Path, default=GUIDE, help="CSV file with the columns of the published ladder")
    parser.add_argument("--quick", action="store_true", help="the first five rungs only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    args = parser.parse_args()
    if not args.ladder.is_file():
        say(f"skipped: there is no ladder {args.ladder.name}")
        if args.json:
            print(json.dumps({"figures": {}, "targets": {}, "skipped": "no ladder"}))
        sys.exit(0 if args.ladder == GUIDE else 2)
    figures: dict[str, float] = {}
    targets: dict[str, Target] = {"kv_capacity": ("<=", 0.03), "kv_capacity_of_the_ladder": ("<=", 0.03)}
    if SHARED.is_dir():
        step_times(silicon(), figures)
        targets |= {"silicon_tpot_in_fit": ("<=", 0.05), "silicon_tpot_leaving_tp_out": ("<=", 0.08)}
    kv_capacity(figures)
    try:
        ladders = read(args.ladder)
    except (KeyError, ValueError) as error:
        say(f"{args.ladder.name}: {error.args[0]}")
        sys.exit(2)
    if args.quick:
        ladders = [msgspec.structs.replace(ladder, rungs=ladder.rungs[:5]) for ladder in ladders]
    seeds = [args.seed + i for i in range(args.seeds)]
    targets |= climb_all(ladders, seeds, figures)
    finish(figures, targets, args.json)


if __name__ == "__main__":
    main()
