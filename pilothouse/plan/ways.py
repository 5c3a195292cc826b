"""Ways to build one engine: a layout that the rules keep, and of it what pays at the batch that it really has.

Speculation   the method of which something to draft with is known, with as many drafts as gain most at that batch; it has to
              gain `WORTH`. Acceptance is as published for chats: Estimated
DRAM          KV in the host's memory, where it finds more prompt tokens than HBM does, and fetching is quicker than computing
"""

from collections.abc import Iterator
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from pilothouse.core.events import Tier
from pilothouse.perf.acceptance import EAGLE_HEADS, PUBLISHED, Kind, available, published
from pilothouse.perf.speculation import Method, gain
from pilothouse.perf.storage import STORAGES, fetch_us
from pilothouse.plan.analytic import INFINITE, Load
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.engines import Engine, engine_of
from pilothouse.plan.layouts import Candidate, Needs, candidates
from pilothouse.plan.question import Question, Stock
from pilothouse.plan.tiers import LEAST_GAIN

WORTH = 1.1  # a gain below is within what published acceptance is off by
CONTEXT_MARGIN = 1.25  # of the longest request that was seen: longer ones will come
CONTEXT_ROUND = 4096  # tokens
INFINITE_TOKENS = 1e15  # more than any cache holds


class Way(Struct, frozen=True):
    """One engine of a layout."""

    pool: PoolPlan
    engine: Engine
    stock: Stock
    why: list[str]

    @property
    def gpus(self) -> int:
        return self.pool.layout.gpus

    @property
    def most(self) -> int:
        """Engines for which there are GPUs."""
        return self.stock.count // self.gpus

    @property
    def cost(self) -> float:
        """Of one engine: US dollars per hour, or GPUs."""
        return self.gpus * (self.stock.price.usd_h if self.stock.price else 1.0)


def candidates_of(question: Question, stock: Stock) -> Iterator[Candidate]:
    """For all GPUs of a kind, and for fewer within a node: an engine need not have a whole one. What is refused for all, and
    kept where there are fewer, is kept."""
    per_node, found = question.gpus_per_node, dict[str, Candidate]()
    whole = stock.count if stock.count <= per_node else stock.count - stock.count % per_node
    parts = [size for size in (8, 4, 2, 1) if size < min(whole, per_node + 1)]
    asks, (prompt, ttft_s, tpot_s) = question.asks, _strictest(question)
    needs = Needs(
        prompt_tokens=prompt, context_tokens=asks.longest, ttft_s=ttft_s, tpot_s=tpot_s, kv_precision=question.kv_precision,
    )  # fmt: skip
    for gpus in (whole, *parts):
        nodes = max(1, gpus // per_node)
        for way in candidates(question.model, stock.gpu, gpus, nodes, question.precisions, needs):
            before = found.get(key := f"{way.layout} {way.precision}")
            if gpus == whole or (way.kept and (before is None or not before.kept)):
                found[key] = way
    yield from found.values()


def way_of(question: Question, stock: Stock, candidate: Candidate) -> Way:
    """Complete: all that an engine is started with is said."""
    pool = PoolPlan(
        name="engines", replicas=1, layout=candidate.layout, gpu=stock.name, gpus_per_node=question.gpus_per_node,
        precision=candidate.precision.value, kv_precision=question.kv_precision, max_model_len=_context(question),
    )  # fmt: skip
    engine = _engine(question, stock, pool)
    pool = replace(
        pool,
        max_num_seqs=engine.sequences * candidate.layout.pp,
        max_num_batched_tokens=engine.batched_tokens,
    )
    where = f"{stock.gpu.name}: " if len(question.stocks) > 1 else ""
    return Way(pool, engine, stock, [f"{where}{candidate.reason}"])


def improved(question: Question, way: Way, load: Load) -> list[Way]:
    """The same engine with what pays at `load`: each by itself, and both."""
    tiered = _tiered(question, way, load) if question.tiers else None
    found = [tiered] if tiered else []
    if question.speculation:
        found += [drafted for base in (way, *found) if (drafted := _drafting(question, base, load.batch))]
    return found


def _context(question: Question) -> int | None:
    """Tokens that an engine must take; None = as many as the model takes, where it is not sure that these are more."""
    wanted = ceil(question.asks.longest * CONTEXT_MARGIN / CONTEXT_ROUND) * CONTEXT_ROUND
    return wanted if wanted <= question.model.context else None


def _engine(question: Question, stock: Stock, pool: PoolPlan) -> Engine:
    return engine_of(pool, question.model, stock.gpu, question.asks.demand.context_mean)


def _drafting(question: Question, way: Way, batch: float) -> Way | None:
    """None = nothing that is there gains enough."""
    best, most = way, WORTH
    size, context = max(1, round(batch)), max(1, round(question.asks.demand.context_mean))
    for method, drafts_with in _drafters(question):
        for count in PUBLISHED[method].draft_tokens:
            speculation = published(method, Kind.CHAT, count)
            said = {"method": method.value, "num_speculative_tokens": count}
            said |= {"model": EAGLE_HEADS[question.model.name]} if method is Method.EAGLE3 else {}
            pool = replace(way.pool, speculation=said)
            engine = _engine(question, way.stock, pool)
            gained = gain(way.engine.step_time, engine.step_time, speculation, size, context)
            if gained > most and engine.kv_tokens:
                why = (
                    f"{method} of {count} tokens: {speculation.tokens():.2f} tokens per step (acceptance as published), answers "
                    f"grow {gained:.2f} times as fast at {size} sequences per rank; {drafts_with}"
                )
                pool = replace(pool, max_num_batched_tokens=engine.batched_tokens)
                best, most = Way(pool, engine, way.stock, [*way.why, why]), gained
    return best if best is not way else None


def _drafters(question: Question) -> Iterator[tuple[Method, str]]:
    """What is trained for this very model; looking drafts up gains by the work, which nobody told."""
    for method in (Method.MTP, Method.EAGLE3):
        drafts_with, there = available(method, question.model)
        if there:
            yield method, drafts_with


def _tiered(question: Question, way: Way, load: Load) -> Way | None:
    """None = DRAM finds no more, or is no quicker than computing."""
    storage = STORAGES[Tier.DRAM]
    pool = replace(way.pool, tiers={Tier.DRAM.value: float(round(storage.room_gb * way.gpus))})
    engine, tp = _engine(question, way.stock, pool), way.pool.layout.tp
    hits = question.asks.hit_ratio(INFINITE_TOKENS)
    slower = fetch_us(storage, engine.token_bytes, tp) >= engine.step_time.p_us
    if slower or hits - load.hit_ratio < LEAST_GAIN:
        return None
    why = (
        f"KV in {pool.tiers[Tier.DRAM.value]:,.0f} GB of the host's memory for each engine: HBM finds {load.hit_ratio:.1%} of "
        f"the prompt tokens, a cache without limit {hits:.1%}; room and speed: {storage.source}"
    )
    return Way(pool, engine, way.stock, [*way.why, why])


def _strictest(question: Question) -> tuple[int, float | None, float | None]:
    """A long prompt and the TTFT that is asked for it, of the class with least time for a token; the least TPOT asked for."""
    asks = question.asks
    found = [(asks.classes[name].prompts[-1], objective) for name, objective in question.by_class.items()]
    found = found or [(asks.prompts[-1], question.objective)]
    prompt, first = min(found, key=lambda at: INFINITE if at[1].ttft_s is None else at[1].ttft_s / at[0])
    return prompt, first.ttft_s, min((each.tpot_s for _, each in found if each.tpot_s is not None), default=None)
