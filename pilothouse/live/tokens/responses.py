"""Turns /v1/responses bodies into the chat the engine makes of them.

One reply of a model is several items here (reasoning, text, calls); the engine folds neighbours into one assistant
message where the field is still free, and starts another where it is not.
"""

import json
from typing import Any

from pilothouse.live.tokens.inexact import Inexact, object_in
from pilothouse.live.tokens.messages import function_definition
from pilothouse.live.tokens.template import Message

_UNFINISHED = ("in_progress", "incomplete")


def to_chat(body: dict[str, Any]) -> dict[str, Any]:
    """The chat body; the messages keep the order of fields they have here."""
    for name in ("previous_response_id", "previous_input_messages", "prompt"):
        if body.get(name) is not None:
            raise Inexact(f"{name} refers to what this request does not carry")
    instructions, source = body.get("instructions"), body.get("input")
    messages: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    start = len(messages)
    if isinstance(source, str):
        messages.append({"role": "user", "content": source})
    elif isinstance(source, list):
        for item in source:
            _add(item, messages, start)
    else:
        raise Inexact("input is neither text nor a list")
    open_end = isinstance(source, list) and _is_unfinished(source)
    chat: dict[str, Any] = {
        "messages": messages,
        "add_generation_prompt": not open_end,
        "continue_final_message": open_end,
    }
    for name in ("chat_template_kwargs", "cache_salt", "kv_transfer_params"):
        if body.get(name) is not None:
            chat[name] = body[name]
    effort = object_in(body, "reasoning").get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    if body.get("tools"):
        chat["tools"] = _tools(body["tools"])
    return chat


def _is_unfinished(items: list[Any]) -> bool:
    last = items[-1] if items else None
    if not isinstance(last, dict) or last.get("type", "message") not in ("message", "reasoning"):
        return False
    return last.get("status") in _UNFINISHED


def _add(item: Any, messages: list[Message], start: int) -> None:
    """Adds one item as a message, or folds it into the assistant message before it."""
    if not isinstance(item, dict):
        raise Inexact("input item is not an object")
    kind, role = item.get("type"), item.get("role")
    before = messages[-1] if len(messages) > start and messages[-1]["role"] == "assistant" else None
    if kind in ("function_call", "custom_tool_call"):
        call = _call(item)
        if before is None:
            messages.append({"role": "assistant", "tool_calls": [call]})
        else:
            before.setdefault("tool_calls", []).append(call)
    elif kind == "reasoning":
        _fold(messages, before, "reasoning", _reasoning(item))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
    elif role == "assistant" and kind in (None, "message"):
        _fold(messages, before, "content", _assistant_text(item))
    elif role in ("user", "system", "developer") and kind in (None, "message"):
        messages.append(item)
    else:
        raise Inexact("input item type is unknown")


def _fold(messages: list[Message], before: Message | None, field: str, text: str) -> None:
    if before is not None and before.get(field) is None:
        before[field] = text
    else:
        messages.append({"role": "assistant", field: text})


def _call(item: dict[str, Any]) -> dict[str, Any]:
    custom = item["type"] == "custom_tool_call"
    name, call_id, text = item.get("name"), item.get("call_id"), item.get("input" if custom else "arguments")
    if not isinstance(name, str) or not isinstance(call_id, str) or not isinstance(text, str):
        raise Inexact("tool call is not a complete function call")
    if custom:
        text = json.dumps({"input": text}, ensure_ascii=False)
    elif item.get("namespace"):
        name = f"{item['namespace']}__{name}"
    return {"id": call_id, "function": {"name": name, "arguments": text}, "type": "function"}


def _reasoning(item: dict[str, Any]) -> str:
    if item.get("encrypted_content"):
        raise Inexact("encrypted reasoning")
    for parts in (item.get("content"), item.get("summary")):
        if isinstance(parts, list) and parts:
            text = parts[0].get("text") if isinstance(parts[0], dict) else None
            if not isinstance(text, str):
                raise Inexact("reasoning is not text")
            return text
    return ""


def _assistant_text(item: dict[str, Any]) -> str:
    """The first text only: that is what the engine takes of a reply with several."""
    content = item.get("content")
    if isinstance(content, list) and content and item.get("type") == "message":
        first = content[0]
        content = first.get("text") if isinstance(first, dict) and first.get("type") == "output_text" else None
    if not isinstance(content, str):
        raise Inexact("assistant item is not text")
    return content


def _tools(tools: Any) -> list[dict[str, Any]]:
    result = []
    for tool in tools if isinstance(tools, list) else [None]:
        if not isinstance(tool, dict) or tool.get("type") in ("custom", "namespace", None):
            raise Inexact("tool is not a function")
        kind = tool["type"]
        if kind == "function":  # the engine shows the model no other kind
            result.append({"type": "function", "function": function_definition({**tool, "defer_loading": None})})
    return result
