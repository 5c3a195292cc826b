"""Metrics of one emulated engine, by vLLM's names, types, labels and bucket bounds.

Counted in plain integers on the hot path and turned into families when somebody scrapes. Seconds are those of the
wall, as an observer would measure them.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pilothouse.live.counters import Counter, Histogram

ENGINE = ("engine", "model_name")
RANK = "0"
SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
TIERS = ("device", "host", "p2p", "disk", "external_unspecified")
REASONS = ("stop", "length", "abort", "error", "repetition")
FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
           640, 2560)  # fmt: skip
TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)


class Gauges(msgspec.Struct, frozen=True):
    """What is read at the moment of a scrape."""

    running: int
    waiting: int
    deferred: int  # waiting for KV from another engine
    kv_used_ratio: float
    running_loras: str
    waiting_loras: str


class Finished(msgspec.Struct, frozen=True):
    """One request that ended well. Times in seconds of the wall."""

    reason: str
    prompt_tokens: int
    output_tokens: int
    computed_tokens: int  # of the prompt
    tokens_max: int
    end_to_end_s: float
    queue_s: float
    prefill_s: float
    decode_s: float


class EngineMetrics:
    """All of them."""

    def __init__(
        self, model: str, tokens_max: int, cache_config: dict[str, str], loras_max: int, started_s: float
    ) -> None:
        self.labels = (RANK, model)
        self._model, self._cache_config = model, cache_config
        self._loras_max, self._started_s = loras_max, started_s
        counter, seconds = partial(_counter, labels=ENGINE), partial(_histogram, labels=ENGINE)
        tokens = partial(seconds, bounds=tuple(_one_two_five(tokens_max)))
        self.queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self.hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self.external_queries = counter("external_prefix_cache_queries", "Prompt tokens looked for at other engines.")
        self.external_hits = counter("external_prefix_cache_hits", "Prompt tokens that came from other engines.")
        self.media = (counter("mm_cache_queries", "Always 0."), counter("mm_cache_hits", "Always 0."))
        self.preemptions = counter("num_preemptions", "Sequences that lost their blocks and started over.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests whose prefill is over.")
        self.by_source = _counter("prompt_tokens_by_source", "The same, by where they came from.", (*ENGINE, "source"))
        self.cached = counter("prompt_tokens_cached", "Prompt tokens that were not computed here.")
        self.cached_by = _counter("prompt_tokens_cached_by_source", "The same, by tier.", (*ENGINE, "source"))
        self.output_tokens = counter("generation_tokens", "Output tokens.")
        self.success = _counter("request_success", "Requests that ended, by reason.", (*ENGINE, "finished_reason"))
        self.rejected = _counter("admission_rejections", "Requests refused for a full queue.", ("model_name", "reason"))
        self.request_prompt = tokens("request_prompt_tokens", "Prompt tokens of a request.")
        self.request_output = tokens("request_generation_tokens", "Output tokens of a request.")
        self.request_output_max = tokens("request_max_num_generation_tokens", "Most output tokens of its choices.")
        self.params_max = tokens("request_params_max_tokens", "What the request allowed.")
        self.computed = tokens("request_prefill_kv_computed_tokens", "Prompt tokens computed for a request.")
        self.step_tokens = seconds("iteration_tokens_total", "Tokens of one engine step.", bounds=STEP_TOKENS)
        self.params_n = seconds("request_params_n", "Choices asked for.", bounds=(1, 2, 5, 10, 20))
        self.first = seconds("time_to_first_token_seconds", "From arrival to the first token.", bounds=FIRST_S)
        self.gaps = seconds("inter_token_latency_seconds", "Between two tokens.", bounds=TOKEN_S)
        self.per_token = seconds("request_time_per_output_token_seconds", "Mean gap of a request.", bounds=TOKEN_S)
        request = partial(seconds, bounds=REQUEST_S)
        self.end_to_end = request("e2e_request_latency_seconds", "From arrival to the last token.")
        self.queue = request("request_queue_time_seconds", "From arrival to being scheduled.")
        self.inference = request("request_inference_time_seconds", "From being scheduled to the last token.")
        self.prefill = request("request_prefill_time_seconds", "From being scheduled to the first token.")
        self.decode = request("request_decode_time_seconds", "From the first token to the last.")
        self.request_preemptions = seconds("request_num_preemptions", "Preemptions of a request.", bounds=PREEMPTIONS)
        self._families = [v for v in vars(self).values() if isinstance(v, Counter | Histogram)] + [*self.media]
        self._seed()

    def finished(self, one: Finished) -> None:
        labels = self.labels
        self.success.add((*labels, one.reason))
        for family, value in (
            (self.request_prompt, one.prompt_tokens),
            (self.request_output, one.output_tokens),
            (self.request_output_max, one.output_tokens),
            (self.computed, one.computed_tokens),
            (self.params_max, one.tokens_max),
            (self.params_n, 1),
            (self.end_to_end, one.end_to_end_s),
            (self.queue, one.queue_s),
            (self.inference, one.prefill_s + one.decode_s),
            (self.prefill, one.prefill_s),
            (self.decode, one.decode_s),
            (self.request_preemptions, 0),  # the simulated engine counts them for all requests together
        ):
            family.of(labels).observe(value)
        if one.output_tokens > 1:
            self.per_token.of(labels).observe(one.decode_s / (one.output_tokens - 1))

    def text(self, gauges: Gauges) -> bytes:
        """The answer to a scrape."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(partial(self._collect, gauges)))
        return generate_latest(registry)

    def _seed(self) -> None:
        """Series exist from the start, as an engine's do."""
        for family in self._families:
            if tuple(family.labels) == ENGINE:
                family.of(self.labels)
        for source in SOURCES:
            self.by_source.of((*self.labels, source))
        for tier in TIERS:
            self.cached_by.of((*self.labels, tier))
        for reason in REASONS:
            self.success.of((*self.labels, reason))
        for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
            self.rejected.of((self._model, reason))

    def _collect(self, gauges: Gauges) -> Iterator[Metric]:
        for family in self._families:
            yield family.collect()
        for name, value in (
            ("num_requests_running", gauges.running),
            ("num_requests_waiting", gauges.waiting + gauges.deferred),
            ("kv_cache_usage_perc", gauges.kv_used_ratio),
        ):
            yield _gauge(name, ENGINE, [(self.labels, value)])
        waiting = [((*self.labels, "capacity"), gauges.waiting), ((*self.labels, "deferred"), gauges.deferred)]
        yield _gauge("num_requests_waiting_by_reason", (*ENGINE, "reason"), waiting)
        states = [((*self.labels, "awake"), 1), ((*self.labels, "weights_offloaded"), 0)]
        states.append(((*self.labels, "discard_all"), 0))
        yield _gauge("engine_sleep_state", (*ENGINE, "sleep_state"), states)
        names = tuple(self._cache_config)
        yield _gauge("cache_config_info", names, [(tuple(self._cache_config.values()), 1)])
        if self._loras_max:
            labels = (str(self._loras_max), gauges.running_loras, gauges.waiting_loras)
            names = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
            yield _gauge("lora_requests_info", names, [(labels, self._started_s)])
        started = GaugeMetricFamily("process_start_time_seconds", "When this emulated engine started.")
        started.add_metric([], self._started_s)
        yield started


class _Snapshot(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
    return Counter(f"vllm:{name}", f"{text} Emulated.", labels)


def _histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Histogram:
    return Histogram(f"vllm:{name}", f"{text} Emulated.", tuple(map(float, bounds)), labels)


def _gauge(name: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"vllm:{name}", "Emulated.", labels=labels)
    for which, value in values:
        family.add_metric(which, value)
    return family


def _one_two_five(most: int) -> Iterator[float]:
    """1, 2, 5, 10 ... up to `most`."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power > most:
                return
            yield digit * power
        power *= 10
