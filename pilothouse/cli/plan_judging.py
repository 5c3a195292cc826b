"""What a plan that is there already promises, by sums and in simulation, and what of it does not hold."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from rich.console import Console

from pilothouse.cli.plan_question import prices_of, question_of
from pilothouse.cli.plan_wanted import Asked, Wanted, read_wanted
from pilothouse.cli.planning import rehearsed
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.analytic import INFINITE
from pilothouse.plan.document import Plan
from pilothouse.plan.figures import digits
from pilothouse.plan.promise import Terms, expected_of, promised
from pilothouse.plan.question import Question
from pilothouse.plan.rehearsal import confirmed, job
from pilothouse.plan.simulated import Hardware, hardware_of, problems_of
from pilothouse.plan.source import Source

DOUBT = 1.5  # times the highest rate by sums: beyond, simulation need not say that queues grow, and would take long


class How(msgspec.Struct, frozen=True):
    """What is to be done with them."""

    simulate: bool = True
    seed: int = 1
    out: Path | None = None
    page: Path | None = None
    json: bool = False
    late: bool = False  # the promise is to serve all, however late; else no more than what can be served


class Judged(msgspec.Struct, frozen=True):
    """A plan with what it promises, and what that was found out with."""

    plan: Plan
    question: Question
    source: Source
    hardware: Hardware


def judge(said: Plan, own: dict[str, Any], base: Path, how: How, file: str = "") -> Judged:
    """`own`: in place of what the plan says. Paths are relative to `base`. Raises ConfigError, with fields as `file` has them."""
    try:
        return _judge(_changed(said, own), own, base, how)
    except ConfigError as error:
        named = (
            p if p.where.startswith("-") or not file else Problem(f"{file}: {p.where}", p.what) for p in error.problems
        )
        raise ConfigError(list(named)) from None


def _judge(plan: Plan, own: dict[str, Any], base: Path, how: How) -> Judged:
    hardware, (given, _) = hardware_of(plan), read_wanted(None, own)
    if problems := problems_of(plan, hardware):
        raise ConfigError(problems)
    first = plan.pools[0]
    wanted: Wanted = replace(
        given, model=plan.model, gpu=first.gpu, gpus=plan.gpus, gpus_per_node=first.gpus_per_node, rate=plan.rate,
        workload=given.workload if asks_other(own) else plan.workload,
        precisions=[first.precision], kv_precision=first.kv_precision,
    )  # fmt: skip
    asked = Asked(wanted, Path() if asks_other(own) else base, seed=how.seed, at_once=True)
    question, source = question_of(asked)
    if not asks_other(own):
        _all_there(plan, question)
    classes = plan.classes | question.classes
    plan = replace(plan, workload=question.workload)
    question = replace(question, name=plan.name, objective=plan.objective, classes=classes)
    prices = prices_of(asked, list(hardware.gpus.values()))
    terms = Terms(question.asks, prices, question.buying)
    made = promised(replace(plan, classes=classes), hardware, terms)
    if not how.late and question.asks.rate > (DOUBT if how.simulate else 1.0) * expected_of(made).requests_per_s_max:
        made = promised(replace(plan, classes=classes), hardware, terms, capped=True)
    if how.simulate and expected_of(made).requests_per_s_max:
        task = job(made, hardware, question.asks, source.workload, how.seed)
        made = confirmed(made, rehearsed([task], Console(stderr=True))[0])
    return Judged(made, question, source, hardware)


def _all_there(plan: Plan, question: Question) -> None:
    """Raises ConfigError for objectives of tenants that the workload does not have."""
    there = ", ".join(question.asks.classes) or "none, as only a mix has"
    lost = [name for name in plan.classes if name not in question.asks.classes]
    if lost:
        raise ConfigError([Problem(f"classes.{name}", f"is no tenant of the workload: {there}") for name in lost])


def _changed(plan: Plan, own: dict[str, Any]) -> Plan:
    """With what is one's own in place of what it says."""
    wanted, _ = read_wanted(None, own)
    pools = [
        replace(
            pool,
            gpu=own.get("gpu", pool.gpu),
            precision=wanted.precisions[0] if "precisions" in own else pool.precision,
            kv_precision=own.get("kv_precision", pool.kv_precision),
        )
        for pool in plan.pools
    ]
    if len(own.get("precisions", ())) > 1:
        raise ConfigError([Problem("--precision", "one, where the fleet is chosen")])
    objective = replace(
        plan.objective,
        percentile=own.get("percentile", plan.objective.percentile),
        ttft_s=plan.objective.ttft_s if wanted.ttft is None else wanted.ttft.seconds,
        tpot_s=plan.objective.tpot_s if wanted.tpot is None else wanted.tpot.seconds,
    )
    return replace(
        plan,
        model=own.get("model", plan.model),
        pools=pools,
        objective=objective,
        rate=own.get("rate", None if asks_other(own) else plan.rate),
    )


def asks_other(own: dict[str, Any]) -> bool:
    """Whether a workload of one's own is in the place of the plan's."""
    return any(name in own for name in ("workload", "prompt_tokens", "output_tokens", "shared_prefix", "concurrency"))


def missed(one: Judged) -> list[str]:
    """What a plan does not keep of what is asked of it."""
    plan, expected, asked = one.plan, expected_of(one.plan), one.question.asks.rate
    met = {"": (expected.ttft_s, expected.tpot_s)}
    if expected.classes:
        met = {f"{name}: ": (its.ttft_s, its.tpot_s) for name, its in expected.classes.items()}
    found = []
    for whose, values in met.items():
        objective = plan.classes.get(whose.removesuffix(": "), plan.objective)
        pairs = zip(("TTFT", "TPOT"), values, (objective.ttft_s, objective.tpot_s), strict=True)
        found += [
            f"{whose}{name} p{objective.percentile} {_seconds(value)} of {limit:g} s"
            for name, value, limit in pairs
            if limit is not None and value > limit
        ]
    found += _too_long(one)
    if expected.requests_per_s < asked and one.question.asks.closed is None:
        found.append(f"{expected.requests_per_s:.3g} of {asked:.3g} requests/s can be served")
    return found


def _seconds(value: float) -> str:
    return "without end, as queues grow," if value == INFINITE else f"{digits(value)} s"


def _too_long(one: Judged) -> list[str]:
    """Requests that engines would refuse; the simulator's take any."""
    limits = [pool.max_model_len for pool in one.plan.pools if pool.max_model_len is not None]
    lengths = [each.prompt_tokens + each.output_tokens for s in one.source.workload.stages for each in s.requests]
    beyond = sum(length > min(limits) for length in lengths) if limits else 0
    if not beyond:
        return []
    what = f"{beyond:,} of {len(lengths):,} requests are longer than max_model_len, {min(limits):,}"
    return [f"{what}: engines refuse them (the longest has {max(lengths):,} tokens)"]
