"""KEDA: how many engines of a pool there are, by the requests of its class.

What is counted are requests: at the pool's engines, running or waiting, and at the gateway, where no engine can take them.
That is what makes the first engine of none. Prometheus tells; who cannot be asked, or has no series, is an error, and then
`fallback` holds: not zero.
"""

import json

from pilothouse.core.events import Role
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.ground import Scaling
from pilothouse.plan.manifests.order import Order, nodes
from pilothouse.plan.manifests.pods import POOL, labels
from pilothouse.plan.manifests.serving_pod import PART_OF

ENGINE_SERIES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
GATEWAY_SERIES = "pilothouse_requests_waiting"
SEQUENCES = 256  # at one engine, where the plan names no limit: vLLM's own on most GPUs
FULL = 0.5  # of them, at which another engine is wanted, where a plan expects nothing. A judgement
CALM_S = 600  # large engines start slowly: not one less before it was calm for that long


def scaled(order: Order, pool: PoolPlan, gateway: bool = True) -> Object | None:
    """`gateway`: whether Pilothouse's is in front, and holds what no engine can take."""
    scaling = order.ground.scaling_of(pool.name)
    if scaling is None:
        return None
    api, kind = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet") if nodes(pool) > 1 else ("apps/v1", "Deployment")
    trigger = {
        "type": "prometheus",
        "name": scaling.request_class,
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": order.ground.prometheus,
            "query": query(order, pool, scaling, gateway),
            "threshold": str(threshold(order, pool, scaling)),
            "ignoreNullValues": "false",
        },
    }
    fallback = {"failureThreshold": 3, "replicas": pool.replicas, "behavior": "currentReplicasIfHigher"}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {
            "name": order.name_of(pool),
            "labels": labels(order, pool) | {"pilothouse.io/class": scaling.request_class},
        },
        "spec": {
            "scaleTargetRef": {"apiVersion": api, "kind": kind, "name": order.name_of(pool)},
            "minReplicaCount": scaling.replicas_min,
            "maxReplicaCount": scaling.replicas_max,
            "pollingInterval": 15,
            "cooldownPeriod": CALM_S,
            "fallback": fallback,
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM_S}},
                }
            },
            "triggers": [trigger],
        },
    }


def query(order: Order, pool: PoolPlan, scaling: Scaling, gateway: bool = True) -> str:
    """PromQL. Of none, engines have no series, which is no fault where none is allowed."""
    space = {"namespace": order.ground.namespace} if order.ground.namespace else {}
    fleet = {_label(PART_OF): order.part_of, **space}
    engines = " + ".join(f"sum({name}{_matching(fleet | {_label(POOL): pool.name})})" for name in ENGINE_SERIES)
    if not scaling.replicas_min:
        engines = f"(({engines}) or vector(0))"
    if pool.role is Role.PREFILL or not gateway:  # a prefill's request is held for a decode engine
        return engines
    waiting = f"sum({GATEWAY_SERIES}{_matching(fleet | {'model': order.served})})"
    return f"{engines} + ({waiting} or vector(0))"


def _label(name: str) -> str:
    """Of a pod, as Prometheus spells it."""
    return name.replace(".", "_").replace("/", "_").replace("-", "_")


def _matching(labels: dict[str, str]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()) + "}"


def threshold(order: Order, pool: PoolPlan, scaling: Scaling) -> int:
    """Requests in flight at one engine, beyond which another is wanted."""
    if scaling.requests:
        return scaling.requests
    room = pool.max_num_seqs or SEQUENCES
    expected = order.plan.expected
    if expected is None or not expected.requests_per_s:
        return max(1, int(FULL * room))
    decode_s = expected.tpot_s * expected.output_per_s / expected.requests_per_s
    seconds = {Role.PREFILL: expected.ttft_s, Role.DECODE: decode_s, Role.BOTH: expected.ttft_s + decode_s}
    engines = sum(each.replicas for each in order.plan.pools if each.role is pool.role)
    return max(1, min(room, int(expected.requests_per_s * seconds[pool.role] / engines)))  # Little's law
