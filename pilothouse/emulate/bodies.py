"""The JSON of answers, with vLLM's fields in vLLM's order."""

from typing import Any

import msgspec

FINGERPRINT = "emulated-pilothouse"  # nobody may take an answer for a model's

Object = dict[str, Any]


class Counted(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    prompt: int
    output: int
    cached: int  # of the prompt, from the cache
    created: int = 0  # of the prompt, in blocks that are cached from now on; told of chats alone

    def short(self, is_chat: bool) -> Object:
        """Within a stream."""
        counts: Object = {
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.output,
            "completion_tokens": self.output,
        }
        return counts | ({"completion_tokens_details": None} if is_chat else {})

    def last(self, is_chat: bool) -> Object:
        """At the end of a stream."""
        details: Object = {"cached_tokens": self.cached} | ({"created_cache_tokens": self.created} if is_chat else {})
        counts = self.short(False)
        return counts | {"prompt_tokens_details": details}

    def whole(self, is_chat: bool) -> Object:
        """Of an answer in one piece."""
        created = self.created if is_chat else None
        details = {"cached_tokens": self.cached, "created_cache_tokens": created, "multimodal_tokens": None}
        return self.short(False) | {"prompt_tokens_details": details, "completion_tokens_details": None}


class Named(msgspec.Struct, frozen=True):
    """What all parts of one answer share."""

    id: str
    created: int  # Unix time [s]
    model: str
    is_chat: bool

    def head(self, kind: str) -> Object:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def whole(
    named: Named, text: str, finish: str, counted: Counted, ids: list[int] | None, prompt_ids: list[int] | None,
    transfer: Object | None,
) -> bytes:  # fmt: skip
    """An answer in one piece. `ids` and `prompt_ids`: only if asked for."""
    choice: Object = {"index": 0}
    if named.is_chat:
        choice["message"] = {"role": "assistant", "content": text} | dict.fromkeys(
            ("refusal", "annotations", "audio", "function_call", "reasoning")
        )
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": finish, "stop_reason": None, "token_ids": ids}
    if not named.is_chat:
        choice |= {"prompt_logprobs": None, "prompt_token_ids": prompt_ids}
    choice["routed_experts"] = None
    answer = named.head("chat.completion" if named.is_chat else "text_completion")
    answer |= {"choices": [choice], "service_tier": None, "system_fingerprint": FINGERPRINT}
    answer["usage"] = counted.whole(named.is_chat)
    if named.is_chat:
        answer |= {"prompt_logprobs": None, "prompt_token_ids": prompt_ids, "prompt_text": None}
    return msgspec.json.encode(answer | {"kv_transfer_params": transfer, "ec_transfer_params": None, "metrics": None})


def role_chunk(named: Named, usage: Object | None, prompt_ids: list[int] | None) -> bytes:
    """What begins a chat's stream."""
    delta = {"role": "assistant", "content": ""}
    chunk = named.head("chat.completion.chunk")
    chunk["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
    if usage is not None:
        chunk["usage"] = usage
    return event(chunk | {"prompt_token_ids": prompt_ids, "prompt_text": None})


def token_chunk(
    named: Named, text: str, finish: str | None, usage: Object | None, ids: list[int] | None,
    prompt_ids: list[int] | None, fingerprint: bool,
) -> bytes:  # fmt: skip
    """One token, or several."""
    choice: Object = {"index": 0}
    if named.is_chat:
        choice |= {"delta": {"content": text}, "logprobs": None, "finish_reason": finish}
        if finish is not None:
            choice["stop_reason"] = None
    else:
        choice |= {"text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        choice["prompt_token_ids"] = prompt_ids
    choice["token_ids"] = ids
    chunk = named.head("chat.completion.chunk" if named.is_chat else "text_completion") | {"choices": [choice]}
    if usage is not None:
        chunk["usage"] = usage
    if fingerprint:
        chunk["system_fingerprint"] = FINGERPRINT
    return event(chunk)


def usage_chunk(named: Named, counted: Counted) -> bytes:
    chunk = named.head("chat.completion.chunk" if named.is_chat else "text_completion") | {"choices": []}
    return event(chunk | {"usage": counted.last(named.is_chat), "system_fingerprint": FINGERPRINT})


def event(data: Object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(data)


DONE = b"data: [DONE]\n\n"
