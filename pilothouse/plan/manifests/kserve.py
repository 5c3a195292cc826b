"""Target kserve: LLMInferenceService. KServe makes pods, pool, route and picker; the rules of its webhook are kept here.

KServe adds flags of its own; the others go into VLLM_ADDITIONAL_ARGS, which it reads as a shell would.
"""

import shlex
from collections.abc import Collection

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.live.launch_command import name_of, split_options
from pilothouse.perf.catalog import gpu_named
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import File, Object
from pilothouse.plan.manifests.flags import Place, words
from pilothouse.plan.manifests.ground import Scaling
from pilothouse.plan.manifests.kustomize import in_base
from pilothouse.plan.manifests.order import Fleet, Order, nodes
from pilothouse.plan.manifests.pods import PLAN, POD_IP, POOL, engine, pod
from pilothouse.plan.manifests.serving_pod import PART_OF

WEIGHT_MAX = 1_000_000
KSERVES_OWN = {"--host", "--port", "--served-model-name"}
OF_GROUPS = {
    "--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless", "--data-parallel-rpc-port",
    "--data-parallel-size", "--pipeline-parallel-size", "--enable-lora", "--max-loras", "--lora-modules",
}  # fmt: skip


def render(fleet: Fleet) -> list[File]:
    """Raises ConfigError for what LLMInferenceService cannot say."""
    if problems := [problem for order in fleet.orders for problem in _problems(order)]:
        raise ConfigError(problems)
    return in_base(fleet, {"services.yaml": [each for order in fleet.orders for each in _services(order)]})


def _services(order: Order) -> list[Object]:
    """Pools of one model share its requests: KServe splits the traffic of a group by weight."""
    pools = order.plan.pools
    prefill = next((pool for pool in pools if pool.role is Role.PREFILL), None)
    heads = [pool for pool in pools if pool is not prefill]
    services = [_service(order, pool, prefill if pool.role is Role.DECODE else None) for pool in heads]
    if len(heads) > 1:
        for pool, service in zip(heads, services, strict=True):
            share = {"group": order.name, "weight": _weight(pool)}
            service["spec"]["router"]["route"] = share
    return services


def _weight(pool: PoolPlan) -> int:
    """Memory bandwidth of its GPUs [GB/s], which decoding goes by; the router has no better word for a pool's strength."""
    try:
        bandwidth = gpu_named(pool.gpu).bandwidth_tbps
    except KeyError:
        bandwidth = 1.0
    return max(1, min(WEIGHT_MAX, round(pool.replicas * pool.layout.gpus * bandwidth * 1000)))


def _problems(order: Order) -> list[Problem]:
    found = []
    roles = [pool.role for pool in order.plan.pools]
    if roles.count(Role.PREFILL) > 1 or roles.count(Role.DECODE) != roles.count(Role.PREFILL):
        found.append(Problem("pools", "an LLMInferenceService has one prefill and one decode workload, or neither"))
    if not order.weights.scheme:
        found.append(Problem("--weights", f"{order.weights.uri}: KServe fetches hf://, pvc:// or oci://"))
    for i, pool in enumerate(order.plan.pools):
        layout, where = pool.layout, f"pools[{i}].layout"
        if layout.dp > 1 and layout.pp > 1:
            found.append(Problem(where, "KServe refuses data and pipeline parallelism together"))
        if nodes(pool) > 1 and layout.dp == layout.pp == 1:
            found.append(Problem(where, "a group of pods needs data or pipeline parallelism"))
        if layout.dp % nodes(pool) and layout.dp > 1:
            found.append(Problem(where, f"{layout.dp} ranks do not spread evenly over {nodes(pool)} nodes"))
        scaling = order.ground.scaling_of(pool.name)
        if scaling and scaling.replicas_min < 1:
            what = f"{pool.name}: an LLMInferenceService does not scale to zero; MIN at least 1, or --target kubernetes"
            found.append(Problem("--scale", what))
    return found


def _service(order: Order, pool: PoolPlan, prefill: PoolPlan | None) -> Object:
    name = order.name if len(order.plan.pools) == 1 or prefill else order.name_of(pool)
    model: Object = {"uri": order.weights.uri, "name": order.served}
    if order.adapters:
        adapters = [{"name": adapter.name, "uri": adapter.uri} for adapter in order.adapters]
        model["lora"] = {"adapters": adapters, "maxAdapters": len(adapters)}
    spec: Object = {"model": model, **_workload(order, pool)}
    if prefill:
        spec["prefill"] = _workload(order, prefill)
    spec["router"] = {"route": {}, "gateway": {}, "scheduler": {}}
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": name, "labels": {PART_OF: order.part_of}},
        "spec": spec,
    }


def _workload(order: Order, pool: PoolPlan) -> Object:
    scaling = order.ground.scaling_of(pool.name)
    found: Object = {"scaling": _scaling(scaling)} if scaling else {"replicas": pool.replicas}
    layout = pool.layout
    parallelism: Object = {"tensor": layout.tp, "expert": layout.expert_parallel}
    if layout.dp > 1:
        parallelism |= {"data": layout.dp, "dataLocal": layout.dp // nodes(pool)}
    if layout.pp > 1:
        parallelism |= {"pipeline": layout.pp}
    found |= {"parallelism": parallelism, "labels": {PLAN: order.name, POOL: pool.name}, "template": _pod(order, pool)}
    if nodes(pool) > 1:
        found["worker"] = _pod(order, pool)
    return found


def _scaling(scaling: Scaling) -> Object:
    """Prefill and decode must have the same actuator: KEDA, which needs no adapter."""
    keda = {"pollingInterval": 5, "cooldownPeriod": 300}
    return {"minReplicas": scaling.replicas_min, "maxReplicas": scaling.replicas_max, "wva": {"keda": keda}}


def _pod(order: Order, pool: PoolPlan) -> Object:
    """What KServe's preset is to have otherwise: it merges containers by name, and mounts the weights."""
    place = Place(address=POD_IP, leader="x" if nodes(pool) > 1 else "")
    main = engine(order, pool, place, "main")
    for name in ("command", "args", "ports", "startupProbe", "readinessProbe", "livenessProbe"):
        main.pop(name, None)
    main["env"].append({"name": "VLLM_ADDITIONAL_ARGS", "value": shlex.join(additional(order, pool))})
    if nodes(pool) > 1 and pool.layout.pp > 1:
        _one_stage(main, pool)
    spec = pod(order, pool, place)
    spec["containers"] = [main]
    for part in (spec["volumes"], main["volumeMounts"]):
        part[:] = [each for each in part if each["name"] != "models"]
    return spec


def _one_stage(main: Object, pool: PoolPlan) -> None:
    """KServe gives each pipeline stage a pod of its own."""
    for amounts in main["resources"].values():
        for name in amounts:
            if "/" in name:
                amounts[name] = str(pool.layout.tp * pool.layout.pcp)


def additional(order: Order, pool: PoolPlan, unknown: Collection[str] = ()) -> list[str]:
    """Flags beside those that KServe makes of `parallelism`, `model` and the group of pods, and those it does not know."""
    grouped = nodes(pool) > 1
    left_out = KSERVES_OWN | (OF_GROUPS if grouped else OF_GROUPS - {"--pipeline-parallel-size"})
    options = split_options(words(order, pool, Place(leader="x" if grouped else "")))
    return [word for option in options if name_of(option) not in {*left_out, *unknown} for word in option]
