"""Has an engine say how it turns a request into token ids, where this machine cannot know."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pilothouse.core.errors import UpstreamError
from pilothouse.live.tokens.inexact import Inexact, object_in

AskEngine = Callable[[str, bytes], Awaitable[bytes]]  # path and body in, body out; UpstreamError for any other status
_RENDERED = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
_TRY_AGAIN_AFTER = 64  # asks: an engine that does not render may be replaced by one that does
_FAILURES = (UpstreamError, OSError, TimeoutError, msgspec.DecodeError, UnicodeEncodeError)


class Answer(msgspec.Struct, frozen=True):
    """Token ids, and how many of them come before the first image or sound (all, for text)."""

    ids: list[int]
    before_media: int
    note: str = ""


class _Placeholder(msgspec.Struct):
    offset: int


class _Features(msgspec.Struct):
    mm_placeholders: dict[str, list[_Placeholder]] | None = None


class _Rendered(msgspec.Struct):
    token_ids: list[int]
    features: _Features | None = None


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class Asking:
    """Asks the render endpoint of a route, or /tokenize where an engine has no such endpoint."""

    def __init__(self, ask: AskEngine) -> None:
        self._ask, self._skips = ask, 0

    async def ids(self, route: str, body: dict[str, Any]) -> Answer:
        """Raises Inexact when the engine does not say."""
        if route in _RENDERED:
            if self._skips == 0:
                try:
                    return await self._render(route, body)
                except _FAILURES:
                    self._skips = _TRY_AGAIN_AFTER
            else:
                self._skips -= 1
        try:
            return await self._tokenize(route, body)
        except _FAILURES:
            raise Inexact("engine does not tokenise") from None

    async def _render(self, route: str, body: dict[str, Any]) -> Answer:
        raw = await self._ask(f"{route}/render", msgspec.json.encode({**body, "mm_payload": "none"}))
        if route == "/v1/completions":
            many = msgspec.json.decode(raw, type=list[_Rendered])
            if not many:
                raise Inexact("engine rendered no prompt")
            rendered, note = many[0], f"first of {len(many)} prompts" if len(many) > 1 else ""
        else:
            rendered, note = msgspec.json.decode(raw, type=_Rendered), ""
        media = rendered.features.mm_placeholders if rendered.features is not None else None
        offsets = [each.offset for places in (media or {}).values() for each in places]
        return Answer(rendered.token_ids, min(offsets, default=len(rendered.token_ids)), note)

    async def _tokenize(self, route: str, body: dict[str, Any]) -> Answer:
        raw = await self._ask("/tokenize", msgspec.json.encode(_as_tokenize(route, body)))
        ids = msgspec.json.decode(raw, type=_Tokenized).tokens
        return Answer(ids, len(ids))


def _as_tokenize(route: str, body: dict[str, Any]) -> dict[str, Any]:
    """The same prompt as a /tokenize body. Raises Inexact where that endpoint cannot express it."""
    if route == "/tokenize":
        return body
    unsaid = {"truncate_prompt_tokens", "suffix", "prompt_embeds", "kv_transfer_params"}
    if route in ("/v1/messages", "/v1/responses") or any(body.get(name) is not None for name in unsaid):
        raise Inexact("engine does not tokenise this route")
    same = {name: body[name] for name in ("model", "add_special_tokens") if body.get(name) is not None}
    if not isinstance(body.get("messages"), list):
        prompt = body.get("prompt", body.get("input"))
        if not isinstance(prompt, str):
            raise Inexact("engine does not tokenise this prompt")
        return {**same, "prompt": prompt}
    for name in ("tools", "add_generation_prompt", "continue_final_message"):
        if body.get(name) is not None:
            same[name] = body[name]
    if route != "/v1/chat/completions":
        same.setdefault("add_generation_prompt", False)  # the default of routes that generate nothing
    options = dict(object_in(body, "chat_template_kwargs"))
    effort = body.get("reasoning_effort")
    if effort is not None:
        options.setdefault("enable_thinking", effort != "none")
    options |= {name: body[name] for name in ("documents", "reasoning_effort") if body.get(name) is not None}
    return {**same, "messages": [_renamed(message) for message in body["messages"]], "chat_template_kwargs": options}


def _renamed(message: Any) -> Any:
    """/tokenize does not know the older name of the reasoning field, which the chat route takes as well."""
    if (
        not isinstance(message, dict)
        or message.get("reasoning_content") is None
        or message.get("reasoning") is not None
    ):
        return message
    return {**message, "reasoning": message["reasoning_content"]}
