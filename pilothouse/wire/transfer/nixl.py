"""NIXL: the prefill engine says where its KV lies, and the decode engine gets it from there, or has it pushed."""

from pilothouse.wire.transfer.adapter import PARAMETERS, Adapter, Fields, Transfer, Unusable
from pilothouse.wire.transfer.answer import Prefilled
from pilothouse.wire.transfer.bodies import plain


class Nixl(Adapter):
    """Pull and push: in both modes the decode engine is told what the prefill engine answered, word for word.

    Pushing, the prefill engine finds the request of the decode engine by its name, so both have to have the same.
    """

    leased = True

    def prefill(self, transfer: Transfer) -> Fields:
        return {PARAMETERS: {"do_remote_decode": True, "do_remote_prefill": False}}

    def decode(self, transfer: Transfer, prefilled: Prefilled | None, told: bytes) -> Fields:
        assert prefilled is not None
        given, name = prefilled.parameters, transfer.name
        if not given or given.get("do_remote_prefill") is not True:
            raise Unusable(f"the prefill engine gave no parameters: {given}")
        whose = given.get("remote_request_id")
        if not isinstance(whose, str) or not is_named(whose, name):
            raise Unusable(f"the parameters are of the request {whose!r}, not of {name!r}")
        # Of fewer tokens they end the decode engine, of more they give it the wrong ones.
        tokens = given.get("remote_num_tokens")
        if type(tokens) is not int or tokens != prefilled.prompt_tokens:
            raise Unusable(f"the parameters are of {tokens} tokens, the prompt has {prefilled.prompt_tokens}")
        return {PARAMETERS: given}


def is_named(engines: str, name: str) -> bool:
    """Whether an engine's own name for a request is made of ours: `chatcmpl-OURS-1a2b3c4d`, `resp_OURS_0-1a2b3c4d`."""
    return f"-{name}-" in engines or f"_{plain(name)}_" in engines
