"""Reads a prefill step's answer, in each API's shape: how it ended, its counts, and what the connector gave."""

from dataclasses import dataclass
from typing import Any

import msgspec

LENGTH, STOP = "length", "stop"
_ENDS = {  # as each API says it -> one of the two; everything else is no good end
    "length": LENGTH,
    "max_tokens": LENGTH,
    "incomplete": LENGTH,
    "stop": STOP,
    "tool_calls": STOP,
    "end_turn": STOP,
    "stop_sequence": STOP,
    "tool_use": STOP,
    "completed": STOP,
}


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What is known after the prefill."""

    end: str  # length, stop, or "" for anything else
    parameters: dict[str, Any] | None
    prompt_tokens: int | None
    cached_tokens: int | None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None  # /v1/messages counts these beside its input tokens
    cache_creation_input_tokens: int | None = None

    @property
    def prompt(self) -> int | None:
        if self.prompt_tokens is not None or self.input_tokens is None:
            return self.prompt_tokens
        return self.input_tokens + (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    stop_reason: str | None = None  # /v1/messages
    status: str | None = None  # /v1/responses
    usage: _Usage | None = None
    kv_transfer_params: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(_Answer)


def read_prefilled(body: bytes) -> Prefilled:
    """Raises msgspec.MsgspecError or UnicodeDecodeError on what is no such answer."""
    answer = _DECODER.decode(body)
    usage = answer.usage or _Usage()
    details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    cached = details.cached_tokens if details.cached_tokens is not None else usage.cache_read_input_tokens
    end = answer.choices[0].finish_reason if answer.choices else answer.stop_reason or answer.status
    return Prefilled(_ENDS.get(end or "", ""), answer.kv_transfer_params, usage.prompt, cached)
