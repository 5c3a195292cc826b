"""The bodies of a split request's steps, made of the client's, and which requests can be split at all."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

COMPLETIONS, CHAT, RESPONSES, MESSAGES = "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"
_ONE_TOKEN = {  # path -> the limits of its answer
    COMPLETIONS: ("max_tokens",),
    CHAT: ("max_tokens", "max_completion_tokens"),
    RESPONSES: ("max_output_tokens",),
    MESSAGES: ("max_tokens",),
}
# Of no use for one token that nobody reads: they make it long, or end it early, or go with what is changed.
_LEFT_OUT = (
    "stream", "stream_options", "min_tokens", "stop", "stop_token_ids", "stop_sequences", "logprobs", "top_logprobs",
    "return_token_ids", "return_tokens_as_token_ids", "store", "include",
)  # fmt: skip
_SEVERAL = ("n", "best_of")
# What returns more of the prompt than its KV, or needs more than its KV; and what somebody who may set it himself
# (`clients.grants`) knows better about.
_WHOLE = frozenset([
    "use_beam_search", "echo", "prompt_embeds", "suffix", "background", "previous_response_id",
    "previous_input_messages", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "request_id", "rid",
    "bootstrap_room",
])  # fmt: skip
# Log-probabilities come with computing the prompt, and 0 is a wish as well. How much is cut off a prompt depends on how many
# tokens may be answered: cut for one token it would be another prompt.
_UNSET = ("prompt_logprobs", "truncate_prompt_tokens")
_TEXTS = frozenset(["text", "input_text", "output_text", "refusal", "thinking", "tool_use", "tool_result"])
_ITEMS = frozenset([None, "message", "function_call", "function_call_output", "reasoning"])  # of a response's input
_PLAIN = re.compile("[^A-Za-z0-9-]")


def is_splittable(path: str, fields: Mapping[str, Any], *, salted: bool = True) -> bool:
    """Whether the KV of its prompt, computed elsewhere, is all that its answer needs.

    salted   whether prompts with a `cache_salt` may be split
    """
    if path not in _ONE_TOKEN or (
        not _WHOLE.isdisjoint(fields) and any(fields[name] for name in fields if name in _WHOLE)
    ):
        return False
    if any(fields.get(name) is not None for name in _UNSET) or fields.get("truncation") not in (None, "disabled"):
        return False
    if any(fields.get(name) not in (None, 1) for name in _SEVERAL):
        return False
    if not salted and fields.get("cache_salt"):
        return False
    if path == COMPLETIONS:
        prompt = fields.get("prompt")
        return isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and type(prompt[0]) is int)
    if path == RESPONSES:
        given = fields.get("input")
        return _is_one_turn(fields) and (isinstance(given, str) or (isinstance(given, list) and _are_texts(given)))
    thinking = fields.get("thinking")
    if path == MESSAGES and isinstance(thinking, dict) and thinking.get("type") == "enabled":
        return False  # engines refuse a budget above the answer's limit, and that is one token
    messages = fields.get("messages")
    return isinstance(messages, list) and bool(messages) and _are_texts(messages)


def _is_one_turn(fields: Mapping[str, Any]) -> bool:
    """Whether the engine generates once: tools of its own make it come back to a prompt that has grown."""
    tools = fields.get("tools") or []
    return isinstance(tools, list) and all(isinstance(t, dict) and t.get("type") == "function" for t in tools)


def _are_texts(items: list[Any]) -> bool:
    """Whether messages hold nothing but text: what else they may hold is encoded before it becomes tokens."""
    for item in items:
        if not isinstance(item, dict) or (item.get("role") is None and item.get("type") not in _ITEMS):
            return False
        content = item.get("content")
        if isinstance(content, list) and not _are_text_parts(content):
            return False
    return True


def _are_text_parts(parts: list[Any]) -> bool:
    for part in parts:
        if isinstance(part, str):
            continue
        if not isinstance(part, dict) or part.get("type") not in _TEXTS:
            return False
        inner = part.get("content")
        if isinstance(inner, list) and not _are_text_parts(inner):
            return False
    return True


def one_token(path: str, raw: bytes, more: Mapping[str, Any], name: str) -> bytes:
    """The same request for one token, not streamed, with fields of the connector's: a prefill, or a mere fetch."""
    fields = {key: value for key, value in msgspec.json.decode(raw).items() if key not in _LEFT_OUT}
    limits = dict.fromkeys(_ONE_TOKEN[path], 1)
    # This API does not look at `x-request-id`: the engine's name for the request stands in its body.
    own = {"store": False, "request_id": f"resp_{plain(name)}"} if path == RESPONSES else {}
    return msgspec.json.encode({**fields, **limits, "stream": False, **own, **more})


def with_fields(raw: bytes, more: Mapping[str, Any]) -> bytes:
    """The client's own bytes, with fields of the connector's before them, which no client may set."""
    if not more:
        return raw
    start = raw.index(b"{") + 1
    return raw[:start] + msgspec.json.encode(more)[1:-1] + b"," + raw[start:]


def plain(name: str) -> str:
    """A request's name as part of a response's id, which goes into paths."""
    return _PLAIN.sub("-", name)
