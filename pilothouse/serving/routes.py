"""Which path goes where: the one list of what clients may ask for. What is not on it does not reach an engine."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Api(StrEnum):
    """How a body is read: the request shapes whose prompt can be described."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"
    OTHER = "other"  # passed through by load, prompt unknown


class Kind(StrEnum):
    """Who answers."""

    STEERED = "steered"  # an engine, chosen by the dispatcher
    STORED = "stored"  # the engine that holds the response named in the path
    MODELS = "models"  # the gateway
    HEALTH = "health"  # the gateway
    REFUSED = "refused"  # the gateway, 403: it would control the engine
    UNKNOWN = "unknown"  # the gateway, 404


@dataclass(frozen=True, slots=True)
class Path:
    """One path: who answers it, to which methods, and what its body is."""

    kind: Kind
    methods: tuple[str, ...]
    api: Api = Api.OTHER
    item: str = ""  # the id in the path: of a model or of a stored response


_POST = ("POST",)
_STEERED = {
    "/v1/chat/completions": Api.CHAT,
    "/v1/completions": Api.COMPLETIONS,
    "/v1/responses": Api.RESPONSES,
    "/v1/embeddings": Api.EMBEDDINGS,
    "/v1/messages": Api.MESSAGES,
    "/tokenize": Api.TOKENIZE,
    "/detokenize": Api.DETOKENIZE,
}
EXACT: dict[str, Path] = {path: Path(Kind.STEERED, _POST, api) for path, api in _STEERED.items()} | {
    "/v1/models": Path(Kind.MODELS, ("GET", "HEAD")),
    "/health": Path(Kind.HEALTH, ("GET", "HEAD")),
}
# Under /v1 all the same: they change the engine, hand out its internals, or take token ids past the prompt's checks.
CONTROL = frozenset(["load_lora_adapter", "unload_lora_adapter", "render", "derender", "realtime"])
# Named so that the refusal can say 403 rather than 404; anything else outside /v1 is unknown.
CONTROL_ROOTS = frozenset([
    "abort", "abort_request", "abort_requests", "classify", "collective_rpc", "configure_logging", "fault_tolerance",
    "flush_cache", "get_world_size", "finish_weight_update", "inference", "init_weight_transfer_engine",
    "invocations", "is_paused", "is_scaling_elastic_ep", "is_sleeping", "kv_event_sources", "load", "metrics",
    "pause", "ping", "release_kv_cache_memory", "release_memory_occupation", "reset_encoder_cache", "reset_mm_cache",
    "reset_prefix_cache", "resume", "resume_memory_occupation", "scale_elastic_ep", "server_info", "sleep",
    "start_profile", "start_weight_update", "stop_profile", "tokenizer_info", "update_weights", "version", "wake_up",
    "weight_checker",
])  # fmt: skip
_UNKNOWN = Path(Kind.UNKNOWN, ())
_REFUSED = Path(Kind.REFUSED, ())


def path_of(path: str, grants: Collection[str] = ()) -> Path:
    """What becomes of requests for `path`; `grants` holds paths that configuration opens."""
    found = EXACT.get(path)
    if found:
        return found
    plain = path.rstrip("/")
    if path in grants:
        return Path(Kind.STEERED, ("GET", "POST", "DELETE"))
    words = plain.split("/")[1:]
    if not words or words[0] != "v1":
        return _REFUSED if words and words[0] in CONTROL_ROOTS else _UNKNOWN
    if not CONTROL.isdisjoint(words):
        return _REFUSED
    if path != plain or len(words) < 2:
        return _UNKNOWN  # a trailing slash would make the engine redirect to itself
    if words[1] == "models":
        return Path(Kind.MODELS, ("GET", "HEAD"), item=path.removeprefix("/v1/models/"))
    if words[1] == "responses":
        return _stored(words)
    return Path(Kind.STEERED, ("GET", "POST", "DELETE"))


def _stored(words: list[str]) -> Path:
    if len(words) == 3:
        return Path(Kind.STORED, ("GET", "DELETE"), item=words[2])
    if len(words) == 4 and words[3] == "cancel":
        return Path(Kind.STORED, _POST, item=words[2])
    if len(words) == 4 and words[3] == "input_items":
        return Path(Kind.STORED, ("GET",), item=words[2])
    return _UNKNOWN
