"""Flags and environment of one engine: the one source for all targets.

    words(order, pool, Place())      -> what follows `vllm serve MODEL`
    variables(pool, Place())         -> its environment

What a pool's `engine_args` say wins over what is made here, and no flag appears twice. Refused are those that probes, Services,
GPUs or the gateway's configuration would not follow.
"""

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from pilothouse.core.errors import Problem
from pilothouse.core.events import Role
from pilothouse.live.launch_command import Option, merge, name_of, split_options
from pilothouse.live.launch_connector import LEASE_S, LOOPBACK, Side, transfer_config, transfer_variables
from pilothouse.perf.memory import Precision
from pilothouse.plan.document import Layout, PoolPlan
from pilothouse.plan.manifests.order import Order, Weights, nodes

HTTP, EXCHANGE, EVENTS, REPLAY, MASTER, RPC = 8000, 5600, 6600, 7300, 29500, 13345  # ports of the first engine
BEHIND = 8200  # of an engine behind llm-d's sidecar, which has HTTP
APART = 32  # between the ports of two engines on one machine: each data-parallel rank counts on from its engine's
BOOTSTRAP = 8998  # of Mooncake
DRAIN_S = 90  # requests in flight when an engine is told to stop
CONNECTORS = ("nixl", "nixl_push", "mooncake")  # that need nothing beside the engines
GIB, GB = 1 << 30, 10**9
PRECISIONS = tuple(precision.value for precision in Precision)
FIXED = ("--host", "--port", "--served-model-name", "--api-key", "--model", "--headless")
GROUP = ("--nnodes", "--node-rank", "--master-addr", "--master-port")
DRAM, DISK = ("dram", "cpu", "host"), ("disk", "nvme", "ssd")
DISK_FOLDER = "/var/cache/kv"


class Place(Struct, frozen=True):
    """Where one process of an engine runs. Values may name variables that the target fills in."""

    model: str = ""  # path or name that the engine is given
    number: int = 0  # of the engine on its machine
    address: str = LOOPBACK  # by which others reach it
    listen: str = "0.0.0.0"
    rank: str = "0"  # of the node in its group
    leader: str = ""  # address of the group's first node, if there are more
    first_port: int = HTTP  # of the API of the machine's first engine

    @property
    def port(self) -> int:
        return self.first_port + self.number

    @property
    def exchange(self) -> int:
        return EXCHANGE + APART * self.number


def model_of(weights: Weights) -> str:
    """What vLLM is given: a name or path."""
    match weights.scheme:
        case "hf":
            return weights.rest
        case "pvc":
            return "/".join(["/models", *weights.rest.split("/")[1:]]).rstrip("/")
        case "oci":
            return "/models"
    return weights.uri


def words(order: Order, pool: PoolPlan, place: Place) -> list[str]:
    """What follows `vllm serve MODEL`."""
    layout = pool.layout
    options: list[Option] = [
        ("--host", place.listen),
        ("--port", str(place.port)),
        ("--served-model-name", order.served),
        ("--prefix-caching-hash-algo", "sha256_cbor"),
        ("--enable-prompt-tokens-details",),
        ("--disable-uvicorn-access-log",),
        ("--kv-events-config", json.dumps(_events(place))),
        ("--gpu-memory-utilization", f"{pool.memory_utilisation:g}"),
        ("--shutdown-timeout", str(DRAIN_S)),
    ]
    options += [(name, str(degree)) for name, degree in _degrees(layout).items() if degree > 1]
    if layout.expert_parallel:
        options.append(("--enable-expert-parallel",))
    options += [
        *_limits(pool),
        *_precision(order, pool),
        *_memory(order, pool),
        *_adapters(order),
        *_group(pool, place),
    ]
    return merge(options, split_options(pool.engine_args))


def _degrees(layout: Layout) -> dict[str, int]:
    return {
        "--tensor-parallel-size": layout.tp,
        "--pipeline-parallel-size": layout.pp,
        "--data-parallel-size": layout.dp,
        "--decode-context-parallel-size": layout.dcp,
        "--prefill-context-parallel-size": layout.pcp,
    }


def variables(pool: PoolPlan, place: Place) -> dict[str, str]:
    """Environment of an engine."""
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if place.leader:
        wanted["VLLM_HOST_IP"] = place.address
    if pool.role is not Role.BOTH:
        port = BOOTSTRAP + place.number if pool.connector == "mooncake" else place.exchange
        told = transfer_variables(pool.connector, Side(port, DISK_FOLDER), {})
        wanted |= {name: place.address if value == LOOPBACK else value for name, value in told.items()}
    return wanted


def _events(place: Place) -> dict[str, Any]:
    """Bound on every interface: a plain address would make the engine connect instead of listening."""
    shift = APART * place.number
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{EVENTS + shift}",
        "replay_endpoint": f"tcp://*:{REPLAY + shift}",
    }


def _limits(pool: PoolPlan) -> list[Option]:
    limits = {
        "--max-model-len": pool.max_model_len,
        "--max-num-seqs": pool.max_num_seqs,
        "--max-num-batched-tokens": pool.max_num_batched_tokens,
    }
    return [(name, str(value)) for name, value in limits.items() if value is not None]


def _precision(order: Order, pool: PoolPlan) -> list[Option]:
    """A checkpoint stored in few bits says so itself; of a wider one the engine makes FP8 while it loads."""
    options: list[Option] = []
    if pool.precision == "fp8" and not order.stored_small:
        options.append(("--quantization", "fp8"))
    if pool.kv_precision == "fp8":
        options.append(("--kv-cache-dtype", "fp8"))
    elif pool.kv_precision == "fp4":
        options.append(("--kv-cache-dtype", "nvfp4"))
    return options


def _memory(order: Order, pool: PoolPlan) -> list[Option]:
    """Drafts, and where KV goes: to another engine, to a lower tier, or both."""
    options: list[Option] = []
    if pool.speculation is not None:
        options.append(("--speculative-config", json.dumps(pool.speculation)))
    exchange = transfer_config(pool.connector, pool.role, Side(0, DISK_FOLDER)) if pool.role is not Role.BOTH else {}
    offload = _offload(pool)
    if exchange and _several(order, pool):
        both = {"connectors": [each for each in (exchange, offload) if each]}
        exchange = {"kv_connector": "MultiConnector", "kv_role": exchange["kv_role"], "kv_connector_extra_config": both}
    if config := exchange or offload:
        options.append(("--kv-transfer-config", json.dumps(config)))
    return options


def _several(order: Order, pool: PoolPlan) -> bool:
    """Whether engines of this exchange have two connectors. Both sides of a pair must be wrapped alike."""
    peers = [each for each in order.plan.pools if each.role is not Role.BOTH and each.connector == pool.connector]
    return any(_offload(each) for each in peers)


def _offload(pool: PoolPlan) -> dict[str, Any]:
    """vLLM's own tiers below HBM. Each data-parallel rank has a share of its own."""
    dram = sum(size for tier, size in pool.tiers.items() if tier in DRAM)
    if not dram:
        return {}
    extra: dict[str, Any] = {"cpu_bytes_to_use": int(dram * GB / pool.layout.dp)}
    if any(tier in DISK for tier in pool.tiers):
        extra["spec_name"] = "TieringOffloadingSpec"
        extra["secondary_tiers"] = [{"type": "fs", "root_dir": DISK_FOLDER}]
    return {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def _adapters(order: Order) -> list[Option]:
    if not order.adapters:
        return []
    modules = [f"{adapter.name}={model_of(Weights(adapter.uri))}" for adapter in order.adapters]
    return [("--enable-lora",), ("--max-loras", str(len(modules))), ("--lora-modules", *modules)]


def _group(pool: PoolPlan, place: Place) -> list[Option]:
    """One engine on several nodes: vLLM infers from the node's rank which ranks run there."""
    if nodes(pool) == 1:
        return []
    options: list[Option] = [
        ("--nnodes", str(nodes(pool))),
        ("--node-rank", place.rank),
        ("--master-addr", place.leader),
        ("--master-port", str(MASTER + place.number)),
    ]
    if pool.layout.dp > 1:
        options.append(("--data-parallel-rpc-port", str(RPC + place.number)))
    return options if place.rank == "0" else [*options, ("--headless",)]


def connector(order: Order, pool: PoolPlan) -> dict[str, Any] | None:
    """The same connector in the words of the gateway's configuration."""
    if pool.role is Role.BOTH:
        return None
    port = {"port": BOOTSTRAP} if pool.connector == "mooncake" else {}
    if _several(order, pool):
        return {"type": "multi", "carrier": pool.connector, "lease": f"{LEASE_S}s", **port}
    return {"type": pool.connector, "lease": f"{LEASE_S}s", **port}


def pool_problems(order: Order, pool: PoolPlan, where: str) -> list[Problem]:
    """What has no flag."""
    found = []
    if pool.role is Role.BOTH and pool.connector:
        found.append(Problem(f"{where}.connector", "is for pools of role prefill or decode"))
    others = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}
    if pool.role is not Role.BOTH and others[pool.role] not in [
        each.role for each in order.plan.pools if each.connector == pool.connector
    ]:
        found.append(Problem(f"{where}.role", f"no {others[pool.role].value} pool with connector {pool.connector!r}"))
    if pool.role is not Role.BOTH and pool.connector not in CONNECTORS:
        what = f"{pool.connector!r}: manifests know {', '.join(CONNECTORS)}; others need a server beside the engines"
        found.append(Problem(f"{where}.connector", what))
    if pool.connector == "mooncake" and pool.role is Role.PREFILL and pool.replicas > 1:
        what = "more than one with mooncake: each has a bootstrap server of its own, and a pool names one"
        found.append(Problem(f"{where}.replicas", what))
    unknown = [tier for tier in pool.tiers if tier not in (*DRAM, *DISK)]
    found += [
        Problem(
            f"{where}.tiers", f"{tier!r}: manifests know {DRAM[0]} and {DISK[0]}; a shared store is a server of its own"
        )
        for tier in unknown
    ]
    if any(tier in DISK for tier in pool.tiers) and not any(tier in DRAM for tier in pool.tiers):
        found.append(Problem(f"{where}.tiers", "disk needs dram: vLLM writes and reads through it"))
    found += [
        Problem(f"{where}.tiers.{tier}", f"{size:g} GB: must be above 0, and finite")
        for tier, size in pool.tiers.items()
        if not 0 < size * GB < float("inf")
    ]
    if pool.precision not in PRECISIONS:
        found.append(Problem(f"{where}.precision", f"{pool.precision!r} is none of {', '.join(PRECISIONS)}"))
    found += [
        Problem(f"{where}.{name}", f"{value}: must be at least 1")
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
        if (value := getattr(pool, name)) is not None and value < 1
    ]
    found += [Problem(f"{where}.engine_args", what) for what in _of_arguments(pool)]
    if pool.kv_precision not in ("bf16", "fp8", "fp4"):
        found.append(Problem(f"{where}.kv_precision", f"{pool.kv_precision!r} is none of bf16, fp8, fp4"))
    return found


def _of_arguments(pool: PoolPlan) -> Iterator[str]:
    try:
        given = split_options(pool.engine_args)
    except ValueError as error:
        yield f"{pool.engine_args}: {error}"
        return
    for option in given:
        name = name_of(option)
        if not option[0].startswith("-"):
            yield f"{option[0]!r} is no flag"
        elif name in FIXED:
            yield f"{name}: probes, Services and the gateway's configuration go by what is set here"
        elif name in (*_degrees(pool.layout), *GROUP):
            yield f"{name}: write it as `layout`, by which GPUs and nodes are counted"
