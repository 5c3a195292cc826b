"""Chat messages as the engine hands them to its template.

The engine reads messages into typed records before it renders them, which fixes the order of their fields, drops what
it does not know, and rejects some shapes. What it rejects is reported as inexact here: the request is the engine's to
answer.
"""

import json
from typing import Any

from pilothouse.live.tokens.content_format import ContentFormat
from pilothouse.live.tokens.inexact import Inexact
from pilothouse.live.tokens.template import Message

# Part types that are text to the engine, and the field each keeps it in.
_TEXT_FIELDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
# Fields of any part type the engine declares; every other field of a text part reaches the template.
_DECLARED = frozenset({
    "audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url", "input_audio",
    "name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid", "video_embeds", "video_url",
})  # fmt: skip
_UNSTABLE_LINE = "x-anthropic-billing-header"  # changes with every request of one client; the engine drops it


def conversation(messages: Any, form: ContentFormat, *, typed: bool = True, renames: bool = True) -> list[Message]:
    """All messages in the form the template sees.

    typed     field order of tool calls as the chat route's records have it; /v1/responses keeps what it is given
    renames   `reasoning_content` counts as `reasoning`, which only the chat route does
    """
    if not isinstance(messages, list):
        raise Inexact("messages is not a list")
    return [_message(message, form, typed, renames) for message in messages]


def _message(message: Any, form: ContentFormat, typed: bool, renames: bool) -> Message:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Inexact("message without a role")
    role, name = message["role"], message.get("name")
    if name is not None and not isinstance(name, str):
        raise Inexact("message name is not a string")
    parts = _parts(message.get("content"), role)
    content = [_part(part, form) for part in parts]
    # As one string, empty parts leave no empty line.
    result: Message = {"role": role, "content": content if form == "openai" else "\n".join(filter(None, content))}
    if role == "assistant":
        _add_assistant_fields(result, message, typed, renames)
    elif role == "tool":
        if "tool_call_id" in message:
            result["tool_call_id"] = message["tool_call_id"]
        if form == "openai" and all(part["type"] == "text" for part in content):
            result["content"] = "\n".join(part["text"] for part in content)
    if name is not None:
        result["name"] = name
    if isinstance(message.get("task"), str):
        result["task"] = message["task"]
    if role == "developer":
        if message.get("tools") is not None:
            raise Inexact("developer message with tools")
        result["tools"] = None
    return result


def _parts(content: Any, role: str) -> list[Any]:
    if content is None:
        return []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Inexact("message content is neither text nor a list")
    return _without_unstable_line(content) if role == "system" else content


def _part(part: Any, form: ContentFormat) -> Any:
    if not isinstance(part, dict):
        raise Inexact("content part is not an object")
    kind = part.get("type")
    if part.get("uuid") is not None or not isinstance(kind, str):
        raise Inexact("content part without a type")
    if kind == "tool_reference" and isinstance(part.get("name"), str):
        return {"type": kind, "name": part["name"]} if form == "openai" else part["name"]
    if kind not in _TEXT_FIELDS:
        raise Inexact("content part is not text")
    text = part.get(_TEXT_FIELDS[kind])
    if not isinstance(text, str):
        raise Inexact("content part without its text")
    if form == "string":
        return text
    return {"type": "text", "text": text, **{name: value for name, value in part.items() if name not in _DECLARED}}


def _without_unstable_line(parts: list[Any]) -> list[Any]:
    kept = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if isinstance(text, str) and text.startswith(_UNSTABLE_LINE):
            rest = text.partition("\n")[2]
            if not rest:
                continue
            part = {**part, "text": rest}
        kept.append(part)
    return kept


def _add_assistant_fields(result: Message, message: Message, typed: bool, renames: bool) -> None:
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list):
            raise Inexact("tool_calls is not a list")
        if calls:  # an empty list is dropped, so that templates take their ordinary branch
            result["tool_calls"] = [_tool_call(call, typed) for call in calls]
    reasoning = message.get("reasoning")
    if reasoning is None and renames:
        reasoning = message.get("reasoning_content")
    if not isinstance(reasoning, str | None):
        raise Inexact("reasoning is not text")
    if reasoning is not None:
        result["reasoning"] = result["reasoning_content"] = reasoning


def _tool_call(call: Any, typed: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function" or not isinstance(call.get("id"), str):
        raise Inexact("tool call is not a complete function call")
    if not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
        raise Inexact("tool call is not a complete function call")
    if typed:
        function = _ordered(function, ("arguments", "name"))
        call = _ordered(call, ("id", "function", "type"))
    return {**call, "function": {**function, "arguments": _arguments(function["arguments"])}}


def _arguments(text: str) -> dict[str, Any]:
    """Arguments as the object a template expects; whatever is not one becomes an empty object."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _ordered(record: dict[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    return {**{name: record[name] for name in first}, **record}


def tool_definitions(tools: Any, *, may_be_empty: bool = False) -> list[dict[str, Any]] | None:
    """Tools as the engine prints them: a fixed order, unknown fields dropped, a missing description as null."""
    if tools is None:
        return None
    if not isinstance(tools, list) or not (tools or may_be_empty):
        raise Inexact("tools is not a list of tools")
    return [_tool(tool) for tool in tools]


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise Inexact("tool is not a function")
    deferred = tool.get("defer_loading")
    inner = function_definition({"defer_loading": deferred, **{k: v for k, v in function.items() if v is not None}})
    outer: dict[str, Any] = {"type": "function", "function": inner}
    if deferred is not None:
        outer["defer_loading"] = deferred
    return outer


def function_definition(function: dict[str, Any]) -> dict[str, Any]:
    """The inner part of a tool."""
    name, description, parameters = (function.get(field) for field in ("name", "description", "parameters"))
    if not isinstance(name, str) or not isinstance(description, str | None) or not isinstance(parameters, dict | None):
        raise Inexact("tool is not a function")
    result: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    for flag in ("strict", "defer_loading"):
        value = function.get(flag)
        if not isinstance(value, bool | None):
            raise Inexact("tool is not a function")
        if value is not None:
            result[flag] = value
    return result
