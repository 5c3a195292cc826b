"""The parts of llm-d's router (endpoint picker), in its own weights and defaults.

source   plugins and README files of llm-d/llm-d-router, revision ebab687 (August 2026), read for their formulas; values of
         llm-d's guides `optimized-baseline` and `precise-prefix-cache-routing`
"""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Filter, Known, Scorer, filters, scorers


@scorers.register("llmd_queue")
class LlmdQueue(Scorer, frozen=True):
    """llm-d's queue scorer: 1 for the shortest engine queue, 0 for the longest, linear between; all 1 if equal.

    Signal: last load report (scraped); an endpoint without one, or with a stale one, counts as an empty queue.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        queues = [0 if report is None else report.waiting for report in known.reports]
        shortest, longest = min(queues), max(queues)
        if shortest == longest:
            return [1.0] * len(queues)
        return [(longest - queue) / (longest - shortest) for queue in queues]


@scorers.register("llmd_no_hit_lru")
class LlmdNoHitLru(Scorer, frozen=True):
    """llm-d's no-hit LRU: a prompt of which nobody holds a block goes to whom such a prompt came to longest ago.

    1 - rank / (endpoints - 1), rank 0 for the oldest; a prompt that somebody holds gives 0.5 to all. Those that never
    got one come first and are equal here; the original puts them in the order they are listed. When one got its last
    cold prompt is kept by the ledger (`cold_turn`).
    Signals: KV index, the ledger's memory of cold prompts.
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        count = len(known.endpoints)
        if any(known.cached_tokens) or count == 1:
            return [0.5] * count
        turns = [endpoint.cold_turn for endpoint in known.endpoints]
        ranked = sorted(turns)
        return [1.0 - ranked.index(turn) / (count - 1) for turn in turns]


@scorers.register("llmd_token_load")
class LlmdTokenLoad(Scorer, frozen=True):
    """llm-d's token load scorer: 1 - (pending prefill + this prompt's uncached tokens) / tokens_max, at least 0.

    Tokens count from the dispatch to the first token, cached ones never: what our ledger calls pending prefill. The
    default `tokens_max` is theirs: 128 requests of 32 Ki tokens.
    Signals: KV index, in-flight ledger.
    """

    tokens_max: int = 4_194_304

    def __post_init__(self) -> None:
        if self.tokens_max < 1:
            raise ValueError("tokens_max must be at least 1")

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        loads = zip(known.endpoints, known.uncached_tokens, strict=True)
        return [1.0 - min(1.0, (endpoint.prefill_tokens + uncached) / self.tokens_max) for endpoint, uncached in loads]


@filters.register("llmd_prefix_affinity")
class LlmdPrefixAffinity(Filter, frozen=True):
    """llm-d's prefix cache affinity filter: sticky until saturated.

    Keeps the endpoints that hold at least `match_ratio_min` of the prompt's full blocks, unless there is none, or the
    least loaded of them has over `penalty_tokens` more pending prefill than the least loaded other one: then all stay.
    The default penalty is the guide's, 286,720 tokens, which is 18 s of prefill at the 15,928 tokens/s measured there
    (Qwen3-32B, TP2, H100); it has to be measured anew for another model or GPU.
    Signals: KV index, in-flight ledger.
    """

    match_ratio_min: float = 0.8
    penalty_tokens: int = 286_720

    def __post_init__(self) -> None:
        if not 0 < self.match_ratio_min <= 1:
            raise ValueError("match_ratio_min must be above 0 and at most 1")
        if self.penalty_tokens < 0:
            raise ValueError("penalty_tokens must not be negative")

    def keep(self, arrived: Arrived, known: Known) -> list[bool]:
        full = len(arrived.blocks) * arrived.block_size or arrived.prompt_tokens
        sticky = [0 < full * self.match_ratio_min <= cached for cached in known.cached_tokens]
        if all(sticky) or not any(sticky):
            return [True] * len(sticky)
        loads = [(endpoint.prefill_tokens, held) for endpoint, held in zip(known.endpoints, sticky, strict=True)]
        best, other = min(load for load, held in loads if held), min(load for load, held in loads if not held)
        return [True] * len(sticky) if best - other > self.penalty_tokens else sticky
