"""The one table from what went wrong to what HTTP says: status, error type and code, a message for users, Retry-After."""

from http import HTTPStatus

import msgspec

from pilothouse.core.commands import Reject, RejectReason
from pilothouse.core.errors import ClientError
from pilothouse.core.events import FailureKind
from pilothouse.core.units import SECOND
from pilothouse.serving.routes import Api


class Refusal(msgspec.Struct, frozen=True):
    """An answer that the gateway gives itself, in the place of an engine."""

    status: int
    kind: str  # OpenAI's error type
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None


REJECTED: dict[RejectReason, Refusal] = {
    RejectReason.UNKNOWN_MODEL: Refusal(
        404, "invalid_request_error", "model_not_found", "The model does not exist.", "model"
    ),
    RejectReason.NO_ENDPOINT: Refusal(
        503, "server_error", "no_endpoint", "No engine is available for this model.", None, 5
    ),
    RejectReason.BUSY: Refusal(
        429, "rate_limit_error", "engines_busy", "All engines are busy. Try again soon.", None, 1
    ),
    RejectReason.TOO_MANY_WAITING: Refusal(
        429, "rate_limit_error", "too_many_waiting", "Too many requests are waiting. Try again soon.", None, 1
    ),
    RejectReason.RETRIES_EXHAUSTED: Refusal(
        502, "server_error", "engine_failed", "The engines failed to answer this request.", None, 1
    ),
    RejectReason.NO_PREFILL: Refusal(
        503, "server_error", "no_prefill_engine", "No engine is available to compute the prompt.", None, 5
    ),
    RejectReason.PINNED_GONE: Refusal(
        404, "invalid_request_error", "state_gone", "The engine that held this conversation's state is gone."
    ),
}
BROKE_OFF: dict[FailureKind, Refusal] = {  # in the middle of an answer: sent as the last event of a stream
    FailureKind.CONNECT: Refusal(502, "server_error", "engine_unreachable", "The engine cannot be reached."),
    FailureKind.CLOSED: Refusal(502, "server_error", "engine_closed", "The engine closed the connection."),
    FailureKind.TIMEOUT: Refusal(504, "server_error", "engine_timeout", "The engine took too long."),
    FailureKind.ERROR: Refusal(502, "server_error", "engine_error", "The engine failed."),
    FailureKind.BUSY: Refusal(503, "server_error", "engine_busy", "The engine is busy."),
    FailureKind.BROKEN: Refusal(
        502, "server_error", "engine_broke_off", "The engine broke off in the middle of its answer."
    ),
    FailureKind.GARBAGE: Refusal(502, "server_error", "engine_garbage", "The engine's answer could not be understood."),
    FailureKind.EXPIRED: Refusal(504, "server_error", "prefill_expired", "The prompt's KV did not arrive in time."),
}
UNKNOWN_PATH = Refusal(404, "invalid_request_error", "unknown_path", "There is nothing at this path.")
REFUSED_PATH = Refusal(403, "permission_error", "path_refused", "This path is not open to clients.")
WRONG_METHOD = Refusal(405, "invalid_request_error", "method_not_allowed", "This path does not take that method.")
UNAUTHENTICATED = Refusal(401, "authentication_error", "invalid_api_key", "A valid API key is required.")
UNKNOWN_RESPONSE = Refusal(
    404, "invalid_request_error", "response_not_found", "No response with this id is known here."
)
UNKNOWN_MODEL = REJECTED[RejectReason.UNKNOWN_MODEL]
TOO_SLOW = Refusal(408, "invalid_request_error", "request_timeout", "The request took too long to arrive.")
TOO_MANY_CONNECTIONS = Refusal(503, "server_error", "too_many_connections", "Too many connections are open.", None, 1)
DRAINING = Refusal(503, "server_error", "draining", "This gateway is shutting down.", None, 1)
INTERNAL = Refusal(500, "server_error", "internal_error", "The gateway failed to handle this request.")
CLIENT_GONE = 499  # in our own records only: nobody is there to read it
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
REASONS: dict[int, bytes] = {s.value: s.phrase.encode() for s in HTTPStatus} | {413: b"Content Too Large"}


def failure_of(status: int) -> FailureKind | None:
    """How an attempt failed that an engine answered with this status; None if no other engine would do better."""
    if status in (429, 503):
        return FailureKind.BUSY
    return FailureKind.ERROR if status >= 500 else None


def rejected(reject: Reject) -> Refusal:
    """What a client is told of the dispatcher's refusal."""
    refusal = REJECTED[reject.reason]
    if reject.retry_after_us is None:
        return refusal
    return msgspec.structs.replace(refusal, retry_after_s=max(1, -(-reject.retry_after_us // SECOND)))


def blamed(error: ClientError) -> Refusal:
    """What a client is told of its own mistake."""
    kind = "server_error" if error.status == 503 else "invalid_request_error"
    return Refusal(error.status, kind, error.code or "invalid_request", str(error), error.param)


def body_of(refusal: Refusal, api: Api = Api.OTHER) -> bytes:
    """The JSON body of a refusal, in the shape that clients of `api` expect."""
    if api is Api.MESSAGES:
        kind = _ANTHROPIC_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": refusal.message}})
    error = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
    return msgspec.json.encode({"error": error})


def last_events(kind: FailureKind, api: Api, whole: bool) -> bytes:
    """Ends a stream that broke off: a blank line if an event was half written, the error, and the usual end mark."""
    data = body_of(BROKE_OFF[kind], api)
    start = b"" if whole else b"\n\n"
    if api in (Api.MESSAGES, Api.RESPONSES):
        return start + b"event: error\ndata: " + data + b"\n\n"
    return start + b"data: " + data + b"\n\ndata: [DONE]\n\n"
