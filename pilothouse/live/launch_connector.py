"""Says what an engine needs to be told so that it hands KV to others, or takes it: one table row per connector. Pure.

    side = Side(port=5600, directory="/run/p", lease_s=30, mended=True)
    transfer_config("nixl", Role.PREFILL, side)     -> what follows --kv-transfer-config
    transfer_variables("nixl", side, os.environ)    -> its environment

Both ends of a pair are told the same lease. docs/engines.md has what goes over the wire.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilothouse.core.errors import Problem
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
PACKAGES = {  # what vLLM imports for it and does not bring along: module, distribution
    "nixl": ("nixl", "nixl"),
    "nixl_push": ("nixl", "nixl"),
    "multi": ("nixl", "nixl"),
    "mooncake": ("mooncake", "mooncake-transfer-engine"),
    "mooncake_store": ("mooncake", "mooncake-transfer-engine"),
    "lmcache": ("lmcache", "lmcache"),
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


def transfer_variables(connector: str, side: Side, surroundings: Mapping[str, str]) -> dict[str, str]:
    """Environment of the engine, loopback only; `surroundings` is what it inherits."""
    variables = _variables(connector, side)
    if side.mended:
        folders = (MENDED_FOLDER, surroundings.get("PYTHONPATH", ""))
        variables |= {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
        variables |= {"UCX_NET_DEVICES": surroundings.get("UCX_NET_DEVICES", "lo")}  # UCX carries NIXL's transfers
    return variables


def _variables(connector: str, side: Side) -> dict[str, str]:
    match connector:
        case "nixl" | "nixl_push" | "multi":
            return {"VLLM_NIXL_SIDE_CHANNEL_HOST": LOOPBACK, "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side.port)}
        case "mooncake":
            return {
                "VLLM_MOONCAKE_BOOTSTRAP_PORT": str(side.port),
                "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": str(side.lease_s),
                "MC_TCP_BIND_ADDRESS": LOOPBACK,
            }
        case "mooncake_store":
            return {"MOONCAKE_CONFIG_PATH": f"{side.directory}/mooncake.json", "MC_TCP_BIND_ADDRESS": LOOPBACK}
    return {}


def connector_problems(connector: str, prefill: int, decode: int) -> list[Problem]:
    """Why so many engines of each role cannot be started with it."""
    if bool(prefill) != bool(decode):
        lone, other = ("--prefill", "--decode") if prefill else ("--decode", "--prefill")
        return [Problem(lone, f"needs {other}: a pair has two halves")]
    if connector in SERVED:
        what = f"{connector} needs a server beside the engines: start both yourself (docs/engines.md) and use `serve`"
        return [Problem("--connector", what)]
    if connector not in NAMES:
        known = [name for name in NAMES if name not in SERVED]
        return [Problem("--connector", f"unknown connector {connector!r}, known: {', '.join(known)}")]
    if connector == "mooncake" and prefill > 1:
        what = "more than one with mooncake: each has a bootstrap port of its own, and a pool names one"
        return [Problem("--prefill", what)]
    return []
