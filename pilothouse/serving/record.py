"""What is known of one request at its end: handed to `observe` once, for the log line and the metrics."""

from collections.abc import Callable

import msgspec

# Upper bounds of the gaps between chunks of a stream [microseconds]; one more bucket counts what is above.
ITL_BOUNDS_US: tuple[int, ...] = (
    1_000, 2_500, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 40_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000,
    500_000, 750_000, 1_000_000, 2_000_000, 5_000_000,
)  # fmt: skip


class Record(msgspec.Struct, frozen=True):
    """One request. Times are microseconds; None where there was nothing to measure."""

    request: str  # unique; begins with the client's own id if it gave one
    method: str
    path: str  # as asked for; not a closed set
    api: str  # `routes.Api`: a closed set
    kind: str  # `routes.Kind`, or "malformed": a closed set
    status: int  # as the client saw it; 499 when it had gone
    outcome: str  # finished, refused, failed, cancelled, local
    code: str = ""  # error code of a refusal, failure kind of a broken stream
    model: str = ""
    endpoint: str = ""  # the last one tried
    attempts: int = 0
    stream: bool = False
    at_us: int = 0  # when its head was complete
    ttft_us: int | None = None  # to the first byte of the answer's body
    e2e_us: int = 0
    described_tokens: int = 0  # of the prompt, before it was sent
    described_by: str = ""  # mode of the description: exact, engine, text, or "" for an estimate by size
    described_note: str = ""
    expected_cached_tokens: int = 0
    prompt_tokens: int | None = None  # as the engine reported
    cached_tokens: int | None = None
    output_tokens: int | None = None  # reported, or the number of events
    chunks: int = 0  # reads that brought body bytes
    bytes_in: int = 0
    bytes_out: int = 0
    session: int = 0
    trace: str = ""  # our span as a W3C traceparent, when spans are made
    trace_parent: str = ""  # the client's
    prefill: str = ""  # endpoint that computed the prompt of the last attempt, if it was another one
    prefill_us: int | None = None  # until its answer was here
    transfer_us: int | None = None  # from then until the first token, or until the KV had been fetched
    failure: str = ""  # what was wrong with the last attempt that failed
    itl_counts: list[int] = []  # gaps between them in the buckets of ITL_BOUNDS_US; empty for unary answers


Observe = Callable[[Record], None]
