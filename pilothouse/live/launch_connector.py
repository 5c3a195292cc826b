"""Says what an engine needs to be told so that it hands KV to others, or takes it: one table row per connector. Pure.

    side = Side(port=5600, directory="/run/p", lease_s=30, mended=True)
    transfer_config("nixl", Role.PREFILL, side)     -> what follows --kv-transfer-config
    transfer_variables("nixl", side)                -> its environment

Both ends of a pair are told the same lease. docs/engines.md has what goes over the wire.
"""

from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core.events import Role

LOOPBACK = "127.0.0.1"
LEASE_S = 30  # vLLM's own default with NIXL; Mooncake's is 480
MENDED = "cpu_connectors"  # module of that folder: vLLM's connectors, mended for CPUs
MENDED_FOLDER = str(Path(__file__).parent / "engine_side")
NAMES = {  # ours -> vLLM's
    "nixl": "NixlConnector",
    "nixl_push": "NixlPushConnector",
    "files": "ExampleConnector",
    "mooncake": "MooncakeConnector",
    "mooncake_store": "MooncakeStoreConnector",
    "lmcache": "LMCacheMPConnector",
    "multi": "MultiConnector",
}
SERVED = ("mooncake_store", "lmcache")  # need a server of their own beside the engines
TWO_WAY = ("files", "mooncake_store", "lmcache")  # a common store, which every engine reads and writes


class Side(msgspec.Struct, frozen=True):
    """Where one engine's side of exchanges lies."""

    port: int  # of its side channel (NIXL) or bootstrap server (Mooncake); its own
    directory: str  # for files that engines share
    lease_s: int = LEASE_S  # how long KV is kept that nobody has fetched
    mended: bool = False  # a CPU build: vLLM's connectors as they are would spin, or not run
    server: str = ""  # host:port of LMCache's server


def transfer_config(connector: str, role: Role, side: Side) -> dict[str, Any]:
    """KVTransferConfig of vLLM, as it stands in JSON."""
    kv_role = "kv_producer" if role is Role.PREFILL else "kv_consumer"
    config: dict[str, Any] = {"kv_connector": NAMES[connector]}
    config |= {"kv_role": "kv_both" if connector in TWO_WAY else kv_role}
    if side.mended and connector in ("nixl", "nixl_push", "mooncake"):
        config |= {"kv_connector_module_path": MENDED}
    if side.mended and connector in ("nixl", "nixl_push"):
        config |= {"kv_buffer_device": "cpu"}
    if extra := _extra(connector, role, side):
        config |= {"kv_connector_extra_config": extra}
    return config


def _extra(connector: str, role: Role, side: Side) -> dict[str, Any]:
    """What only this connector understands."""
    match connector:
        case "nixl" | "nixl_push":
            return {"kv_lease_duration": side.lease_s}
        case "files":
            return {"shared_storage_path": f"{side.directory}/kv"}
        case "mooncake":
            return {"mooncake_protocol": "tcp"} if side.mended else {}
        case "lmcache":
            host, _, port = side.server.rpartition(":")
            return {"lmcache.mp.host": f"tcp://{host}", "lmcache.mp.port": int(port)}
        case "multi":  # the first that has a prompt's KV gives it
            return {"connectors": [transfer_config(each, role, side) for each in ("nixl", "files")]}
    return {}


def transfer_variables(connector: str, side: Side) -> dict[str, str]:
    """Environment of the engine, loopback only."""
    match connector:
        case "nixl" | "nixl_push" | "multi":
            variables = {"VLLM_NIXL_SIDE_CHANNEL_HOST": LOOPBACK, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side.port)}
            return variables | ({"UCX_NET_DEVICES": "lo"} if side.mended else {})
        case "mooncake":
            return {
                "VLLM_MOONCAKE_BOOTSTRAP_PORT": str(side.port),
                "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": str(side.lease_s),
                "MC_TCP_BIND_ADDRESS": LOOPBACK,
            }
        case "mooncake_store":
            return {"MOONCAKE_CONFIG_PATH": f"{side.directory}/mooncake.json", "MC_TCP_BIND_ADDRESS": LOOPBACK}
    return {}
