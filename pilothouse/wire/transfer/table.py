"""The adapter of each connector, by its type in the configuration."""

from collections.abc import Mapping

from pilothouse.wire.transfer.adapter import Adapter
from pilothouse.wire.transfer.mooncake import Mooncake
from pilothouse.wire.transfer.nixl import Nixl
from pilothouse.wire.transfer.offloading import Offloading
from pilothouse.wire.transfer.sglang import Sglang
from pilothouse.wire.transfer.stores import Files, Store

MULTI = "multi"  # several at once: one of them, its carrier, hands prompts over
ADAPTERS: Mapping[str, Adapter] = {
    "nixl": Nixl(),
    "nixl_push": Nixl(),
    "files": Files(),
    "mooncake": Mooncake(),
    "mooncake_store": Store(),
    "lmcache": Store(),
    "offloading": Offloading(),
    "sglang": Sglang(),
}
