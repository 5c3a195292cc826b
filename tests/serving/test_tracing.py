"""Spans: the context written for the engine, and what a collector receives for a request."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pilothouse.config.schema import Tracing
from pilothouse.core.errors import ConfigError
from pilothouse.serving import tracing
from pilothouse.serving.record import Record
from pilothouse.serving.tracing import Contexts

CLIENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_client_s_trace_goes_on_under_a_span_of_ours() -> None:
    made, parent = Contexts(0.0).child(CLIENT)
    assert parent == CLIENT.decode()
    assert made[:36] == CLIENT[:36] and made[36:52] != CLIENT[36:52] and made[-2:] == b"01"


@pytest.mark.parametrize(
    "incoming", [None, b"", b"junk", CLIENT.upper(), CLIENT + b"-x", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01"]
)
def test_without_a_readable_context_a_trace_begins(incoming: bytes | None) -> None:
    made, parent = Contexts(1.0).child(incoming)
    assert parent == "" and tracing._TRACEPARENT.fullmatch(made) and made.endswith(b"-01")
    assert Contexts(0.0).child(incoming)[0].endswith(b"-00")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP/HTTP endpoint that keeps the bodies it is sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_request_becomes_a_span_with_its_parent_and_its_facts(collector: tuple[str, list[bytes]]) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `tracing` is not installed")
    message = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    url, bodies = collector
    made, parent = Contexts(0.0).child(CLIENT)
    export, stop = tracing.exporter(Tracing(otlp=url), lambda: 1_000.0)
    fields = {"request": "r", "method": "POST", "path": "/v1/completions", "api": "completions", "kind": "steered"}
    record = Record(
        **fields, status=200, outcome="finished", e2e_us=2_000_000, trace=made.decode(), trace_parent=parent
    )
    unsampled = Record(**fields, status=200, outcome="finished", trace=made.decode()[:-2] + "00")
    export(record, None)
    export(unsampled, None)
    stop()
    request = message.ExportTraceServiceRequest.FromString(b"".join(bodies))
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert span.trace_id.hex() == CLIENT.decode()[3:35] and span.parent_span_id.hex() == CLIENT.decode()[36:52]
    assert span.span_id.hex() == made.decode()[36:52]
    assert span.end_time_unix_nano - span.start_time_unix_nano == 2_000_000_000
    assert {a.key for a in span.attributes} >= {"pilothouse.endpoint", "pilothouse.outcome", "gen_ai.request.model"}


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(ConfigError, match="pilothouse\\[tracing\\]"):
        tracing.exporter(Tracing(otlp="http://127.0.0.1:1"), lambda: 0.0)
