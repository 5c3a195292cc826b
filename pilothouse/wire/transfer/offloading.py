"""Offloading between peers: blocks that the prefill engine offloads are kept under a name of ours until they are fetched.

Not run here: vLLM's native offloading needs a GPU. Shapes from the llm-d sidecar's protocol and vLLM 0.32
(v1/kv_offload/tiering/p2p).
"""

from pilothouse.wire.transfer.adapter import PARAMETERS, Adapter, Fields, Transfer
from pilothouse.wire.transfer.answer import Prefilled


class Offloading(Adapter):
    """One after the other: a decode engine that asks at once spends its fixed load time-out while the prefill is queued,
    and the prefill engine keeps what nobody has asked for yet."""

    port = 7777
    leased = True

    def prefill(self, transfer: Transfer) -> Fields:
        return {PARAMETERS: {"remote_decoder": {"kv_request_id": transfer.name}}}

    def decode(self, transfer: Transfer, prefilled: Prefilled | None, told: bytes) -> Fields:
        source = {"kv_request_id": transfer.name, "remote_host": transfer.host, "remote_port": transfer.port}
        return {PARAMETERS: {"remote_prefiller": source}}
