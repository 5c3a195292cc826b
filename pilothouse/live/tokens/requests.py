"""What a request asks the engine to compute: a chat to render, a text to encode, or ready token ids.

Each route has its own fields and its own habits. The one that surprises: /v1/responses adds the tokenizer's special
tokens on top of what the template wrote, so a model with a bos token sees it twice there.
"""

from typing import Any

import msgspec

from pilothouse.live.tokens import anthropic, responses
from pilothouse.live.tokens.inexact import Inexact, object_in
from pilothouse.live.tokens.messages import conversation, tool_definitions
from pilothouse.live.tokens.template import ChatTemplate, Message, refuse_client_template


class EngineSettings(msgspec.Struct, frozen=True):
    """Flags of the engine that change what it computes from a request."""

    chat_template: str | None = None  # --chat-template, as text
    content_format: str = "auto"  # --chat-template-content-format
    template_defaults: dict[str, Any] = {}  # --default-chat-template-kwargs
    drop_tools_when_none: bool = False  # --exclude-tools-when-tool-choice-none
    max_model_len: int | None = None  # tokens
    truncation_side: str = "left"  # set by generating engines, whatever the tokenizer says; pooling ones set "right"


class Cut(msgspec.Struct, frozen=True):
    """Keep at most `tokens`, from this side on."""

    tokens: int
    side: str
    by_client: bool  # the client named the side: the engine cuts the finished prompt; else its tokenizer cuts the text


class Chat(msgspec.Struct, frozen=True):
    """Messages to render."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    options: dict[str, Any]


class Wanted(msgspec.Struct, frozen=True):
    """The prompt of a request, before it is rendered and encoded."""

    prompt: Chat | str | list[int]
    add_special_tokens: bool
    cut: Cut | None = None
    note: str = ""


_CHAT = "/v1/chat/completions"
_COMPLETION_MAX_TOKENS = 16  # the engine's default; it only matters where truncation leaves room for output


def read_request(route: str, body: dict[str, Any], template: ChatTemplate, settings: EngineSettings) -> Wanted:
    """Raises Inexact for what cannot be known, and ClientError for a template sent by the client."""
    refuse_client_template(body)
    transfer = body.get("kv_transfer_params")
    if isinstance(transfer, dict) and transfer.get("prompt_token_ids") is not None:
        raise Inexact("token ids inside kv_transfer_params")
    if body.get("mm_processor_kwargs") or body.get("prompt_embeds") is not None or body.get("suffix") is not None:
        raise Inexact("prompt is not text alone")
    if route == "/v1/messages":
        merges = template.merges_inline_system()
        chat = anthropic.to_chat(body, merges, _effort_when_disabled(body, template, settings))
        return _chat(chat, template, settings, default_special=False)
    if route == "/v1/responses":
        chat = responses.to_chat(body)
        limit = None if body.get("truncation", "disabled") == "disabled" else -1
        chat |= {"truncate_prompt_tokens": limit, "max_tokens": body.get("max_output_tokens")}
        return _chat(chat, template, settings, default_special=True, typed=False, renames=False)
    if isinstance(body.get("messages"), list):
        return _chat(body, template, settings, default_special=False, renames=route == _CHAT, route=route)
    default = _COMPLETION_MAX_TOKENS if route == "/v1/completions" else 0
    prompt, note = _first_prompt(body.get("prompt", body.get("input")))
    cut = _cut(body, settings, body.get("max_tokens") or default)
    return Wanted(prompt, _flag(body, "add_special_tokens", True), cut, note)


def _chat(
    body: dict[str, Any],
    template: ChatTemplate,
    settings: EngineSettings,
    *,
    default_special: bool,
    typed: bool = True,
    renames: bool = True,
    route: str = _CHAT,
) -> Wanted:
    tools = tool_definitions(body.get("tools"), may_be_empty=not typed or route == "/tokenize")
    if settings.drop_tools_when_none and body.get("tool_choice") == "none":
        tools = None
    options = _options(body, settings, route)
    tools = options.pop("tools", tools)
    form = settings.content_format
    detected = template.content_format(tools is not None) if form == "auto" else form
    messages = conversation(
        body["messages"], "openai" if detected == "openai" else "string", typed=typed, renames=renames
    )
    special = _flag(body, "add_special_tokens", default_special)
    limit = body.get("max_completion_tokens")
    cut = _cut(body, settings, (limit if limit is not None else body.get("max_tokens")) or 0)
    return Wanted(Chat(messages, tools, options), special, cut)


def _options(body: dict[str, Any], settings: EngineSettings, route: str) -> dict[str, Any]:
    """The engine's merge of its defaults, the client's chat_template_kwargs and the fields of the body."""
    options = dict(object_in(body, "chat_template_kwargs"))
    if route == _CHAT:
        effort = body.get("reasoning_effort")
        if effort is not None and "enable_thinking" not in options:
            options["enable_thinking"] = effort != "none"
        for name in ("documents", "reasoning_effort"):
            if body.get(name) is not None:
                options[name] = body[name]
    options["add_generation_prompt"] = _flag(body, "add_generation_prompt", route in (_CHAT, "/tokenize"))
    options["continue_final_message"] = _flag(body, "continue_final_message", False)
    # Null and "auto" mean unset to the engine, wherever they come from.
    set_by_client = {name: value for name, value in options.items() if value is not None and value != "auto"}
    return {**settings.template_defaults, **set_by_client}


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise Inexact(f"{name} is not true or false")
    return value


def _first_prompt(prompt: Any) -> tuple[str | list[int], str]:
    if isinstance(prompt, str):
        return prompt, ""
    if not isinstance(prompt, list) or not prompt:
        raise Inexact("prompt is neither text nor ids")
    if all(type(item) is int for item in prompt):
        return _ids(prompt), ""
    first, note = prompt[0], f"first of {len(prompt)} prompts" if len(prompt) > 1 else ""
    if isinstance(first, str):
        return first, note
    if isinstance(first, list) and all(type(item) is int for item in first):
        return _ids(first), note
    raise Inexact("prompt is neither text nor ids")


def _ids(ids: list[int]) -> list[int]:
    if ids and not (min(ids) >= 0 and max(ids) < 2**32):
        raise Inexact("token id out of range")
    return ids


def _cut(body: dict[str, Any], settings: EngineSettings, max_output: int) -> Cut | None:
    """What truncate_prompt_tokens asks for; -1 is as much as the model takes."""
    limit = body.get("truncate_prompt_tokens")
    if limit is None:
        return None
    if type(limit) is not int or limit == 0 or limit < -1 or settings.max_model_len is None:
        raise Inexact("truncation the engine alone can judge")
    if limit == -1:
        limit = settings.max_model_len - (1 if max_output else 0)
    side = body.get("truncation_side")
    return Cut(limit, side or settings.truncation_side, side is not None)


def _effort_when_disabled(body: dict[str, Any], template: ChatTemplate, settings: EngineSettings) -> str:
    """The engine tries what the template makes of effort "none": where it is ignored or rejected it says "low"."""
    if object_in(body, "thinking").get("type") != "disabled":
        return "none"

    def probe(effort: str) -> str | None:
        chat = {"messages": [{"role": "user", "content": "Hi"}], "reasoning_effort": effort}
        wanted = _chat(chat, template, settings, default_special=False).prompt
        try:
            return template.render(wanted.messages, None, wanted.options) if isinstance(wanted, Chat) else None
        except Inexact:
            return None

    plain = probe("none")
    return "low" if plain is None or plain in map(probe, anthropic.EFFORTS) else "none"
