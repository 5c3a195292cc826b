"""Fleets tried in the simulator before one is recommended: together and apart, at equal cost, by the same requests.

Together is tried with small steps too: a step budget keeps prompts from holding others up, and costs nothing but time until
the first token. Whoever asks whether to split should know of it.
"""

from collections.abc import Callable, Sequence

import msgspec

from pilothouse.build import Setting
from pilothouse.core.events import Role
from pilothouse.plan.disaggregate import FleetPlan, Pool, SplitAdvice, in_small_steps, resized
from pilothouse.plan.document import Layout, Objective, Plan, PoolPlan
from pilothouse.plan.machine import Machine
from pilothouse.plan.simulated import fleet_of, hardware_of
from pilothouse.sim.world import Fleet
from pilothouse.workload.goodput import goodput_note
from pilothouse.workload.outcomes import Objectives, Run
from pilothouse.workload.requests import Workload

Simulate = Callable[[Fleet, Workload, Setting], Run]
GOOD = 0.95  # of the requests within the objectives: a fleet that serves its workload
TELLING = 0.01  # of the requests: a smaller difference says nothing
STEP_TOKENS_MIN = 256  # of a step budget: smaller ones leave no room for those who decode


class Machines(msgspec.Struct, frozen=True):
    """What the pools are made of."""

    both: Machine
    prefill: Machine
    decode: Machine

    def of(self, role: str) -> Machine:
        found: Machine = getattr(self, role)
        return found


class Trial(msgspec.Struct, frozen=True):
    """One fleet as it did. Seconds."""

    plan: FleetPlan
    good_ratio: float  # of requests within the objectives
    ttft_mean: float
    ttft_p99: float
    tpot_mean: float
    itl_p99: float
    refused: int
    label: str


def fleets(advice: SplitAdvice, machines: Machines) -> list[FleetPlan]:
    """Both as estimated, as many engines together as the split costs, and splits next to the estimated one."""
    found: list[FleetPlan] = []
    if advice.together is not None:
        found.append(advice.together)
        if advice.apart is not None:
            each = cost(resized(advice.together, [1], [machines.both]))
            engines = max(1, int(cost(advice.apart) / each + 1e-9))
            found.append(resized(advice.together, [engines], [machines.both]))
        if advice.stall_us > advice.terms.tpot_us and advice.quiet_tokens >= STEP_TOKENS_MIN:
            found += [in_small_steps(plan, advice.quiet_tokens) for plan in found]
    if advice.apart is None:
        return list({plan.name: plan for plan in found}.values())
    pair = [machines.prefill, machines.decode]
    prefill, decode = (pool.engines for pool in advice.apart.pools)
    near = [(prefill, decode), (prefill + 1, decode - 1), (prefill - 1, decode + 1)]
    found += [resized(advice.apart, list(counts), pair) for counts in near if min(counts) > 0]
    return list({plan.name: plan for plan in found}.values())


def tried(
    plan: FleetPlan,
    machines: Machines,
    workload: Workload,
    objectives: Objectives,
    advice: SplitAdvice,
    simulate: Simulate,
) -> tuple[Trial, Run]:
    """One fleet, with the requests of `workload`."""
    made = plan_of(plan, machines, objectives, advice)
    fleet = fleet_of(made, hardware_of(made), advice.need.context_tokens, workload.block_size)
    done = simulate(fleet, workload, Setting("advise disaggregate", objectives, notes=[goodput_note(objectives, {})]))
    run = msgspec.structs.replace(
        done, name=plan.name, notes=done.notes[:1]
    )  # fleets are compared, all under one policy
    stages = [stage.summary for stage in run.stages]
    last = max(stages, key=lambda stage: stage.requests)
    refused = sum(stage.refused for stage in stages)
    figures = last.ttft.mean, last.ttft.p99, last.tpot.mean, last.itl.p99
    return Trial(plan, run.good_ratio, *figures, refused, last.label), run


def settled(advice: SplitAdvice, trials: Sequence[Trial]) -> tuple[bool, str]:
    """Whether to split after all. The cheapest fleet that serves the workload; if none does, the best one."""
    serving = [trial for trial in trials if trial.good_ratio >= GOOD]
    best = _best(serving or trials)
    pays = not is_together(best.plan)
    others = [trial for trial in serving or trials if is_together(trial.plan) == pays]
    others = others or [trial for trial in trials if is_together(trial.plan) == pays]
    said = f"{'yes' if pays else 'no'}: {_did(best)}"
    said += f"; {_did(_best(others))}" if others else ""
    if not serving:
        said += f"; none reaches {GOOD:.0%}"
    changed = "" if pays == advice.pays else f"; the estimate alone said {'yes' if advice.pays else 'no'}"
    return pays, f"{said} [{best.label}]{changed}"


def _best(trials: Sequence[Trial]) -> Trial:
    """Of those that serve, the cheapest; else the one that serves most. Of equals, one that is simpler or answers sooner."""
    least, most = min(cost(trial.plan) for trial in trials), max(trial.good_ratio for trial in trials)
    if most >= GOOD:
        alike = [trial for trial in trials if cost(trial.plan) <= least * (1 + 1e-9)]
        most = max(trial.good_ratio for trial in alike)
    else:
        alike = list(trials)
    alike = [trial for trial in alike if trial.good_ratio >= most - TELLING]
    return min(alike, key=lambda trial: (cost(trial.plan), not is_together(trial.plan), trial.ttft_mean))


def is_together(plan: FleetPlan) -> bool:
    return len(plan.pools) == 1


def cost(plan: FleetPlan) -> float:
    """In money where prices are known, else in GPUs."""
    return plan.usd_h if plan.usd_h is not None else float(plan.gpus)


def _did(trial: Trial) -> str:
    usd_h = trial.plan.usd_h
    price = f"{trial.plan.gpus} GPUs" if usd_h is None else f"{trial.plan.gpus} GPUs, {usd_h:.4g} USD/h"
    return f"{trial.plan.name} ({price}): {trial.good_ratio:.1%} within the objectives, first token {trial.ttft_mean:.2f} s"


def plan_of(plan: FleetPlan, machines: Machines, objectives: Objectives, advice: SplitAdvice) -> Plan:
    """As search would have made it, and manifests and simulation read it."""
    limits = [None if limit is None else limit / 1e6 for limit in (objectives.ttft_us, objectives.tpot_us)]
    return Plan(
        name=plan.name,
        model=machines.both.model,
        pools=[_pool(pool, machines.of(pool.role), advice) for pool in plan.pools],
        objective=Objective(percentile=round(100 * GOOD), ttft_s=limits[0], tpot_s=limits[1]),
        workload=None,
    )


def _pool(pool: Pool, machine: Machine, advice: SplitAdvice) -> PoolPlan:
    tokens, split = pool.step_tokens or machine.batched_tokens, pool.role != "both"
    return PoolPlan(
        name=pool.role,
        role=Role(pool.role),
        replicas=pool.engines,
        layout=Layout(tp=machine.tp),
        gpu=machine.gpu,
        connector="nixl" if split else "",
        precision=machine.precision,
        max_num_seqs=min(tokens, machine.sequences),
        max_num_batched_tokens=tokens,
        step_time=machine.step_time_file or "",
        link_gb_per_s=advice.terms.link_gb_per_s if split else None,
        link_latency_s=advice.terms.link_latency_us / 1e6 if split else None,
    )
