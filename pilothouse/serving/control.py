"""The control address: liveness, readiness, metrics, status, and why a request went where it went."""

import asyncio
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from pilothouse import __version__
from pilothouse.config import disaggregation
from pilothouse.core.units import EndpointId
from pilothouse.live import supervise
from pilothouse.live.consistency import pairing
from pilothouse.live.directory import TokenStatus
from pilothouse.serving.observe import Metrics
from pilothouse.serving.picker import Picker


class EndpointStatus(msgspec.Struct, frozen=True):
    """One endpoint: what it is, what we know, and how old that is."""

    endpoint: str
    url: str
    pool: str
    state: str  # up, ejected, gone, unreached
    error: str
    models: list[str]
    kv: str  # exact, assumed, or unknown
    kv_feed: dict[str, Any] | None
    kv_blocks: int
    block_size: int
    in_flight: int
    prefill_tokens: int
    others: int
    prefill_tokens_per_s: float
    running: int | None
    waiting: int | None
    kv_used_ratio: float | None
    report_age_s: float | None
    note: str
    role: str  # both, prefill, decode
    connector: str  # "" = it hands no KV over
    exchange: str  # what its partners have alike, see `docs/engines.md`; "" = it hands no KV over
    version: str | None  # None = not told
    speculation: str  # method; "" = none
    acceptance: float | None  # accepted share of the tokens drafted lately; None = none were


class ProcessStatus(msgspec.Struct, frozen=True):
    """The process that decides, which with one worker is the whole gateway. What cannot be read is 0."""

    pid: int
    rss_bytes: int
    open_files: int  # sockets too
    tasks: int  # of its event loop


class Status(msgspec.Struct, frozen=True):
    """The whole gateway at one glance."""

    version: str
    policy: str
    ready: bool
    degraded: list[str]  # sentences a person should read
    endpoints: list[EndpointStatus]
    models: list[TokenStatus]
    requests_in_flight: int
    requests_waiting: int
    index: dict[str, Any]
    loop_failures: dict[str, int]
    process: ProcessStatus


def control_app(picker: Picker) -> Starlette:
    """The ASGI application of the control address."""
    registry = CollectorRegistry()
    registry.register(Metrics(picker.observer, picker.dispatcher, picker.clock))
    ProcessCollector(registry=registry)

    async def health(request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(request: Request) -> Response:
        is_ready = _is_ready(picker)
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        return _json(status_of(picker))

    async def explain(request: Request) -> Response:
        story = picker.observer.stories.find(request.path_params["request_id"])
        if story is None:
            return _json({"error": "no such request among those in flight and the last ones that ended"}, 404)
        return _json(story)

    routes = {
        "/health": health,
        "/ready": ready,
        "/metrics": metrics,
        "/status": status,
        "/explain/{request_id}": explain,
    }
    return Starlette(routes=[HttpRoute(path, endpoint) for path, endpoint in routes.items()])


class ControlServer(uvicorn.Server):
    """uvicorn inside our loop: signals are the gateway's business."""

    def __init__(self, picker: Picker) -> None:
        super().__init__(uvicorn.Config(control_app(picker), log_level="warning", lifespan="off", access_log=False))

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def status_of(picker: Picker) -> Status:
    endpoints = _endpoints(picker)
    tokens = _merged([tell() for tell in picker.tokens.values()])
    index = msgspec.to_builtins(picker.dispatcher.index.stats())
    return Status(
        __version__,
        picker.dispatcher.profile.name,
        _is_ready(picker),
        _degraded(picker, endpoints, tokens),
        endpoints,
        tokens,
        len(picker.dispatcher.requests),
        len(picker.dispatcher.waiting.line),
        {key: value for key, value in index.items() if key != "endpoints"},
        dict(supervise.failures),
        _process(),
    )


def _process() -> ProcessStatus:
    rss_bytes = open_files = 0
    with suppress(OSError):  # only Linux tells
        rss_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        open_files = len(os.listdir("/proc/self/fd")) - 1  # one is the listing's own
    return ProcessStatus(os.getpid(), rss_bytes, open_files, len(asyncio.all_tasks()))


def _endpoints(picker: Picker) -> list[EndpointStatus]:
    lines = []
    for name, watch in picker.discovery.watches.items():
        observed, endpoint = watch.observed, picker.dispatcher.fleet.endpoints.get(name)
        report = endpoint.report if endpoint else None
        state = (
            "unreached" if endpoint is None else "ejected" if endpoint.ejected else "gone" if endpoint.gone else "up"
        )
        lines.append(
            EndpointStatus(
                name,
                observed.url,
                observed.pool,
                state,
                observed.error,
                observed.models,
                "unknown" if endpoint is None else "exact" if observed.exact else "assumed",
                msgspec.to_builtins(watch.feed.status()) if watch.feed else None,
                endpoint.seen.kv_blocks if endpoint else 0,
                endpoint.seen.block_size if endpoint else 0,
                endpoint.in_flight if endpoint else 0,
                endpoint.prefill_tokens if endpoint else 0,
                endpoint.others if endpoint else 0,
                round(endpoint.prefill_rate * 1e6, 1) if endpoint else 0.0,
                report.running if report else None,
                report.waiting if report else None,
                report.kv_used_ratio if report else None,
                (picker.clock.now_us() - report.at_us) / 1e6 if report else None,
                observed.note,
                watch.pool.role,
                watch.pool.connector.type if watch.pool.connector else "",
                endpoint.seen.exchange if endpoint else "",
                observed.member.facts.version if observed.member else None,
                endpoint.seen.speculation if endpoint else "",
                round(endpoint.acceptance, 4) if endpoint and endpoint.acceptance is not None else None,
            )
        )
    return lines


def _degraded(picker: Picker, endpoints: list[EndpointStatus], tokens: list[TokenStatus]) -> list[str]:
    """What works less well than it could, in sentences."""
    sentences = [
        f"endpoint {e.endpoint} is {e.state}: {e.error or _why_out(picker, e)}" for e in endpoints if e.state != "up"
    ]
    sentences += [
        f"endpoint {e.endpoint}: its KV events do not arrive whole, its cache is known badly: {e.kv_feed['note']}"
        for e in endpoints
        if e.state == "up" and e.kv_feed is not None and (not e.kv_feed["connected"] or e.kv_feed["malformed"])
    ]
    sentences += [f"endpoint {e.endpoint}: {e.note}" for e in endpoints if e.note]
    sentences += [
        f"endpoint {e.endpoint} sends no KV events: its cache is assumed from our own routes"
        for e in endpoints
        if e.kv == "assumed" and not e.note
    ]
    sentences += map(str, disaggregation.remarks(picker.config))
    observed = [watch.observed for watch in picker.discovery.watches.values()]
    sentences += pairing.sentences([o.member for o in observed if o.member is not None and o.reached])
    sentences += [f"model {t.model}: prompts are described by {t.mode}: {t.note}" for t in tokens if t.mode != "exact"]
    if picker.dispatcher.policy_failures:
        sentences.append(f"the policy failed {picker.dispatcher.policy_failures} times; least requests decided instead")
    if picker.driver.journal_error:
        sentences.append(picker.driver.journal_error)
    if picker.dispatcher.index.stats().refused:
        sentences.append("the prefix index is full: raise limits.index_blocks")
    return sentences


def _why_out(picker: Picker, status: EndpointStatus) -> str:
    endpoint = picker.dispatcher.fleet.endpoints.get(EndpointId(status.endpoint))
    probes = endpoint is None or endpoint.probe_failures > 0
    return "its checks fail" if probes else "requests failed on it; it is tried again after a pause"


def _merged(told: list[list[TokenStatus]]) -> list[TokenStatus]:
    """One line per model over all workers."""
    found: dict[str, TokenStatus] = {}
    for line in (line for lines in told for line in lines):
        first = found.get(line.model)
        if first is None:
            found[line.model] = line
            continue
        reasons = {key: first.reasons.get(key, 0) + line.reasons.get(key, 0) for key in first.reasons | line.reasons}
        found[line.model] = msgspec.structs.replace(
            first,
            exact=first.exact + line.exact,
            engine=first.engine + line.engine,
            text=first.text + line.text,
            reasons=reasons,
        )
    return list(found.values())


def _is_ready(picker: Picker) -> bool:
    return any(not e.ejected and not e.gone for e in picker.dispatcher.fleet.endpoints.values())


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
