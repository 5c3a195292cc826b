"""Turns /v1/messages bodies into the chat the engine makes of them."""

import json
from typing import Any

from pilothouse.live.tokens.inexact import Inexact, object_in
from pilothouse.live.tokens.messages import function_definition
from pilothouse.live.tokens.template import Message

_UNSTABLE_LINE = "x-anthropic-billing-header"
EFFORTS = ("low", "medium", "high", "xhigh", "max")


def to_chat(body: dict[str, Any], merge_inline_system: bool, effort_when_disabled: str) -> dict[str, Any]:
    """The chat body. The last two say how the engine treats this model's template, see `ChatTemplate`."""
    source = body.get("messages")
    if not isinstance(source, list) or not all(isinstance(message, dict) for message in source):
        raise Inexact("messages is not a list")
    system = _system_texts(body.get("system"))
    if merge_inline_system:
        system += [text for message in source if message.get("role") == "system" if (text := _system_text(message))]
    messages: list[Message] = [{"role": "system", "content": "".join(system)}] if system else []
    for message in source:
        _convert(message, messages, merge_inline_system)
    chat: dict[str, Any] = {"messages": messages}
    for name in ("chat_template_kwargs", "cache_salt", "max_tokens", "kv_transfer_params"):
        if body.get(name) is not None:
            chat[name] = body[name]
    _add_effort(chat, body, effort_when_disabled)
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise Inexact("tools is not a list of tools")
        chat["tools"] = [_tool(tool) for tool in tools]
    return chat


def _system_texts(system: Any) -> list[str]:
    if not system:
        return []
    if isinstance(system, str):
        return [system]
    texts = [block["text"] for block in _blocks(system) if block["type"] == "text" and block.get("text")]
    return [text for text in texts if not text.startswith(_UNSTABLE_LINE)]


def _system_text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return "" if content.startswith(_UNSTABLE_LINE) else content
    if any(block["type"] in ("tool_addition", "tool_removal") for block in _blocks(content)):
        raise Inexact("tools changed inside the conversation")
    return "".join(_system_texts(content))


def _blocks(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(
        isinstance(b, dict) and isinstance(b.get("type"), str) for b in content
    ):
        raise Inexact("content is not a list of blocks")
    if not all(isinstance(block.get("text"), str | None) for block in content):
        raise Inexact("text block without text")
    return content


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Inexact("text block without text")
    return value


def _convert(message: Message, messages: list[Message], merge_inline_system: bool) -> None:
    role, content = message.get("role"), message.get("content")
    if role == "system":
        text = _system_text(message)
        if text and not merge_inline_system:
            messages.append({"role": "system", "content": text})
        return
    if role not in ("user", "assistant"):
        raise Inexact("message without a role")
    chat: Message = {"role": role}
    if isinstance(content, str):
        chat["content"] = content
    else:
        # Tool results become messages of their own, before the message that holds them.
        _convert_blocks(_blocks(content), role, chat, messages)
    if role != "user" or "content" in chat:
        messages.append(chat)


def _convert_blocks(blocks: list[dict[str, Any]], role: str, chat: Message, messages: list[Message]) -> None:
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = block["type"]
        if kind == "text":
            if block.get("text"):
                parts.append({"type": "text", "text": block["text"]})
        elif kind == "thinking":
            if block.get("thinking") is not None:
                thoughts.append(_text(block["thinking"]))
        elif kind == "tool_use":
            calls.append(_call(block))
        elif kind == "tool_result" and role == "user":
            messages += _results(block)
        elif kind not in ("redacted_thinking", "tool_reference"):
            raise Inexact("content part is not text")
    if thoughts:
        chat["reasoning"] = "".join(thoughts)
    if calls:
        chat["tool_calls"] = calls
    if parts:
        chat["content"] = parts[0]["text"] if len(parts) == 1 else parts


def _call(block: dict[str, Any]) -> dict[str, Any]:
    if not block.get("id"):
        raise Inexact("tool call without an id")  # the engine makes one up from its clock
    arguments = json.dumps(block.get("input") or {})
    return {
        "id": block["id"],
        "type": "function",
        "function": {"name": block.get("name") or "", "arguments": arguments},
    }


def _results(block: dict[str, Any]) -> list[Message]:
    content, texts, references = block.get("content"), list[str](), list[dict[str, Any]]()
    if isinstance(content, str):
        texts.append(content)
    for item in content if isinstance(content, list) else []:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "text":
            texts.append(_text(item.get("text", "")))
        elif kind == "image":
            raise Inexact("content part is not text")
        elif kind == "tool_reference" and (name := item.get("tool_name") or item.get("name")):
            references.append({"type": "tool_reference", "name": name})
    answer: Message = {"role": "tool", "tool_call_id": block.get("tool_use_id") or ""}
    results = [{**answer, "content": "\n".join(texts)}]
    return [*results, {**answer, "content": references}] if references else results


def _add_effort(chat: dict[str, Any], body: dict[str, Any], effort_when_disabled: str) -> None:
    """How hard to think, which the engine passes to the template."""
    output, thinking = object_in(body, "output_config"), object_in(body, "thinking")
    if output.get("effort") is not None:
        chat["reasoning_effort"] = output["effort"]
    if thinking.get("type") == "disabled":
        chat["reasoning_effort"] = effort_when_disabled


def _tool(tool: Any) -> dict[str, Any]:
    schema = tool.get("input_schema") if isinstance(tool, dict) else None
    if not isinstance(schema, dict):
        raise Inexact("tool is not a function")
    parameters = schema if "type" in schema else {**schema, "type": "object"}
    return {"type": "function", "function": function_definition({**tool, "parameters": parameters})}
