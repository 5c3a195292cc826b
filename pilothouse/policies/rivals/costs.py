"""Rivals with one cost per endpoint, the lowest of which wins: Dynamo, LMetric, LPWL."""

from pilothouse.core.events import Arrived
from pilothouse.core.policy import Known, Scorer, scorers
from pilothouse.policies.rivals.choosing import by_cost


@scorers.register("dynamo_cost")
class DynamoCost(Scorer, frozen=True):
    """NVIDIA Dynamo's KV router: prefill_load_scale x prefill blocks (pending and new, less what is cached) + decode
    blocks + request_weight x requests; the lowest is chosen (temperature 0).

    Decode blocks: those of the prompts in flight, shared ones once, and this one's uncached ones.
    Signals: KV index, in-flight ledger.
    source   ai-dynamo/dynamo lib/kv-router/src/scheduling/selector/default.rs and its router documentation
    """

    prefill_load_scale: float = 1.0
    request_weight: float = 0.0  # blocks per request in flight
    block_tokens: int = 16

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        size, scale = self.block_tokens, self.prefill_load_scale
        return by_cost(
            [
                scale * (endpoint.prefill_tokens + uncached) / size
                + (endpoint.distinct_tokens + uncached) / size
                + self.request_weight * endpoint.in_flight
                for endpoint, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
            ]
        )


@scorers.register("lmetric")
class LMetric(Scorer, frozen=True):
    """LMetric: (pending prefill + new uncached tokens) x (requests + 1); the lowest is chosen. One is added so that an
    idle endpoint does not cancel the other factor, as in the implementations of llm-d and Dynamo.

    Signals: KV index, in-flight ledger.
    source   arXiv 2603.15202
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return by_cost(
            [
                float((endpoint.prefill_tokens + uncached) * (endpoint.in_flight + 1))
                for endpoint, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
            ]
        )


@scorers.register("least_prefill")
class LeastPrefill(Scorer, frozen=True):
    """Least pending prefill (LPWL): tokens dispatched and not computed, plus this prompt's uncached ones. No parameters.
    Equal ones go by fewest requests, which the picker sees to.

    Signals: KV index, in-flight ledger.
    source   gahow/agentic-kvc
    """

    def score(self, arrived: Arrived, known: Known) -> list[float]:
        return by_cost(
            [
                float(endpoint.prefill_tokens + uncached)
                for endpoint, uncached in zip(known.endpoints, known.uncached_tokens, strict=True)
            ]
        )
