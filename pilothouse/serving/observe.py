"""Metrics and one wide log line per request, made of the dispatcher's story and the front door's record."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pilothouse.core.commands import AnyCommand, Route
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import AnyEvent, Failed, FailureKind, PrefillDone, Probed
from pilothouse.core.units import RequestId
from pilothouse.live import supervise
from pilothouse.live.clock import Clock
from pilothouse.live.counters import DECISION_SECONDS, SECONDS, SERIES_MAX, Count, Counter, Distribution, Histogram
from pilothouse.live.stories import Stories, Story
from pilothouse.serving.record import ITL_BOUNDS_US, Record

RECORDS_MAX = 64  # records settled together, at the latest by the next flush or scrape

MODEL = ("model", "endpoint")
_OF_HEALTH = frozenset([Failed, Probed])  # events that may take an endpoint out
_NO_GAPS = b',"itl_counts":[]}'  # the end of a record without gaps: left out
STEP_SECONDS = [bound / 1e6 for bound in ITL_BOUNDS_US]


class Observer:
    """Watches the driver for what the dispatcher knows, and hears the front doors' records for what clients saw."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock, log: IO[bytes] | None) -> None:
        self.stories = Stories(self._ended)
        self.exporters: list[Callable[[Record, Story | None], None]] = []  # of traces
        self._dispatcher, self._clock, self._log = dispatcher, clock, log
        self._records: list[Record] = []
        self._encoder = msgspec.json.Encoder()
        self.requests = Counter("pilothouse_requests", "Requests by how they ended.", (*MODEL, "outcome"))
        self.responses = Counter("pilothouse_responses", "Answers by API and HTTP status.", ("api", "status"))
        self.failures = Counter("pilothouse_attempt_failures", "Failed attempts at engines.", ("endpoint", "kind"))
        self.retries = Counter("pilothouse_retries", "Attempts after the first.", ("endpoint",))
        self.ejections = Counter("pilothouse_ejections", "Times an endpoint was taken out.", ("endpoint",))
        self.prompt = Counter("pilothouse_prompt_tokens", "Prompt tokens, as engines reported.", MODEL)
        self.expected = Counter(
            "pilothouse_expected_cached_tokens", "Prompt tokens expected in the endpoint's KV cache when routed.", MODEL
        )
        self.cached = Counter("pilothouse_cached_tokens", "Prompt tokens that engines reported as cached.", MODEL)
        self.output = Counter("pilothouse_output_tokens", "Output tokens.", MODEL)
        self.described = Counter("pilothouse_prompts", "Prompts by how they were described.", ("model", "mode"))
        self.ttft = Histogram("pilothouse_time_to_first_token_seconds", "Arrival to first token.", SECONDS, MODEL)
        self.step = Histogram("pilothouse_inter_token_latency_seconds", "Between stream parts.", STEP_SECONDS, MODEL)
        self.total = Histogram("pilothouse_request_duration_seconds", "Arrival to end.", SECONDS, MODEL)
        self.queue = Histogram("pilothouse_queue_seconds", "Arrival to first route.", SECONDS, ("model",))
        self.decision = Histogram("pilothouse_decision_seconds", "Time to take one decision.", DECISION_SECONDS)
        self.splits = Counter(
            "pilothouse_splits", "Attempts with a prefill elsewhere: begun, and what became of it.", ("model", "step")
        )
        self.prefill = Histogram("pilothouse_prefill_seconds", "Prompts computed for other engines.", SECONDS, MODEL)
        self.transfer = Histogram(
            "pilothouse_kv_transfer_seconds", "End of a prefill elsewhere to first token or KV.", SECONDS, MODEL
        )
        self._decisions = self.decision.of(())
        self._finished: dict[tuple[str, str], _Finished] = {}  # (model, endpoint) ->; a memo
        self._down: set[str] = set()  # endpoints seen ejected; only ever asked for membership

    def watch(self, event: AnyEvent, commands: list[AnyCommand], decision_us: int) -> None:
        """A watcher of the driver."""
        if type(event) in _OF_HEALTH:
            self._count_health(event)
        elif type(event) is PrefillDone:
            self._count_step(event.request, "prefilled")
        self.stories.watch(event, commands, decision_us)
        for command in commands:
            if type(command) is Route and command.prefill is not None:
                self._count_step(command.request, "begun")
        if commands:
            self._decisions.observe(decision_us / 1e6)

    def observed(self, record: Record) -> None:
        """A front door's record of one request, at its end. Settled some at a time, which is quicker than one by one."""
        self._records.append(record)
        if len(self._records) >= RECORDS_MAX:
            self.settle()

    def settle(self) -> None:
        """Counts and writes the records gathered so far."""
        records, self._records = self._records, []
        lines, encode = [], self._encoder.encode
        offset_s = self._clock.wall_s() - self._clock.now_us() / 1e6
        for record in records:
            story = self.stories.ended.get(record.request)  # type: ignore[call-overload]  # a call saved
            self._count(record)
            for export in self.exporters:
                export(record, story)
            if self._log is not None:
                lines.append(_line(encode, record, story, offset_s + (record.at_us + record.e2e_us) / 1e6))
        if self._log is not None and lines:
            try:
                self._log.write(b"".join(lines))
                self._log.flush()
            except OSError as error:  # a full disk or a closed pipe must not stop the traffic
                self._log = None
                print(f"request log stopped: {error}", file=sys.stderr)

    def _ended(self, story: Story) -> None:
        if story.routes:
            self.queue.of((story.model,)).observe(story.routed_us[0] / 1e6)

    def _count_health(self, event: AnyEvent) -> None:
        if isinstance(event, Failed):
            story = self.stories.in_flight.get(event.request)
            if story is not None:
                self.failures.add((story.prefill if event.prefill else story.endpoint, event.kind))
                if story.prefill and not event.sent:
                    late = event.kind is FailureKind.EXPIRED
                    self.splits.add((story.model, "expired" if late else "failed"))
        for endpoint in self._dispatcher.fleet.endpoints.values():
            if endpoint.ejected and endpoint.id not in self._down:
                self.ejections.add((endpoint.id,))
                self._down.add(endpoint.id)
            elif not endpoint.ejected:
                self._down.discard(endpoint.id)

    def _count_step(self, request: RequestId, step: str) -> None:
        story = self.stories.in_flight.get(request)
        if story is not None:
            self.splits.add((story.model, step))

    def _count(self, record: Record) -> None:
        self.responses.of((record.api, str(record.status))).value += 1
        if not record.attempts:  # of a routed request the fleet serves the model, so its name is safe as a label
            return
        labels = (record.model, record.endpoint)
        self.described.of((record.model, record.described_by or "size")).value += 1
        if record.attempts > 1:
            self.retries.add((record.endpoint,), record.attempts - 1)
        if record.prefill_us is not None:
            self.prefill.of((record.model, record.prefill)).observe(record.prefill_us / 1e6)
        if record.transfer_us is not None:
            self.transfer.of(labels).observe(record.transfer_us / 1e6)
        if record.outcome != "finished":
            self.requests.add((*labels, record.outcome))
            return
        series = self._finished.get(labels) or self._find_finished(labels)
        series.requests.value += 1
        series.total.observe(record.e2e_us / 1e6)
        series.prompt.value += record.prompt_tokens or record.described_tokens
        series.output.value += record.output_tokens or 0
        if record.stream and record.ttft_us is not None:
            self.ttft.of(labels).observe(record.ttft_us / 1e6)
            self.step.of(labels).merge(record.itl_counts, (record.e2e_us - record.ttft_us) / 1e6)
        if record.cached_tokens is not None:  # only where both are known can they be compared
            self.expected.add(labels, record.expected_cached_tokens)
            self.cached.add(labels, record.cached_tokens)

    def _find_finished(self, labels: tuple[str, str]) -> "_Finished":
        found = _Finished(
            self.requests.of((*labels, "finished")),
            self.total.of(labels),
            self.prompt.of(labels),
            self.output.of(labels),
        )
        if len(self._finished) < SERIES_MAX:
            self._finished[labels] = found
        return found


@dataclass(slots=True)
class _Finished:
    """The series that every finished request of one model on one endpoint adds to."""

    requests: Count
    total: Distribution
    prompt: Count
    output: Count


class _Decision(msgspec.Struct, frozen=True):
    """The decision's side of a log line."""

    queue_us: int
    failures: list[str]
    policy: str
    score: float | None
    runner_up: str | None
    runner_up_score: float | None


def _line(encode: Callable[[Any], bytes], record: Record, story: Story | None, ended_s: float) -> bytes:
    """One wide line: everything the front door knows, and the decision's side of it.

    Two JSON objects are joined by their bytes, since building a dict of thirty fields costs more than the encoding.
    """
    line = b'{"time":%.6f,%b' % (ended_s, encode(record)[1 : -1 if record.itl_counts else -len(_NO_GAPS)])
    if story is None or not story.routes:
        if story is not None and story.rejected:
            line += b',"rejected":' + encode(story.rejected.reason)
        return line + b"}\n"
    why = story.routes[-1].why
    best, runner_up = None, None
    if why.candidates:
        best = why.candidates[0]
        runner_up = why.candidates[1] if len(why.candidates) > 1 else None
    decision = _Decision(
        story.routed_us[0],
        story.failures,
        why.profile,
        None if best is None else round(best.total, 4),
        None if runner_up is None else runner_up.endpoint,
        None if runner_up is None else round(runner_up.total, 4),
    )
    return b"%b,%b\n" % (line, encode(decision)[1:])


class Metrics(Collector):
    """Everything a scrape of the gateway shows: the observer's counts and the dispatcher's state of this moment."""

    def __init__(self, observer: Observer, dispatcher: Dispatcher, clock: Clock) -> None:
        self._observer, self._dispatcher, self._clock = observer, dispatcher, clock

    def collect(self) -> Iterator[Metric]:
        o = self._observer
        o.settle()
        for counted in (
            o.requests,
            o.responses,
            o.failures,
            o.retries,
            o.ejections,
            o.prompt,
            o.expected,
            o.cached,
            o.splits,
        ):
            yield counted.collect()
        for family in (o.output, o.described, o.ttft, o.step, o.total, o.queue, o.decision, o.prefill, o.transfer):
            yield family.collect()
        yield from self._endpoints()
        dispatcher, index = self._dispatcher, self._dispatcher.index.stats()
        yield _gauge("pilothouse_requests_in_flight", "Requests in flight or waiting.", len(dispatcher.requests))
        waiting = GaugeMetricFamily(
            "pilothouse_requests_waiting", "Requests that no endpoint can take.", labels=["model"]
        )
        for model, line in dispatcher.waiting.lines.items():
            waiting.add_metric([model], line.count)
        yield waiting
        yield _gauge("pilothouse_index_blocks", "KV blocks in the prefix index.", index.blocks)
        yield _gauge("pilothouse_policy_failures", "Policy errors contained since start.", dispatcher.policy_failures)
        loops = GaugeMetricFamily("pilothouse_loop_failures", "Background loop failures since start.", labels=["loop"])
        for kind, count in supervise.failures.items():
            loops.add_metric([kind], count)
        yield loops

    def _endpoints(self) -> Iterator[Metric]:
        names = ("up", "in_flight", "prefill_tokens", "others", "kv_used_ratio", "report_age_seconds")
        texts = (
            "1 if the endpoint takes new requests.",
            "Our requests on it.",
            "Uncached prompt tokens dispatched to it and not yet computed.",
            "Requests on it that are not ours, by its last report.",
            "KV space used by running requests, by its last report.",
            "Age of its last report.",
        )
        gauges = [
            GaugeMetricFamily(f"pilothouse_endpoint_{name}", text, labels=["endpoint"])
            for name, text in zip(names, texts, strict=True)
        ]
        now_us = self._clock.now_us()
        for endpoint in self._dispatcher.fleet.endpoints.values():
            report = endpoint.report
            values = [
                float(not endpoint.ejected and not endpoint.gone),
                endpoint.in_flight,
                endpoint.prefill_tokens,
                endpoint.others,
                report.kv_used_ratio if report else None,
                (now_us - report.at_us) / 1e6 if report else None,
            ]
            for gauge, value in zip(gauges, values, strict=True):
                if value is not None:
                    gauge.add_metric([endpoint.id], value)
        yield from gauges


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
