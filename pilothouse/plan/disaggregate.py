"""Whether prefill and decode belong on engines of their own: what each costs, together and apart. Pure arithmetic.

Together, every step carries some prompt tokens, so a batch that keeps the time per output token has to be smaller than
where nobody prefills; apart, batches are larger, but there are two pools to be rounded up, each with headroom, and KV has
to move. So splitting pays where prompts are much of the work, the objective is tight, the fleet is large, or where prompts
are computed on cheaper hardware. All of it follows from mean lengths and step times; queues and bursts are for the
simulator (`trial.py`), which has the last word.
accuracy   as good as the step times (`perf/coefficients.py`): a saving below `LEAST_SAVING` is none
ignores    sharing of resident KV among running requests, which makes larger batches possible
"""

from math import ceil

import msgspec

from pilothouse.core.units import Micros
from pilothouse.perf.step_time import StepTime, step_us
from pilothouse.plan.machine import Machine

LEAST_SAVING = 0.05  # of the cost: step times are no better known
HEADROOM = 0.7  # of its capacity that a pool is planned to use: the rest is for bursts and for the loss of an engine
FILLED = 0.9  # of the KV room that running requests may take


class Need(msgspec.Struct, frozen=True):
    """The workload in the mean, per request."""

    rate: float  # requests per second
    prompt_tokens: float
    uncached_tokens: float  # that must be computed
    uncached_squares: float  # sum of n x (2 x before + n) over its chunks [tokens²]
    output_tokens: float
    context_tokens: float  # of a sequence that decodes


class Terms(msgspec.Struct, frozen=True):
    """What is asked of the fleet, and what there is between its engines."""

    tpot_us: Micros
    link_gb_per_s: float
    link_latency_us: Micros
    headroom: float = HEADROOM


class Pool(msgspec.Struct, frozen=True):
    """Equal engines of one role."""

    role: str  # both, prefill, decode
    engines: int
    gpus: int
    load: float  # engines that would be busy all the time, before headroom and rounding up
    batch: int  # sequences of a decode step; 0 for prefill
    usd_h: float | None  # of all
    step_tokens: int = 0  # most tokens of one step; 0 = the engine's default


class FleetPlan(msgspec.Struct, frozen=True):
    """One way to serve it all."""

    name: str
    pools: list[Pool]

    @property
    def gpus(self) -> int:
        return sum(pool.gpus for pool in self.pools)

    @property
    def usd_h(self) -> float | None:
        return None if any(pool.usd_h is None for pool in self.pools) else sum(pool.usd_h or 0.0 for pool in self.pools)


class SplitAdvice(msgspec.Struct, frozen=True):
    """Estimated, before anything is simulated."""

    need: Need
    terms: Terms
    prefill_gpu_s: float  # per request, on prefill engines
    decode_gpu_s: float  # per request, on decode engines with the batch that the objective allows
    price_ratio: float | None  # of a prefill engine to a decode engine
    stall_us: float  # how long everybody's next token waits while a mean prompt is computed, in one step
    quiet_tokens: int  # of a step, prompt tokens with which it stays within the objective
    transfer_us: float  # of a mean request's KV
    transfer_gb_per_s: float  # that each prefill engine has to send
    together: FleetPlan | None  # None = it cannot meet the objective
    apart: FleetPlan | None
    saving: float | None  # of the cost by splitting; below 0, it costs more
    saving_at_scale: float | None  # the same of a fleet so large that rounding up does not matter
    pays: bool
    verdict: str
    reasons: list[str]


def advise_split(need: Need, both: Machine, prefill: Machine, decode: Machine, terms: Terms) -> SplitAdvice:
    """`both` serves whole requests, the others their part."""
    compute_us = prefill_us(prefill, need)
    batch = batch_within(decode, need, terms.tpot_us, 0.0)
    beside_us = compute_beside_us(both, need) / need.output_tokens
    batch_both = batch_within(both, need, terms.tpot_us, beside_us)
    together = None
    if batch_both:
        token_us = decode_us(both, need, batch_both) + beside_us * batch_both
        load = need.rate * need.output_tokens * token_us / batch_both / 1e6
        together = _fleet([_pool("both", both, load, batch_both, terms)])
    apart, decode_gpu_s = None, 0.0
    if batch:
        decode_s = need.output_tokens * decode_us(decode, need, batch) / batch / 1e6
        decode_gpu_s = decode_s * decode.tp
        pools = [_pool("prefill", prefill, need.rate * compute_us / 1e6, 0, terms)]
        apart = _fleet([*pools, _pool("decode", decode, need.rate * decode_s, batch, terms)])
    moved = need.uncached_tokens * prefill.token_bytes
    sent = need.rate * moved / 1e9 / apart.pools[0].engines if apart else 0.0
    prices = prefill.engine_usd_h, decode.engine_usd_h
    advice = SplitAdvice(
        need=need,
        terms=terms,
        prefill_gpu_s=compute_us * prefill.tp / 1e6,
        decode_gpu_s=decode_gpu_s,
        price_ratio=prices[0] / prices[1] if prices[0] and prices[1] else None,
        stall_us=compute_beside_us(both, need),
        quiet_tokens=_quiet_tokens(both, need, terms, batch_both),
        transfer_us=terms.link_latency_us + moved / (terms.link_gb_per_s * 1e3),
        transfer_gb_per_s=sent,
        together=together,
        apart=apart,
        saving=_saving(together, apart, at_scale=False),
        saving_at_scale=_saving(together, apart, at_scale=True),
        pays=False,
        verdict="",
        reasons=[],
    )
    pays, verdict = _verdict(advice)
    return msgspec.structs.replace(advice, pays=pays, verdict=verdict, reasons=_reasons(advice))


def prefill_us(machine: Machine, need: Need) -> float:
    """Of a mean prompt, on an engine that does nothing else: full steps of prompt tokens [microseconds]."""
    times, steps = machine.step_time, need.uncached_tokens / machine.batched_tokens
    return compute_beside_us(machine, need) + steps * (times.a_us + times.expert_us * times.experts)


def compute_beside_us(machine: Machine, need: Need) -> float:
    """What a mean prompt adds to steps that there are anyway [microseconds]."""
    times = machine.step_time
    return times.b_us + times.p_us * need.uncached_tokens + times.q_ps / 1e6 * need.uncached_squares / 2


def decode_us(machine: Machine, need: Need, batch: int) -> float:
    """One step of so many sequences."""
    return float(step_us(machine.step_time, batch, round(batch * need.context_tokens)))


def batch_within(machine: Machine, need: Need, tpot_us: float, beside_us: float) -> int:
    """The largest batch that keeps the objective and fits; 0 if none does.

    beside_us   prefill work that comes with each output token of each sequence [microseconds]
    """
    low, high = 0, min(machine.sequences, int(FILLED * machine.kv_tokens / need.context_tokens))
    while low < high:
        middle = (low + high + 1) // 2
        if decode_us(machine, need, middle) + beside_us * middle <= tpot_us:
            low = middle
        else:
            high = middle - 1
    return low


def resized(plan: FleetPlan, engines: list[int], machines: list[Machine]) -> FleetPlan:
    """The same with so many engines in each pool."""
    parts = zip(plan.pools, engines, machines, strict=True)
    return _fleet([_sized(pool.role, machine, count, pool.load, pool.batch) for pool, count, machine in parts])


def in_small_steps(plan: FleetPlan, tokens: int) -> FleetPlan:
    """The same with a step budget, so that prompts hold others up less."""
    pools = [msgspec.structs.replace(pool, step_tokens=tokens) for pool in plan.pools]
    return FleetPlan(f"{plan.name}, steps of {tokens:,} tokens", pools)


def _pool(role: str, machine: Machine, load: float, batch: int, terms: Terms) -> Pool:
    return _sized(role, machine, max(1, ceil(load / terms.headroom - 1e-9)), load, batch)


def _sized(role: str, machine: Machine, engines: int, load: float, batch: int) -> Pool:
    usd_h = None if machine.engine_usd_h is None else engines * machine.engine_usd_h
    return Pool(role, engines, engines * machine.tp, load, batch, usd_h)


def _fleet(pools: list[Pool]) -> FleetPlan:
    return FleetPlan(" + ".join(f"{pool.engines} {pool.role}" for pool in pools), pools)


def _saving(together: FleetPlan | None, apart: FleetPlan | None, at_scale: bool) -> float | None:
    """In money where all prices are known, else in GPUs."""
    if together is None or apart is None:
        return None
    priced = together.usd_h is not None and apart.usd_h is not None

    def cost(plan: FleetPlan) -> float:
        each = [(pool.usd_h or 0.0) if priced else float(pool.gpus) for pool in plan.pools]
        return sum(c * pool.load / pool.engines if at_scale else c for c, pool in zip(each, plan.pools, strict=True))

    return 1 - cost(apart) / cost(together)


def _quiet_tokens(machine: Machine, need: Need, terms: Terms, batch: int) -> int:
    """Prompt tokens that a step of this batch may carry and still end within the objective."""
    times: StepTime = machine.step_time
    left_us = terms.tpot_us - decode_us(machine, need, max(1, batch))
    per_token = times.p_us + times.q_ps / 1e6 * need.uncached_squares / need.uncached_tokens / 2
    return max(0, int(left_us / per_token)) if per_token else 0


def _verdict(found: SplitAdvice) -> tuple[bool, str]:
    tpot = f"{found.terms.tpot_us / 1000:g} ms per output token"
    if found.together is None and found.apart is None:
        return (
            False,
            f"no: these engines cannot give {tpot}, apart or together: raise it, or the tensor-parallel degree",
        )
    if found.apart is None:
        return False, f"no: the decode engines cannot give {tpot}"
    if found.together is None:
        return True, f"yes: with prompts beside, no batch keeps {tpot}; {found.apart.name} does"
    assert found.saving is not None and found.saving_at_scale is not None
    if found.saving >= LEAST_SAVING:
        return True, f"yes: {found.apart.name} instead of {found.together.name} costs {found.saving:.0%} less"
    less = (
        f"{found.apart.name} costs {-found.saving:.0%} more than"
        if found.saving < 0
        else f"{found.apart.name} saves {found.saving:.0%} against"
    )
    grown = (
        f"; in a much larger fleet it would save {found.saving_at_scale:.0%}"
        if found.saving_at_scale >= LEAST_SAVING
        else ""
    )
    return False, f"no: {less} {found.together.name}{grown}"


def _reasons(found: SplitAdvice) -> list[str]:
    need, whole = found.need, found.prefill_gpu_s + found.decode_gpu_s
    said = [
        (
            f"work of a request: {found.prefill_gpu_s:.3g} GPU-seconds of prefill ({need.uncached_tokens:,.0f} of "
            f"{need.prompt_tokens:,.0f} prompt tokens are computed), {found.decode_gpu_s:.3g} of decode "
            f"({need.output_tokens:,.0f} tokens): {found.prefill_gpu_s / whole:.0%} is prefill"
        )
    ]
    if found.price_ratio is not None:
        said.append(f"a prefill engine costs {found.price_ratio:.2g} times a decode engine")
    if found.together is not None and found.apart is not None:
        one, two = found.together.pools[0], found.apart.pools[1]
        said.append(f"batch within the objective: {one.batch} with prompts beside, {two.batch} without")
    budget = (
        f"a step budget of {found.quiet_tokens:,} tokens (--max-num-batched-tokens) would keep that within the objective"
        if found.quiet_tokens
        else "no step budget keeps it within the objective"
    )
    said.append(
        f"together, a mean prompt in one step holds everybody's next token up by {found.stall_us / 1000:.0f} ms; {budget}"
    )
    said.append(
        f"KV of a mean request moves in {found.transfer_us / 1000:.1f} ms; each prefill engine sends "
        f"{found.transfer_gb_per_s:.2g} of {found.terms.link_gb_per_s:g} GB/s"
    )
    if found.transfer_gb_per_s > found.terms.link_gb_per_s:
        said.append("the links cannot carry that: more prefill engines than compute asks for, or a faster network")
    return said
