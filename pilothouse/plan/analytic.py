"""What a fleet does under a load, in closed form: percentiles of TTFT and TPOT, and what gives way first. Pure arithmetic.

Engines are lanes that step for themselves (`engines.py`). All lanes of a pool together are two queues:

Decoding is a generalised processor sharing queue: n sequences of a lane share a step, whose time grows with n. How many
there are does not depend on how lengths are distributed (Cohen, Acta Informatica 12, 1979). With prompts beside, which take
a share W of all time, a token takes T(n) / (1 - W), and n = rate x tokens x T(n) / (1 - W). Around that n the spread
is n / (1 - e) over all lanes, e being the elasticity of T. A request's own TPOT varies with n, and with the prompts that
happen to come during its own few tokens.

Prompts wait for the rest of the step under way, for the step that is planned already, and for the prompts that came with
them and share their step; steps are a chain, each as long as the prompts that came two steps ago. Engines that only
compute prompts are the same with no decoding beside.
Where KV room runs out, requests wait for others to end, exponentially.

accuracy   `benchmarks/plan_accuracy.py`, against simulation; where they are more than 10 % apart a plan says so
ignores    KV that running requests share; bursts beyond Poisson; preemption; that hits are not equally likely
"""

from collections.abc import Mapping, Sequence
from math import ceil, exp, log, sqrt

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.perf.step_time import distinct_experts
from pilothouse.plan.asks import Asks
from pilothouse.plan.delays import added, exponential, mean, normal, quantile, steps_before
from pilothouse.plan.disaggregate import Need
from pilothouse.plan.document import Bound, Objective
from pilothouse.plan.engines import Engine

OVERHEAD_US = 1_000  # two ways of the network between gateway and engine, as the simulator takes it
TOKENISE_US_PER_1K = 200  # as the simulator takes it
HANDOVER_US = 2_000  # latency of one transfer of KV, as the simulator takes it
HANDOVER_GB_PER_S = 40.0  # the same, of its rate
MOVES_ON = 2 / 3  # of the batch's variance is left in a mean over one life: its correlation falls linearly over it
HALVINGS = 24  # of an interval, for percentiles
RATE_HALVINGS = 12  # of an interval, for the highest rate
NONE: Mapping[str, Objective] = {}
BAND_TTFT, BAND_TTFT_LANES = 0.2, 0.35  # the latter where several prefill engines share their prompts
BAND_TPOT, BAND_TPOT_PROMPTS = 0.1, 0.25  # the latter times the share of a lane's time that prompts take
ROUNDS = 6  # of cache and batch, which take each other's room: from an idle fleet on


class Pool(Struct, frozen=True):
    """Equal engines."""

    engine: Engine
    replicas: int

    @property
    def lanes(self) -> int:
        return self.engine.lanes * self.replicas


class Fleet(Struct, frozen=True):
    """Engines that serve whole requests; or those that decode, and those that compute their prompts."""

    serving: Pool
    prefill: Pool | None = None


class Latency(Struct, frozen=True):
    """Of one class of requests, at its own percentile [microseconds]."""

    ttft_us: float
    tpot_us: float


class Load(Struct, frozen=True):
    """How it goes at one rate. Times in microseconds."""

    ttft_us: float  # at the percentile asked for; infinite where queues grow without end
    tpot_us: float
    breaks: Bound | None  # why queues grow without end; None = they do not
    batch: float  # of a lane, in the mean
    kv_used: float  # share of the KV room of running requests
    prefill_share: float  # of a serving lane's time
    prefill_cost: float  # share of the serving fleet's work that is prompts
    hit_ratio: float
    classes: dict[str, Latency] = {}  # those that were asked for


class _Decoding(Struct, frozen=True):
    """The state of a serving lane."""

    batch: float
    token_us: float  # wall time of one token
    spread: float  # standard deviation of the batch
    slope_us: float  # of the token's time, per sequence
    most: float  # sequences that a lane has room for
    breaks: Bound | None = None
    luck: float = 0.0  # of drafts: variance of a token's time to the square of its mean


INFINITE = float("inf")


def load_at(
    fleet: Fleet, asks: Asks, rate: float, percentile: int, hit_ratio: float | None = None,
    classes: Mapping[str, Objective] = NONE,
) -> Load:  # fmt: skip
    """All figures at `rate`.

    hit_ratio   None = what the free room of all caches finds
    classes     those of `asks` that are told apart, each at its objective's percentile
    """
    if hit_ratio is None:
        hit_ratio = hit_found(fleet, asks, rate)
    serving, need = fleet.serving, asks.mean(rate, hit_ratio)
    work_us, arrivals, found, used = _serving(fleet, asks, need, hit_ratio)
    share = arrivals * mean(work_us)
    busy = (_step_us(serving.engine, need, found.batch) / found.batch if found.batch else 0.0) * _steps(
        serving.engine, need
    )
    cost = mean(work_us) / (mean(work_us) + busy) if busy else share
    waits: list[tuple[float, float]] = []
    if fleet.prefill is not None:
        alone = _alone(fleet.prefill.engine, asks, hit_ratio)
        load = rate / 1e6 * mean(alone) / fleet.prefill.lanes
        if load >= 1:
            found = _broken(found, Bound.COMPUTE)
        else:
            pool, works = fleet.prefill, _works(fleet.prefill.engine, asks, hit_ratio)
            step_us = pool.engine.step_time.a_us + pool.engine.step_time.expert_us * pool.engine.step_time.experts
            waits = steps_before(step_us, load, rate / pool.lanes / 1e6, works, pool.lanes)
    if found.breaks is not None:
        apart = dict.fromkeys(classes, Latency(INFINITE, INFINITE))
        return Load(INFINITE, INFINITE, found.breaks, found.batch, used, share, cost, hit_ratio, apart)
    fetched = _fetched(fleet, asks, hit_ratio, used)
    tpot_us = _tpot_us(found, asks, arrivals, work_us, percentile / 100)
    ttft_us = _ttft_us(fleet, asks, found, need, work_us, waits, hit_ratio, percentile / 100)
    ttft_us += fetched * asks.prompts[int(len(asks.prompts) * percentile / 100)]
    apart = {}
    for name, objective in classes.items():
        own, part = asks.of(name), objective.percentile / 100
        told = own.prompts, min(1.0, hit_ratio * asks.classes[name].hits)
        apart[name] = Latency(
            _ttft_us(fleet, asks, found, need, work_us, waits, hit_ratio, part, told)
            + fetched * own.prompts[int(len(own.prompts) * part)],
            _tpot_us(found, own, arrivals, work_us, part),
        )
    return Load(ttft_us, tpot_us, None, found.batch, used, share, cost, hit_ratio, apart)


def bands(fleet: Fleet, load: Load) -> tuple[float, float]:
    """How far TTFT and TPOT may be from those of a simulation: what holds the points of `benchmarks/plan_grid.py`."""
    lanes = fleet.prefill.lanes if fleet.prefill is not None else 1
    return BAND_TTFT if lanes == 1 else BAND_TTFT_LANES, BAND_TPOT + BAND_TPOT_PROMPTS * load.prefill_share


def rate_max(
    fleet: Fleet, asks: Asks, percentile: int, limits_us: tuple[float, float], hit_ratio: float | None = None,
    classes: Mapping[str, Objective] = NONE,
) -> tuple[float, Bound]:  # fmt: skip
    """The highest rate at which both limits hold (TTFT, TPOT), and what gives way above it. With `classes` it is theirs
    that must hold. `hit_ratio`: as in `load_at`."""

    def why_not(rate: float) -> Bound | None:
        load = load_at(fleet, asks, rate, percentile, hit_ratio, classes)
        if load.breaks is not None:
            return load.breaks
        if classes:
            holds = [classes[name].holds(at.ttft_us / 1e6, at.tpot_us / 1e6) for name, at in load.classes.items()]
            return None if all(holds) else Bound.LATENCY
        return Bound.LATENCY if load.ttft_us > limits_us[0] or load.tpot_us > limits_us[1] else None

    low, high = 0.0, max(asks.rate, 1e-3)
    bound = why_not(high)
    while bound is None and high < 1e6:
        low, high = high, 2 * high
        bound = why_not(high)
    for _ in range(RATE_HALVINGS):
        middle = (low + high) / 2
        found = why_not(middle)
        low, high, bound = (middle, high, bound) if found is None else (low, middle, found)
    return low, bound or Bound.LATENCY


def hit_found(fleet: Fleet, asks: Asks, rate: float) -> float:
    """Hit ratio that the free room of all caches gives: running requests take it, and what the cache finds makes them fewer."""
    caching = fleet.prefill or fleet.serving
    below, used, hit = caching.lanes * caching.engine.below_tokens, 0.0, -1.0
    for _ in range(ROUNDS):
        before, hit = hit, asks.hit_ratio(max(_free_tokens(fleet, used), below))
        if hit == before:
            break
        used = _serving(fleet, asks, asks.mean(rate, hit), hit)[-1]
    return hit


def _serving(fleet: Fleet, asks: Asks, need: Need, hit_ratio: float) -> tuple[list[float], float, _Decoding, float]:
    """(work of each prompt, arrivals at a lane [per microsecond], how it decodes, share of its KV room)."""
    engine, lanes = fleet.serving.engine, fleet.serving.lanes
    work_us, arrivals = _works(engine, asks, hit_ratio), need.rate / lanes / 1e6
    if fleet.prefill is not None:  # the decode engine computes the last token
        work_us = [engine.step_time.b_us + engine.step_time.p_us] * len(work_us)
    found = _decoding(fleet.serving, need, arrivals, arrivals * mean(work_us))
    return work_us, arrivals, found, found.batch * need.context_tokens / max(1, engine.kv_tokens)


def _free_tokens(fleet: Fleet, used: float) -> float:
    """Room of HBM that caches what nobody runs. `used`: share of the serving engines' room."""
    caching = fleet.prefill or fleet.serving
    return caching.lanes * caching.engine.kv_tokens * (1 - min(1.0, used if fleet.prefill is None else 0.0))


def _fetched(fleet: Fleet, asks: Asks, hit_ratio: float, used: float) -> float:
    """Time to bring what a tier finds beside HBM, for each token of a prompt in the mean [microseconds]."""
    engine = (fleet.prefill or fleet.serving).engine
    if not engine.below_tokens:
        return 0.0
    return max(0.0, hit_ratio - asks.hit_ratio(_free_tokens(fleet, used))) * engine.below_us


def _works(engine: Engine, asks: Asks, hit_ratio: float) -> list[float]:
    """What each prompt adds to a step that there is anyway [microseconds]."""
    times = engine.step_time
    squares = times.q_ps / 1e6 * (1 - hit_ratio**2) / 2
    return [times.b_us + times.p_us * max(1, prompt * (1 - hit_ratio)) + squares * prompt**2 for prompt in asks.prompts]


def _alone(engine: Engine, asks: Asks, hit_ratio: float) -> list[float]:
    """What each prompt takes of an engine that does nothing else [microseconds]."""
    times = engine.step_time
    step = times.a_us + times.expert_us * times.experts
    return [
        work + step * max(1, ceil(prompt * (1 - hit_ratio) / engine.batched_tokens))
        for work, prompt in zip(_works(engine, asks, hit_ratio), asks.prompts, strict=True)
    ]


def _step_us(engine: Engine, need: Need, batch: float) -> float:
    """A step that only decodes; at least one sequence is there."""
    times, batch = engine.step_time, max(1.0, batch)
    experts = (
        times.expert_us * distinct_experts(times.experts, times.experts_per_token, round(batch))
        if times.expert_us
        else 0.0
    )
    return times.a_us + _sequence_us(engine, need) * batch + experts


def _steps(engine: Engine, need: Need) -> float:
    """That an answer takes."""
    return need.output_tokens / engine.tokens_per_step


def _sequence_us(engine: Engine, need: Need) -> float:
    return engine.step_time.b_us + engine.step_time.c_ns * need.context_tokens / 1e3


def _decoding(pool: Pool, need: Need, arrivals: float, share: float) -> _Decoding:
    """`arrivals`: at a lane [per microsecond]. `share`: of its time that prompts take."""
    engine, flow = pool.engine, arrivals * _steps(pool.engine, need)
    each = flow * _sequence_us(engine, need)
    by_room = engine.kv_tokens / need.context_tokens
    most = min(float(engine.sequences), by_room)
    if share + each >= 1:
        return _broken(_Decoding(most, 0.0, 0.0, 0.0, most), Bound.COMPUTE if share > each else Bound.BANDWIDTH)
    batch = 0.0
    for _ in range(HALVINGS):
        fixed = _step_us(engine, need, batch) - _sequence_us(engine, need) * max(1.0, batch)
        before, batch = batch, flow * fixed / (1 - share - each)
        if abs(batch - before) < 1e-3 * batch:
            break
    if batch >= most:
        bound = Bound.KV_CAPACITY if most == by_room else Bound.LATENCY
        return _broken(_Decoding(min(batch, most), 0.0, 0.0, 0.0, most), bound)
    step_us = _step_us(engine, need, batch)
    slope = (step_us - _step_us(engine, need, 0.9 * batch)) / (0.1 * batch) if batch > 2 else _sequence_us(engine, need)
    elastic = min(0.95, slope * batch / step_us)
    spread = sqrt(batch / (pool.lanes * (1 - elastic)))
    each_us = (1 - share) * engine.tokens_per_step
    luck = engine.luck * engine.tokens_per_step  # of a step, whose tokens share it
    return _Decoding(batch, step_us / each_us, spread, slope / each_us, most, luck=luck)


def _broken(state: _Decoding, bound: Bound) -> _Decoding:
    return _Decoding(state.batch, state.token_us, state.spread, state.slope_us, state.most, bound)


def _tpot_us(state: _Decoding, asks: Asks, arrivals: float, work_us: Sequence[float], share: float) -> float:
    """A mixture of lognormal distributions, one for each length of an answer.

    Prompts that come during an answer make it longer, so that more come: as in the busy period of a queue, its variance
    has the cube of what prompts leave of the time. The batch moves on during an answer, which evens out a third."""
    squares = mean([work * work for work in work_us])
    outputs = [output for output in asks.outputs if output > 1]
    if not outputs:
        return 0.0
    left = max(0.05, 1 - arrivals * mean(work_us))
    slow = (state.slope_us * state.spread) ** 2 * MOVES_ON
    own = arrivals * state.token_us * squares / left**2 + state.luck * state.token_us**2
    widths = [sqrt(log(1 + (slow + own / (output - 1)) / state.token_us**2)) for output in outputs]

    def below(value: float) -> float:
        at = log(value / state.token_us)
        return mean([normal(at / max(width, 1e-9) + width / 2) for width in widths])

    low, high = state.token_us / 4, state.token_us * exp(6 * max(widths))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return high


def _ttft_us(
    fleet: Fleet, asks: Asks, state: _Decoding, need: Need, work_us: Sequence[float],
    waits: list[tuple[float, float]], hit_ratio: float, share: float, told: tuple[list[int], float] | None = None,
) -> float:  # fmt: skip
    """`told`: prompts whose figure it is, and their hit ratio; None = those of all, which are what others wait for."""
    prompts_told, hits_told = told or (asks.prompts, hit_ratio)
    own_us = (
        list(work_us) if told is None else _works(fleet.serving.engine, replace(asks, prompts=prompts_told), hits_told)
    )
    pool = fleet.serving
    engine, arrivals = pool.engine, need.rate / pool.lanes / 1e6
    step_us, running = _step_us(engine, need, state.batch), 1 - exp(-state.batch)
    steps = steps_before(step_us, running, arrivals, work_us, pool.lanes)
    room = _room_waits(state, need, pool.lanes)
    delays = added(added(steps, room), waits or [(0.0, 1.0)])
    before = [0.0] * len(prompts_told)
    if fleet.prefill is not None:
        own_us = [work_us[0]] * len(prompts_told)  # of the last token, whatever the prompt
        alone = _alone(fleet.prefill.engine, replace(asks, prompts=prompts_told), hits_told)
        moved = need.uncached_tokens * fleet.prefill.engine.token_bytes / (HANDOVER_GB_PER_S * 1e3)
        # it takes room as a step begins, its KV lands during that or a later one, and the next is planned already
        landing = running * (step_us + max(step_us, HANDOVER_US + moved)) + (1 - running) * (HANDOVER_US + moved)
        before = [work + landing + OVERHEAD_US for work in alone]
    found: list[tuple[float, float]] = []
    for own, prompt, first in zip(own_us, prompts_told, before, strict=True):
        chunks = 1 if fleet.prefill is not None else max(1, ceil(prompt * (1 - hits_told) / engine.batched_tokens))
        fixed = OVERHEAD_US + TOKENISE_US_PER_1K * prompt / 1000 + own + chunks * step_us + first
        found += [(fixed + wait, likely) for wait, likely in delays]
    return quantile(found, share)


def _room_waits(state: _Decoding, need: Need, lanes: int) -> list[tuple[float, float]]:
    """(how long, how likely) for others to end, where KV room is short."""
    some = 1 - normal((state.most - state.batch) / max(state.spread, 1e-9))
    if some < 1e-3:
        return [(0.0, 1.0)]
    left = 1 - state.batch / state.most
    return exponential(some, need.output_tokens * state.token_us / (lanes * state.most * left))
