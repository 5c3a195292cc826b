"""Percentiles by the planner's sums and in simulation, over a grid of shapes, fleets and loads."""

from itertools import product
from statistics import fmean

from msgspec.structs import replace

from benchmarks.report import table
from pilothouse.core.events import Role
from pilothouse.perf.catalog import GPUS, MODELS
from pilothouse.plan.analytic import Fleet, Load, Pool, bands, load_at, rate_max
from pilothouse.plan.asks import Asks, asks_of
from pilothouse.plan.document import Layout, Objective, Plan, PoolPlan
from pilothouse.plan.engines import engine_of
from pilothouse.plan.rehearsal import Job, rehearse
from pilothouse.plan.simulated import fleet_of, hardware_of
from pilothouse.workload.open_loop import OpenLoop
from pilothouse.workload.requests import Workload
from pilothouse.workload.sessions import Phase
from pilothouse.workload.spec import Recipe

TELLING = 0.1  # from here on a plan says that sums and simulation differ
REQUESTS, LEAD = 3000, 1000
SHAPES = (((200, 1400), (50, 350)), ((2000, 6000), (100, 300)), ((100, 500), (400, 1200)))  # prompts, answers [tokens]


def grid(figures: dict[str, float], quick: bool = False) -> None:
    rows: list[list[str]] = []
    errors: dict[str, list[float]] = {"ttft": [], "tpot": []}
    unsaid = 0
    for (prompts, outputs), replicas, split, share in product(
        SHAPES, (1, 2) if quick else (1, 4), (False, True), (0.3, 0.85) if quick else (0.3, 0.6, 0.85)
    ):
        load, done, allowed = _point(prompts, outputs, replicas, split, share)
        off = {"ttft": load.ttft_us / 1e6 / done[0] - 1, "tpot": load.tpot_us / 1e6 / done[1] - 1}
        for name, error in off.items():
            errors[name].append(abs(error))
        kept = all(abs(off[name]) <= band for name, band in allowed.items())
        unsaid += not kept
        rows.append(
            [
                f"{prompts} {outputs}", f"{replicas}{' + prefill' if split else ''}", f"{share:.0%}", f"{load.batch:.0f}",
                f"{load.ttft_us / 1e6:.3f} | {done[0]:.3f} ({off['ttft']:+.0%})",
                f"{load.tpot_us / 1e3:.1f} | {done[1] * 1e3:.1f} ({off['tpot']:+.0%})",
                "" if max(map(abs, off.values())) <= TELLING else "within its band" if kept else "unsaid",
            ]
        )  # fmt: skip
    columns = ["prompts, answers", "engines", "load", "batch", "TTFT p95 s", "TPOT p95 ms", "off by more than 10 %"]
    table("Estimated | Simulated (error): Qwen3-32B, bf16, engines of 2 x H100", columns, rows)
    figures["grid_unsaid"] = unsaid
    for name, found in errors.items():
        figures[f"grid_{name}"] = fmean(found)
        figures[f"grid_{name}_over_10_percent"] = fmean(error > TELLING for error in found)


def _point(
    prompts: tuple[int, int], outputs: tuple[int, int], replicas: int, split: bool, share: float
) -> tuple[Load, tuple[float, float], dict[str, float]]:
    """By sums, in simulation, and how far a plan says that sums may be off where it is not simulated."""

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
    times = [planned.arrival_us for planned in workload.stages[0].requests]
    came = (len(times) - 1) / (times[-1] - times[0]) * 1e6  # luck of the arrivals is no error of the sums
    load = load_at(fleet, asks, came, 95, 0.0)
    simulated = fleet_of(plan, hardware_of(plan), asks.demand.context_mean, workload.block_size)
    done = rehearse(Job(simulated, "marginal_cost", workload, 95, 1, LEAD))
    ttft, tpot = bands(fleet, load)
    return load, (done.ttft_s, done.tpot_s), {"ttft": ttft, "tpot": tpot}
