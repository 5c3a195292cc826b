"""Mooncake between two engines: the transfer has a name of ours, and a bootstrap server beside the prefill engine says
which process that is."""

import msgspec

from pilothouse.wire.transfer.adapter import PARAMETERS, Adapter, Fields, Transfer, Unusable
from pilothouse.wire.transfer.answer import LENGTH, Prefilled


class _Rank(msgspec.Struct):
    engine_id: str


class Mooncake(Adapter):
    """The server is asked each time, while the prompt is computed: a name kept from before may be of a process that is
    gone, and then the decode engine waits for it until its own time-out."""

    port = 8998
    leased = True

    def prefill(self, transfer: Transfer) -> Fields:
        parameters = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer.name}
        return {PARAMETERS: parameters, "ignore_eos": True}  # KV of an answer that ends by itself is not kept

    def asks(self, transfer: Transfer) -> str:
        return "/query"

    def decode(self, transfer: Transfer, prefilled: Prefilled | None, told: bytes) -> Fields:
        assert prefilled is not None
        if prefilled.end != LENGTH:
            raise Unusable("the first token ended the answer: its KV is not kept", kept=False)
        try:
            ranks = msgspec.json.decode(told, type=dict[str, _Rank])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unusable(f"the bootstrap server's answer cannot be read: {error}") from None
        if list(ranks) != ["0"]:
            raise Unusable(f"the bootstrap server knows the data-parallel ranks {', '.join(ranks)}, not 0 alone")
        parameters = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_bootstrap_addr": transfer.server,
            "remote_engine_id": ranks["0"].engine_id,
            "transfer_id": transfer.name,
        }
        return {PARAMETERS: parameters}
