"""OpenTelemetry spans: one per request, child of the client's trace context, parent of the engine's span.

Without configuration the client's W3C trace context is passed on untouched. With it, the front door writes a context of
its own into the request to the engine, and the picker exports the span when the request has ended.
"""

import os
import random
import re
from collections.abc import Callable
from typing import Any

from pilothouse.config.schema import Tracing
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.stories import Story
from pilothouse.serving.record import Record

MISSING = "needs the extra `tracing`: pip install 'pilothouse[tracing]'"
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
SAMPLED = 1

Export = Callable[[Record, Story | None], None]


class Contexts:
    """Makes the trace context of each request; W3C Trace Context, level 1."""

    def __init__(self, sample_ratio: float) -> None:
        self._ratio = sample_ratio

    def child(self, incoming: bytes | None) -> tuple[bytes, str]:
        """(the `traceparent` for the engine, that of the client or ""). An unreadable one counts as none."""
        match = _TRACEPARENT.fullmatch(incoming) if incoming else None
        if match is None or not int(match[1], 16) or not int(match[2], 16):
            trace, flags = os.urandom(16).hex(), SAMPLED if random.random() < self._ratio else 0
            return f"00-{trace}-{os.urandom(8).hex()}-{flags:02x}".encode(), ""
        made = b"00-%s-%s-%s" % (match[1], os.urandom(8).hex().encode(), match[3])
        return made, match[0].decode()


def exporter(settings: Tracing, wall_s: Callable[[], float]) -> tuple[Export, Callable[[], None]]:
    """(export one request's span, flush and stop). Raises ConfigError when the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode
    except ImportError:
        raise ConfigError([Problem("tracing.otlp", MISSING)]) from None
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp))
    resource = Resource.create({"service.name": "pilothouse"})

    def context(traceparent: str, *, remote: bool) -> SpanContext:
        _, trace, span, flags = traceparent.split("-")
        return SpanContext(int(trace, 16), int(span, 16), remote, TraceFlags(int(flags, 16)))

    def export(record: Record, story: Story | None) -> None:
        if not record.trace or not int(record.trace[-2:], 16) & SAMPLED:
            return
        end_ns = int(wall_s() * 1e9)
        failed = record.outcome != "finished" or record.status >= 500
        processor.on_end(
            ReadableSpan(
                name=f"{record.method} {record.api}",
                context=context(record.trace, remote=False),
                parent=context(record.trace_parent, remote=True) if record.trace_parent else None,
                resource=resource,
                attributes=_attributes(record, story),
                kind=SpanKind.SERVER,
                status=Status(StatusCode.ERROR, record.code) if failed else Status(StatusCode.OK),
                start_time=end_ns - record.e2e_us * 1000,
                end_time=end_ns,
            )
        )

    return export, processor.shutdown


def _attributes(record: Record, story: Story | None) -> dict[str, Any]:
    """OpenTelemetry's names for generative AI where there are any, ours elsewhere; no prompt text."""
    attributes: dict[str, Any] = {
        "http.response.status_code": record.status,
        "gen_ai.request.model": record.model,
        "pilothouse.request": record.request,
        "pilothouse.endpoint": record.endpoint,
        "pilothouse.attempts": record.attempts,
        "pilothouse.expected_cached_tokens": record.expected_cached_tokens,
        "pilothouse.outcome": record.outcome,
    }
    measured = {
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "pilothouse.cached_tokens": record.cached_tokens,
        "pilothouse.time_to_first_token_us": record.ttft_us,
        "pilothouse.prefill.endpoint": record.prefill or None,
        "pilothouse.prefill_us": record.prefill_us,
        "pilothouse.kv_transfer_us": record.transfer_us,
        "pilothouse.queue_us": story.routed_us[0] if story is not None and story.routed_us else None,
        "pilothouse.policy": story.routes[-1].why.profile if story is not None and story.routes else None,
    }
    return attributes | {name: value for name, value in measured.items() if value is not None}
