"""Whether to speculate, and how: every method at this workload's batch, the best of them simulated before it is named.

Speed is what answers gain while they are generated: time per output token without speculation over that with it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from pilothouse import build
from pilothouse.config.scenario_load import policy_named
from pilothouse.core.dispatcher import DispatcherSettings
from pilothouse.perf.acceptance import PUBLISHED, Kind, available, constrained_kept, draft_model_for, published
from pilothouse.perf.catalog import Gpu, Model, Precision
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import GIB, SEQUENCE_TOKENS, default_limits, kv_gib, sequence_bytes
from pilothouse.perf.speculation import (
    Method,
    Speculation,
    draft_pass,
    expected_tokens,
    gain,
    memory_bytes,
    speculative,
    vanishes_at,
)
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.profiles import DEFAULT
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.world import Fleet, Pool
from pilothouse.workload.outcomes import Outcome
from pilothouse.workload.requests import Workload

REQUESTS_MAX = 3000  # simulated: a longer workload is cut, as its batches are seen by then
WORTH = 1.05  # a gain below this is within what the estimate may be off
SIMULATED_MAX = 3  # methods: the best ones by arithmetic
BOUND_MIN = 0.02  # share of constrained tokens that is worth a word


class Asked(msgspec.Struct, frozen=True):
    """What is to be judged."""

    workload: Workload
    model: Model
    gpu: Gpu
    tp: int
    precision: Precision
    step_time: StepTime  # of the target, without speculation
    engines: int
    work: Kind
    accepted: Mapping[Method, float] = {}  # share of drafted tokens that running engines accept: Measured
    draft_tokens: int = 3  # that those draft
    seed: int = 1


class Option(msgspec.Struct, frozen=True):
    """One method."""

    method: str
    draft_tokens: int
    acceptance: float
    label: str  # of the acceptance: Measured or Estimated
    source: str
    tokens_per_step: float
    gain: float  # at the workload's batch and share of constrained tokens: Estimated
    gain_constrained: float  # of those alone
    vanishes_at: int | None  # batch from which on it is no gain; None = never
    weights_gib: float  # per GPU
    kv_lost: float  # share of the KV space
    drafts_with: str
    available: bool
    simulated: float | None = None  # gain of the simulated workload; None = not simulated


class Advice(msgspec.Struct, frozen=True):
    """What to do. `method` is empty where nothing is best."""

    method: str
    draft_tokens: int
    reasons: list[str]
    batch: float  # sequences that decode together on one engine, mean over time: Simulated, without speculation
    context: int  # of each of them [tokens]
    constrained: float  # share of output tokens that a grammar, a schema or tools bind
    options: list[Option]  # best first
    step_time: str  # label and source


def advise(asked: Asked) -> Advice:
    """Simulates the workload up to `SIMULATED_MAX` + 1 times."""
    target = asked.step_time
    workload = _cut(asked.workload)
    plain = _outcomes(asked, workload, _engine(asked, target, None))
    batch, context = _batch(plain, asked.engines)
    requests = [planned for stage in workload.stages for planned in stage.requests]
    tokens = sum(planned.output_tokens for planned in requests)
    bound = sum(planned.output_tokens for planned in requests if planned.constrained) / max(1, tokens)
    options = [_best(asked, target, method, max(1, round(batch)), context, bound) for method in Method]
    options.sort(key=lambda option: (-option.available, -option.gain))
    tried = [option for option in options[:SIMULATED_MAX] if option.available and option.gain > 1.0]
    before_us = _tpot_us(plain)
    for option in tried:
        speculation = published(Method(option.method), asked.work, option.draft_tokens, option.acceptance)
        spec = _engine(asked, _with_drafts(asked, target, speculation), speculation)
        after_us = _tpot_us(_outcomes(asked, workload, spec))
        gained = before_us / after_us if after_us else None
        options[options.index(option)] = msgspec.structs.replace(option, simulated=gained)
    options.sort(key=lambda option: (-option.available, -(option.simulated or 0.0), -option.gain))
    best = options[0]
    is_worth = best.available and (best.simulated or 0.0) >= WORTH
    label = f"{target.label}: {target.source}"
    reasons = _reasons(asked, options, best if is_worth else None, batch, bound)
    method = (best.method, best.draft_tokens) if is_worth else ("", 0)
    return Advice(*method, reasons, batch, context, bound, options, label)


# One method


def _best(asked: Asked, target: StepTime, method: Method, batch: int, context: int, bound: float) -> Option:
    """With as many draft tokens as gain most."""
    options = [_option(asked, target, method, count, batch, context, bound) for count in PUBLISHED[method].draft_tokens]
    return max(options, key=lambda option: option.gain)


def _option(
    asked: Asked, target: StepTime, method: Method, draft_tokens: int, batch: int, context: int, bound: float
) -> Option:
    measured = asked.accepted.get(method)
    rate = None if measured is None else unmixed(measured, asked.draft_tokens, bound, constrained_kept(method))
    speculation = published(method, asked.work, draft_tokens, rate)
    longer = _with_drafts(asked, target, speculation)
    at: Callable[[int], float] = partial(_gain_at, target, longer, speculation, context, bound)
    drafts_with, there = available(method, asked.model)
    weights, lost = _memory(asked, method, draft_tokens)
    return Option(
        method.value,
        draft_tokens,
        speculation.acceptance,
        "Estimated" if measured is None else "Measured",
        PUBLISHED[method].source if measured is None else f"engines accepted {measured:.0%} of what they drafted",
        speculation.tokens(),
        at(batch),
        gain(target, longer, speculation, batch, context, 1.0),
        vanishes_at(at),
        weights / GIB,
        lost,
        drafts_with,
        there and lost < 1.0,
    )


def unmixed(accepted: float, draft_tokens: int, bound: float, kept: float) -> float:
    """The acceptance of free requests, out of the share of drafted tokens that was accepted of all.

    bound   share of output tokens that a grammar binds
    kept    share of the acceptance that is left to those
    """

    def told(rate: float) -> float:
        free, caught = (expected_tokens(each, draft_tokens) for each in (rate, kept * rate))
        steps = (1.0 - bound) / free + bound / caught
        return (1.0 / steps - 1.0) / draft_tokens

    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if told(middle) < accepted else (low, middle)
    return (low + high) / 2


def _gain_at(
    target: StepTime, longer: StepTime, speculation: Speculation, context: int, bound: float, batch: int
) -> float:
    return gain(target, longer, speculation, batch, context, bound)


def _with_drafts(asked: Asked, target: StepTime, speculation: Speculation) -> StepTime:
    smaller = draft_model_for(asked.model) if speculation.method is Method.DRAFT_MODEL else None
    if smaller is not None:
        draft: StepTime | None = step_time(smaller, asked.gpu, asked.tp, asked.precision)
    elif speculation.method is Method.DRAFT_MODEL:  # unknown: as if it had an eighth of the weights
        eighth = {name: getattr(target, name) / 8 for name in ("a_us", "c_ns", "p_us", "q_ps")}
        draft = msgspec.structs.replace(target, **eighth)
    else:
        draft = draft_pass(speculation.method, asked.model, asked.gpu, asked.tp, speculation.draft_tokens)
    return speculative(target, draft, speculation)


def _memory(asked: Asked, method: Method, draft_tokens: int) -> tuple[float, float]:
    """(weights per GPU [bytes], share of the KV space that is lost to them and to the drafts' own KV)"""
    smaller = draft_model_for(asked.model) if method is Method.DRAFT_MODEL else None
    if method is Method.DRAFT_MODEL and smaller is None:
        return 0.0, 0.0
    weights, per_token = memory_bytes(method, asked.model, asked.tp, draft_tokens, smaller)
    room = kv_gib(asked.model, asked.gpu, asked.tp, asked.precision) * GIB
    each = sequence_bytes(asked.model, asked.tp, SEQUENCE_TOKENS) / SEQUENCE_TOKENS
    return weights, 1.0 - max(0.0, room - weights) / room * each / (each + per_token)


# Simulation


def _engine(asked: Asked, times: StepTime, speculation: Speculation | None) -> EngineSpec:
    sequences, tokens = default_limits(asked.gpu)
    lost, size = 0.0, asked.workload.block_size
    if speculation is not None:
        lost = _memory(asked, speculation.method, speculation.draft_tokens)[1]
        tokens = max(tokens, sequences * (1 + speculation.draft_tokens))
    room = kv_gib(asked.model, asked.gpu, asked.tp, asked.precision) * GIB * (1.0 - lost)
    blocks = max(1, int(room * SEQUENCE_TOKENS / sequence_bytes(asked.model, asked.tp, SEQUENCE_TOKENS)) // size)
    return EngineSpec(times, blocks, size, tokens, sequences, speculation=speculation)


def _outcomes(asked: Asked, workload: Workload, spec: EngineSpec) -> list[Outcome]:
    fleet = Fleet([Pool("engines", asked.engines, spec, exact=True)])
    rules = DispatcherSettings(seed=asked.seed, strict=True, waiting_max=build.ENGINES_TAKE)
    driver = build.played(fleet, rules, policy_named(DEFAULT), workload)
    return [o for result in driver.results if result.stage.reported for o in result.outcomes if not o.refused]


def _cut(workload: Workload) -> Workload:
    """Its first requests: who follows another one stands behind it."""
    left, stages = REQUESTS_MAX, []
    for stage in workload.stages:
        if left > 0:
            stages.append(msgspec.structs.replace(stage, requests=stage.requests[:left]))
            left -= len(stage.requests)
    return msgspec.structs.replace(workload, stages=stages)


def _batch(outcomes: Sequence[Outcome], engines: int) -> tuple[float, int]:
    """(sequences decoding on one engine, mean over the time in which any decodes anywhere; their mean context)"""
    spans = sorted((o.first_us, o.end_us) for o in outcomes if o.end_us > o.first_us)
    if not spans:
        return 1.0, 1
    busy_us, until_us = 0, spans[0][0]
    for first_us, end_us in spans:
        busy_us += max(0, end_us - max(first_us, until_us))
        until_us = max(until_us, end_us)
    work_us = sum(end_us - first_us for first_us, end_us in spans)
    contexts = [(o.prompt_tokens + o.output_tokens / 2) * (o.end_us - o.first_us) for o in outcomes]
    return work_us / busy_us / engines, max(1, round(sum(contexts) / work_us))


def _tpot_us(outcomes: Sequence[Outcome]) -> float:
    """Mean over tokens."""
    spans = [(o.end_us - o.first_us, o.output_tokens - 1) for o in outcomes if o.output_tokens > 1]
    tokens = sum(count for _, count in spans)
    return sum(us for us, _ in spans) / tokens if tokens else 0.0


# In words


def _reasons(asked: Asked, options: Sequence[Option], best: Option | None, batch: float, bound: float) -> list[str]:
    found = []
    if best is None:
        top = options[0]
        gained = top.simulated or top.gain
        found.append(
            f"no method that is there for {asked.model.name} gains {WORTH - 1:.0%}: {top.method} gives {gained:.2f}"
        )
    else:
        assert best.simulated is not None
        found.append(
            f"{best.method} of {best.draft_tokens} tokens: {best.tokens_per_step:.2f} tokens per step ({best.label}), "
            f"answers grow {best.simulated:.2f} times as fast [Simulated]; by arithmetic {best.gain:.2f} at {batch:.1f} "
            "sequences per engine"
        )
        end = "at no batch" if best.vanishes_at is None else f"from {best.vanishes_at} sequences per engine on"
        found.append(f"the gain vanishes {end}; acceptance: {best.source}")
        found.append(f"it needs {best.weights_gib:.2f} GiB per GPU and {best.kv_lost:.1%} of the KV space")
    better = [o for o in options if not o.available and o.gain > (best.gain if best is not None else WORTH)]
    found += [
        f"{o.method} might give {o.gain:.2f}, if there is something to draft with for this model: {o.drafts_with}"
        for o in better
    ]
    if bound >= BOUND_MIN:
        found.append(_bound(asked, best, bound))
    return found


def _bound(asked: Asked, best: Option | None, bound: float) -> str:
    said = f"{bound:.0%} of the output is bound by a grammar, a schema or tools"
    if best is None:
        return said
    if best.gain_constrained >= 1.0:
        return f"{said}: such requests gain {best.gain_constrained:.2f} and may stay where the others are"
    lost = f"{said}: such answers grow {best.gain_constrained:.2f} times as fast with {best.method}"
    if asked.engines < 2:
        return f"{lost}; with a second engine, one could serve them without speculation"
    plain = max(1, round(bound * asked.engines))
    return f"{lost}; start {plain} of {asked.engines} engines without it and add the filter `without_speculation` to the policy"
