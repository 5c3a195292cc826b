"""What an emulated engine's metrics say of its requests and steps. Times come in engine time and are told in wall time."""

from bisect import bisect_left

from pilothouse.emulate.metrics import SOURCES, EngineMetrics, Finished
from pilothouse.emulate.pace import Pace
from pilothouse.emulate.work import Work


class Accounts:
    """Fills the metrics of one engine."""

    def __init__(self, metrics: EngineMetrics, pace: Pace) -> None:
        self._metrics, self._pace, self._labels = metrics, pace, metrics.labels

    def rejected(self) -> None:
        self._metrics.rejected.add((self._labels[1], "max_num_queued_reqs"))

    def aborted(self) -> None:
        self._metrics.success.add((*self._labels, "abort"))

    def admitted(self, work: Work, prompt_tokens: int) -> None:
        """The engine has looked into its cache."""
        metrics, labels, cached = self._metrics, self._labels, work.answer.cached
        external = min(work.fetched, cached)
        metrics.queries.add(labels, prompt_tokens)
        metrics.hits.add(labels, cached - external)
        metrics.external_queries.add(labels, work.fetched)
        metrics.external_hits.add(labels, external)

    def first_token(self, work: Work) -> None:
        """Its prefill is over."""
        metrics, labels, prompt = self._metrics, self._labels, work.answer.prompt.tokens
        cached = work.answer.cached
        external = min(work.fetched, cached)
        metrics.first.of(labels).observe(self._pace.wall_s(work.first_us - work.arrived_us))
        metrics.prompt_tokens.add(labels, prompt)
        metrics.cached.add(labels, cached)
        for source, amount in zip(SOURCES, (prompt - cached, cached - external, external), strict=True):
            metrics.by_source.add((*labels, source), amount)
        metrics.cached_by.add((*labels, "device"), cached - external)
        metrics.cached_by.add((*labels, "p2p"), external)

    def resumed(self, gap_us: int) -> None:
        """A token after a preemption."""
        self._metrics.gaps.of(self._labels).observe(self._pace.wall_s(gap_us))

    def step(self, tokens: int, steady: int, gap_us: int, prefilled: int, preempted: int) -> None:
        """One step: output tokens, those of them that follow a token of the step before, and the time between the two."""
        metrics, labels = self._metrics, self._labels
        if steady:
            gaps, gap_s = metrics.gaps.of(labels), self._pace.wall_s(gap_us)
            gaps.counts[bisect_left(gaps.bounds, gap_s)] += steady
            gaps.total += gap_s * steady
        metrics.output_tokens.add(labels, tokens)
        metrics.step_tokens.of(labels).observe(tokens + prefilled)
        metrics.preemptions.add(labels, preempted)

    def finished(self, work: Work, cached: int, at_us: int) -> None:
        """It has its last token."""
        answer, wall_s = work.answer, self._pace.wall_s
        self._metrics.finished(
            Finished(
                answer.finish,
                answer.prompt.tokens,
                answer.plan.tokens,
                answer.prompt.tokens - cached,
                answer.asked.tokens_max or answer.plan.tokens,
                wall_s(at_us - work.arrived_us),
                wall_s(work.scheduled_us - work.arrived_us),
                wall_s(work.first_us - work.scheduled_us),
                wall_s(at_us - work.first_us),
            )
        )
