"""SGLang: both engines get the same request at once, and meet in a room of the prefill engine's bootstrap server.

Not run here: SGLang needs a GPU. Shapes from the llm-d sidecar's protocol.
"""

from hashlib import blake2b

from pilothouse.wire.transfer.adapter import Adapter, Fields, Transfer
from pilothouse.wire.transfer.answer import Prefilled


class Sglang(Adapter):
    """Nothing can be late: neither side goes on before the other is there."""

    port = 8998
    together = True

    def prefill(self, transfer: Transfer) -> Fields:
        room = int.from_bytes(blake2b(transfer.name.encode(), digest_size=8).digest()) >> 1  # it is read as int64
        return {"bootstrap_host": transfer.host, "bootstrap_port": transfer.port, "bootstrap_room": room}

    def decode(self, transfer: Transfer, prefilled: Prefilled | None, told: bytes) -> Fields:
        return self.prefill(transfer)
