"""What a client asks for: the body of a generation request, checked as the engine checks it."""

from typing import Any

import msgspec

from pilothouse.emulate.errors import Refused, invalid, out_of_range

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
COMPLETION_TOKENS = 16  # the engine's default for texts


class Asked(msgspec.Struct, frozen=True):
    """One generation request, without its prompt."""

    is_chat: bool
    model: str  # as the client named it; "" = the engine's own
    tokens_max: int | None  # None = up to the end of the context
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    transfer: dict[str, Any]  # kv_transfer_params

    def tokens(self, room: int, usual: int) -> tuple[int, str]:
        """(output tokens, why they end there): `room` is left in the context, `usual` where nobody set a limit."""
        if self.tokens_max is not None:
            return min(self.tokens_max, room), "length"
        if self.ignore_eos or usual >= room:
            return room, "length"
        return usual, "stop"


def decode(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises Refused."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("json_invalid", "body", "JSON decode error") from None
    if not isinstance(found, dict):
        what = "Input should be a valid dictionary or object to extract fields from"
        raise invalid("model_attributes_type", "body", what)
    return found


def read(body: dict[str, Any], is_chat: bool, max_model_len: int) -> Asked:
    """Raises Refused for what the engine would refuse, and for what is not emulated."""
    _check_prompt(body, is_chat)
    stream, options = _flag(body, "stream"), body.get("stream_options") or {}
    if options and not stream:
        what = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise Refused(what, param="stream_options")
    tokens_max = _count(body, "max_completion_tokens") if is_chat else None
    if tokens_max is None:
        tokens_max = _count(body, "max_tokens")
    if tokens_max is None and not is_chat:
        tokens_max = COMPLETION_TOKENS
    if tokens_max is not None and tokens_max < 1:
        raise out_of_range("max_tokens", tokens_max, f"max_tokens must be at least 1, got {tokens_max}.")
    if tokens_max is not None and tokens_max > max_model_len:
        what = f"max_tokens={tokens_max} cannot be greater than max_model_len={max_model_len}. Please request fewer"
        raise out_of_range("max_tokens", tokens_max, f"{what} output tokens.")
    least = _count(body, "min_tokens") or 0
    if tokens_max is not None and least > tokens_max:
        raise Refused(f"min_tokens must be less than or equal to max_tokens={tokens_max}, got {least}.")
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        raise out_of_range("temperature", temperature, f"temperature must be non-negative, got {temperature}.")
    if (_count(body, "n") or 1) != 1:
        raise Refused("this emulated engine gives one answer to a request: n must be 1", param="n")
    transfer = body.get("kv_transfer_params")
    model = body.get("model")
    return Asked(
        is_chat,
        model if isinstance(model, str) else "",
        tokens_max,
        _flag(body, "ignore_eos"),
        stream,
        _flag(options, "include_usage"),
        _flag(options, "include_usage") and _flag(options, "continuous_usage_stats"),
        _flag(body, "return_token_ids"),
        transfer if isinstance(transfer, dict) else {},
    )


def _check_prompt(body: dict[str, Any], is_chat: bool) -> None:
    if is_chat:
        if "messages" not in body:
            raise invalid("missing", "body.messages", "Field required")
        if not isinstance(body["messages"], list):
            raise invalid("list_type", "body.messages", "Input should be a valid list")
        if not body["messages"]:
            raise Refused("Cannot apply chat template to an empty conversation. Provide at least one message.")
        return
    prompt = body.get("prompt")
    if prompt is None or prompt == "":
        what = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise Refused(what, param="prompt")
    if prompt == []:
        raise Refused("You must pass at least one prompt")
    if isinstance(prompt, list) and isinstance(prompt[0], str | list) and len(prompt) > 1:
        raise Refused("this emulated engine takes one prompt in a request", param="prompt")


def _count(body: dict[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise invalid("int_parsing", f"body.{name}", "Input should be a valid integer")


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    if value in (0, 1, "true", "false", "yes", "no"):
        return value in (1, "true", "yes")
    raise invalid("bool_parsing", f"body.{name}", "Input should be a valid boolean")
