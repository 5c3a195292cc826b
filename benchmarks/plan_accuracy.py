"""How far the planner's sums are off: against measured rows, and against simulation over a grid.

    python -m benchmarks.plan_accuracy [--silicon FILE] [--no-grid] [--json]

Silicon rows are closed loops of one engine at a fixed concurrency: TPOT by the sums at that batch, where prompts come as
fast as answers end. KV capacity is compared with the measurements published by llm-d-planner. The grid is an open loop:
95th percentiles by sums and in simulation, at shares of the highest rate.
"""

import argparse
import csv
from itertools import product
from pathlib import Path
from statistics import fmean

from msgspec.structs import replace

from benchmarks.fidelity import KV_MEASURED
from benchmarks.report import Target, finish, say, table
from benchmarks.silicon import LEFT_OUT, SHARED
from pilothouse.core.events import Role
from pilothouse.perf.catalog import GPUS, MODELS, gpu_named, model_named, precision_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import Precision
from pilothouse.perf.step_time import StepTime, distinct_experts
from pilothouse.plan.analytic import Fleet, Load, Pool, load_at, rate_max
from pilothouse.plan.asks import Asks, asks_of
from pilothouse.plan.document import Layout, Objective, Plan, PoolPlan
from pilothouse.plan.engines import engine_of
from pilothouse.plan.memory import held
from pilothouse.plan.rehearsal import Job, rehearse
from pilothouse.plan.simulated import fleet_of, hardware_of
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe

TELLING = 0.1  # from here on a plan says that sums and simulation differ
REQUESTS, LEAD = 3000, 1000
TARGETS: dict[str, Target] = {
    "silicon_tpot": ("<=", 0.07),  # as `perf/coefficients.py` promises for rows that it knows
    "kv_capacity": ("<=", 0.03),
    "grid_tpot": ("<=", 0.10),
    "grid_ttft": ("<=", 0.25),  # queues in closed form: enough to choose what is simulated, which has the last word
}
SHAPES = (((200, 1400), (50, 350)), ((2000, 6000), (100, 300)), ((100, 500), (400, 1200)))  # prompts, answers [tokens]


def closed_tpot_us(times: StepTime, prompt: float, output: float, batch: int) -> float:
    """Of a closed loop: a prompt comes with every answer that ends, in a step beside the others."""
    decode = times.a_us + (times.b_us + times.c_ns * (prompt + output / 2) / 1e3) * batch
    if times.expert_us:
        decode += times.expert_us * distinct_experts(times.experts, times.experts_per_token, batch)
    work = times.b_us + times.p_us * prompt + times.q_ps / 1e6 * prompt**2 / 2
    return decode + (batch - 1) / output * work


def silicon(path: Path, figures: dict[str, float]) -> None:
    errors: dict[str, list[float]] = {}
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if not row.get("flag")]
    for row in rows:
        if any(name in row["model"] for name in LEFT_OUT):
            continue
        try:
            model, gpu = model_named(row["model"]), gpu_named(row["system"])
            precision = precision_named(row["precision"])
        except KeyError as error:
            say(f"  left out: {error.args[0]}")
            continue
        times = step_time(model, gpu, int(row["tp"]), precision)
        tpot = closed_tpot_us(times, float(row["isl"]), float(row["osl"]), int(float(row["concurrency"]))) / 1e3
        name = f"{model.name} {precision} {gpu.name} TP{row['tp']} {times.label}"
        errors.setdefault(name, []).append(tpot / float(row["tpot_ms"]) - 1)
    lines = [
        [name, str(len(found)), f"{fmean(found):+.1%}", f"{fmean(map(abs, found)):.1%}", f"{max(map(abs, found)):.1%}"]
        for name, found in sorted(errors.items())
    ]
    table("TPOT by sums against measured rows", ["configuration", "rows", "bias", "error", "largest"], lines)
    figures["silicon_tpot"] = fmean(abs(error) for found in errors.values() for error in found)


def kv_capacity(figures: dict[str, float]) -> None:
    rows, errors = [], []
    for name, tp, precision, utilisation, measured in KV_MEASURED:
        gib = held(MODELS[name], GPUS["h100_sxm"], Layout(tp=tp), Precision(precision), utilisation).kv
        errors.append(abs(gib / measured - 1))
        rows.append([name, str(tp), precision, f"{measured:.2f}", f"{gib:.2f}", f"{gib / measured - 1:+.1%}"])
    table("KV space on H100 [GiB per GPU]", ["model", "TP", "weights", "Measured", "Estimated", "error"], rows)
    figures["kv_capacity"] = fmean(errors)


def grid(figures: dict[str, float]) -> None:
    rows: list[list[str]] = []
    errors: dict[str, list[float]] = {"ttft": [], "tpot": []}
    for (prompts, outputs), replicas, split, share in product(SHAPES, (1, 4), (False, True), (0.3, 0.6, 0.85)):
        load, done = _point(prompts, outputs, replicas, split, share)
        off = {"ttft": load.ttft_us / 1e6 / done[0] - 1, "tpot": load.tpot_us / 1e6 / done[1] - 1}
        for name, error in off.items():
            errors[name].append(abs(error))
        rows.append(
            [
                f"{prompts} {outputs}", f"{replicas}{' + prefill' if split else ''}", f"{share:.0%}", f"{load.batch:.0f}",
                f"{load.ttft_us / 1e6:.3f} | {done[0]:.3f} ({off['ttft']:+.0%})",
                f"{load.tpot_us / 1e3:.1f} | {done[1] * 1e3:.1f} ({off['tpot']:+.0%})",
                "said" if max(map(abs, off.values())) > TELLING else "",
            ]
        )  # fmt: skip
    columns = ["prompts, answers", "engines", "load", "batch", "TTFT p95 s", "TPOT p95 ms", "off by more than 10 %"]
    table("Estimated | Simulated (error): Qwen3-32B, bf16, engines of 2 x H100", columns, rows)
    for name, found in errors.items():
        figures[f"grid_{name}"] = fmean(found)
        figures[f"grid_{name}_over_10_percent"] = fmean(error > TELLING for error in found)


def _point(
    prompts: tuple[int, int], outputs: tuple[int, int], replicas: int, split: bool, share: float
) -> tuple[Load, tuple[float, float]]:
    def asked(rate: float, requests: int) -> tuple[Workload, Asks]:
        phases = [Phase(rate=rate, seconds=requests / rate)]  # type: ignore[arg-type]
        made = Recipe(OpenLoop(prompt_tokens=prompts, output_tokens=outputs, phases=phases)).make(1)  # type: ignore[arg-type]
        return made, asks_of(made, rate)

    model, gpu = MODELS["Qwen/Qwen3-32B"], GPUS["h100_sxm"]
    pool = PoolPlan(name="engines", replicas=replicas, layout=Layout(tp=2), gpu=gpu.name)
    _, asks = asked(1.0, 300)
    engine = engine_of(pool, model, gpu, asks.demand.context_mean)
    fleet = Fleet(Pool(engine, replicas), Pool(engine, replicas) if split else None)
    pools = [pool]
    if split:
        pools = [replace(pool, name=role.value, role=role, connector="nixl") for role in (Role.PREFILL, Role.DECODE)]
    plan = Plan(name="grid", model=model.name, pools=pools, objective=Objective(), workload=None)
    highest, _ = rate_max(fleet, asks, 95, (float("inf"), float("inf")), 0.0)
    workload, asks = asked(share * highest, REQUESTS)
    load = load_at(fleet, asks, asks.rate, 95, 0.0)
    simulated = fleet_of(plan, hardware_of(plan), asks.demand.context_mean, workload.block_size)
    done = rehearse(Job(simulated, "marginal_cost", workload, 95, 1, LEAD))
    return load, (done.ttft_s, done.tpot_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silicon", type=Path, default=SHARED / "silicon_train.csv", help="rows of the same columns")
    parser.add_argument("--no-grid", action="store_true", help="measured rows only")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    if args.silicon.exists():
        silicon(args.silicon, figures)
    else:
        say(f"{args.silicon} is missing: silicon rows are left out")
    kv_capacity(figures)
    if not args.no_grid:
        grid(figures)
    finish(figures, TARGETS, args.json)


if __name__ == "__main__":
    main()
