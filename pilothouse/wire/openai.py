"""What a request body says: the fields that steer it, and the fields that no client may set.

The body goes to the engine byte for byte wherever that is safe. Whatever our parser and the engine's could read differently
is refused (invalid UTF-8, NaN, numbers out of range, trailing bytes, other encodings) or written anew from the one reading
that was checked (escaped or repeated names of fields that matter). Forbidden fields are looked up by name, whatever their
value, so a repeated name hides nothing.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from pilothouse.core.errors import ClientError

# Read by engines as instructions to the engine rather than to the model. Sources: the request models of vLLM 0.32
# (entrypoints/*/protocol.py) and of SGLang (managers/io_struct.py, entrypoints/openai/protocol.py).
FORBIDDEN_FIELDS: Mapping[str, str] = {
    "kv_transfer_params": "claims the KV cache of another request",
    "ec_transfer_params": "claims the encoder cache of another request",
    "cache_salt": "separates or joins prefix caches",
    "extra_key": "separates or joins prefix caches",
    "priority": "overtakes other requests",
    "vllm_xargs": "sets engine-internal arguments",
    "extra_args": "sets engine-internal arguments",
    "request_id": "names a request inside the engine",
    "rid": "names a request inside the engine",
    "data_parallel_rank": "chooses a rank inside the engine",
    "routed_dp_rank": "chooses a rank inside the engine",
    "disagg_prefill_dp_rank": "chooses a rank inside the engine",
    "data_parallel_rank_decode": "chooses a rank inside the engine",
    "bootstrap_host": "makes the engine connect to a host",
    "bootstrap_port": "makes the engine connect to a host",
    "bootstrap_room": "claims the KV cache of another request",
    "bootstrap_pair_key": "claims the KV cache of another request",
    "decode_tp_size": "describes the engine's peers",
    "custom_logit_processor": "runs code in the engine",
    "custom_params": "passes parameters to code in the engine",
    "logits_processors": "runs code in the engine",
    "lora_path": "loads files of the engine",
    "lora_id": "chooses an adapter behind the model's name",
    "prompt_embeds": "is deserialised into tensors by the engine",
    "input_embeds": "is deserialised into tensors by the engine",
    "mm_payload": "changes what the engine returns of its internals",
    "return_mm_kwargs": "changes what the engine returns of its internals",
    "return_hidden_states": "returns the engine's internals",
    "return_routed_experts": "returns the engine's internals",
    "routed_experts_prompt_start": "returns the engine's internals",
    "return_cached_tokens_details": "returns the engine's internals",
    "session_params": "continues a session inside the engine",
    "no_logs": "hides the request from the engine's logs",
    "received_time": "forges the engine's timings",
    "stream_options_internal": "is internal",
}
MODEL_CHARS_MAX = 256  # names are kept in logs and stories
_FORBIDDEN = frozenset(FORBIDDEN_FIELDS)
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")  # a name may hide behind it; ordinary text rarely needs it
_OUTPUT_LIMITS_IN_ORDER = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_OUTPUT_LIMITS = frozenset(_OUTPUT_LIMITS_IN_ORDER)
_SESSION_FIELDS = frozenset(["prompt_cache_key", "session_id", "metadata", "previous_response_id", "user"])
# Bind the answer to a grammar whatever is in them, unless that is null: vLLM's, older vLLM's, SGLang's.
_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema",
             "regex", "ebnf", "structural_tag")  # fmt: skip
_CONSTRAINING = frozenset(["response_format", "text", "tools", *_GRAMMARS])
_FREE_FORMATS = (None, "text")
_FORM_NAME = re.compile(rb"content-disposition[^\r\n]*", re.IGNORECASE)
_FORM_FIELD = re.compile(
    rb'form-data; ?name="([A-Za-z0-9_.\[\]-]+)"(?:; ?filename="[^"\\\r\n]*")?(?:; ?filename\*=[A-Za-z0-9%\'._-]+)?'
)
_FORM_MODEL = re.compile(
    rb'content-disposition: ?form-data; ?name="model"\r\n(?:[a-z-]+:[^\r\n]*\r\n)*\r\n([^\r\n]+)\r\n', re.IGNORECASE
)
OUTPUT_TOKENS_LIMIT = 1 << 31  # more is not a wish but a mistake; the engine will say so


@dataclass(slots=True)
class Inspected:
    """One checked body. `raw` is what the engine gets."""

    raw: bytes
    fields: dict[str, object]
    model: str | None
    stream: bool
    output_tokens_max: int | None
    session: str | None  # the client's own name for the conversation
    previous_response: str | None  # a stored response that this one continues
    constrained: bool = False  # a grammar, a schema or tools bind the answer


def inspect_json(raw: bytes, grants: Collection[str] = ()) -> Inspected:
    """Checks a JSON body; raises ClientError naming the field at fault."""
    fields = _decode(raw)
    if not _FORBIDDEN.isdisjoint(fields):
        refuse_forbidden(fields, grants)
    sampling = fields.get("sampling_params")
    if isinstance(sampling, dict):  # of paths that are open where they are granted
        refuse_forbidden(sampling, grants)
    model, stream, previous = fields.get("model"), fields.get("stream"), fields.get("previous_response_id")
    if model is not None and not (isinstance(model, str) and 0 < len(model) <= MODEL_CHARS_MAX):
        what = f"model must be a string of 1 to {MODEL_CHARS_MAX} characters"
        raise ClientError(what, param="model", code="invalid_type")
    if stream is not None and not isinstance(stream, bool):
        raise ClientError("stream must be true or false", param="stream", code="invalid_type")
    if previous is not None and not isinstance(previous, str):
        raise ClientError("previous_response_id must be a string", param="previous_response_id", code="invalid_type")
    if _may_be_read_otherwise(raw, model is not None, previous is not None):
        raw = _encode(fields)
    limit, session, bound = _output_tokens_max(fields), _session(fields), _is_constrained(fields)
    return Inspected(raw, fields, model, stream is True, limit, session, previous, bound)


def inspect_form(raw: bytes, grants: Collection[str] = ()) -> Inspected:
    """Checks the field names of a multipart form (audio endpoints); the parts themselves are the engine's business."""
    for line in _FORM_NAME.findall(raw):
        field = _FORM_FIELD.fullmatch(line.partition(b":")[2].strip(b" "))
        if not field:
            raise ClientError("malformed multipart field name", code="invalid_form")
        refuse_forbidden([field[1].decode()], grants)
    model = _FORM_MODEL.search(raw)
    name = model[1].decode("utf-8", "replace") if model else None
    if name is not None and len(name) > MODEL_CHARS_MAX:
        raise ClientError(f"model is longer than {MODEL_CHARS_MAX} characters", param="model", code="invalid_type")
    return Inspected(raw, {}, name, False, None, None, None)


def refuse_forbidden(names: Collection[str], grants: Collection[str]) -> None:
    """Raises for the first of `names` that is forbidden and not granted."""
    for name in names:
        if name in FORBIDDEN_FIELDS and name not in grants:
            what = f"the field {name!r} is not accepted here: it {FORBIDDEN_FIELDS[name]}"
            raise ClientError(what, param=name, code="forbidden_field")


def session_key(name: str) -> int:
    """A 64-bit key of a conversation's name, never 0, which means none."""
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest()) or 1


def _decode(raw: bytes) -> dict[str, object]:
    try:
        fields = msgspec.json.decode(raw)
    except RecursionError:
        raise ClientError("the request body is nested too deeply", code="invalid_json") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ClientError(f"the request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ClientError("the request body must be a JSON object", code="invalid_json")
    return fields


def _may_be_read_otherwise(raw: bytes, has_model: bool, has_previous: bool) -> bool:
    """Whether a field that chooses the engine is spelled in a way, or so often, that another parser might choose another.

    `stream` needs no such care: the answer's own head says whether it is a stream.
    """
    last = raw.rfind(b'"model"')  # from the right, since CPython searches that way five times as fast
    if last < 0:
        if has_model:
            return True
    elif raw.rfind(b'"model"', 0, last) >= 0:
        return True
    if has_previous and raw.count(b'"previous_response_id"') != 1:
        return True
    return b"\\" in raw and _ESCAPED_ASCII.search(raw) is not None


def _encode(fields: dict[str, object]) -> bytes:
    try:
        return msgspec.json.encode(fields)
    except OverflowError:
        raise ClientError("the request body holds a number out of range", code="invalid_json") from None


def _output_tokens_max(fields: dict[str, object]) -> int | None:
    if _OUTPUT_LIMITS.isdisjoint(fields):
        return None
    for name in _OUTPUT_LIMITS_IN_ORDER:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < OUTPUT_TOKENS_LIMIT:
            return value
    return None


def _is_constrained(fields: dict[str, object]) -> bool:
    if _CONSTRAINING.isdisjoint(fields):
        return False
    if any(fields.get(name) is not None for name in _GRAMMARS):
        return True
    text = fields.get("text")  # of the Responses API
    formats = fields.get("response_format"), text.get("format") if isinstance(text, dict) else None
    if any(_type_of(each) not in _FREE_FORMATS for each in formats):
        return True
    return bool(fields.get("tools")) and _type_of(fields.get("tool_choice")) != "none"


def _type_of(said: object) -> object:
    """Of what is a word in one API and a mapping with a type in another."""
    return said.get("type") if isinstance(said, dict) else said


def _session(fields: dict[str, object]) -> str | None:
    if _SESSION_FIELDS.isdisjoint(fields):
        return None
    metadata = fields.get("metadata")
    named = metadata.get("session_id") if isinstance(metadata, dict) else None
    found = (
        *(fields.get("prompt_cache_key"), fields.get("session_id"), named),
        *(fields.get("previous_response_id"), fields.get("user")),
    )
    return next((value for value in found if isinstance(value, str) and value), None)
