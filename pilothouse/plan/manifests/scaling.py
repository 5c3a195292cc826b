"""KEDA: how many engines of a pool there are, by the requests of its class.

What is counted are requests: at the pool's engines, running or waiting, and at the gateway, where no engine can take them.
That is what makes the first engine of none. A pool that may have none beside others of its kind counts what is beyond these:
its own share of the requests is never none while it has an engine, so it would never go. Prometheus tells; who cannot be
asked, or has no series, is an error, and then `fallback` holds: not zero.
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
    engines = _flying(fleet, pool)
    if not scaling.replicas_min:
        engines = f"({engines} or vector(0))"
        if others := [each for each in order.plan.pools if each.role is pool.role and each.name != pool.name]:
            engines = f"clamp_min({engines} + {' + '.join(_beyond(order, each, fleet) for each in others)}, 0)"
    if pool.role is Role.PREFILL or not gateway:  # a prefill's request is held for a decode engine
        return engines
    waiting = f"sum({GATEWAY_SERIES}{_matching(fleet | {'model': order.served})})"
    return f"{engines} + ({waiting} or vector(0))"


def _flying(fleet: dict[str, str], pool: PoolPlan) -> str:
    """Requests in flight at a pool's engines."""
    sums = " + ".join(f"sum({name}{_matching(fleet | {_label(POOL): pool.name})})" for name in ENGINE_SERIES)
    return f"({sums})"


def _beyond(order: Order, pool: PoolPlan, fleet: dict[str, str]) -> str:
    """Requests in flight at another pool, less those that its engines bear. One engine may have several series."""
    scaling = order.ground.scaling_of(pool.name)
    borne = scaling.requests if scaling is not None and scaling.requests else borne_by_one(order, pool)
    series = f"{ENGINE_SERIES[0]}{_matching(fleet | {_label(POOL): pool.name})}"
    return f"{_flying(fleet, pool)} - {borne:.4g} * count(count by (instance) ({series}))"


def _label(name: str) -> str:
    """Of a pod, as Prometheus spells it."""
    return name.replace(".", "_").replace("/", "_").replace("-", "_")


def _matching(labels: dict[str, str]) -> str:
    return "{" + ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()) + "}"


def threshold(order: Order, pool: PoolPlan, scaling: Scaling) -> int:
    """Requests in flight at one engine, beyond which another is wanted."""
    return scaling.requests or max(1, int(borne_by_one(order, pool)))


def borne_by_one(order: Order, pool: PoolPlan) -> float:
    """Requests in flight at one engine, as the plan expects."""
    room = pool.max_num_seqs or SEQUENCES
    expected = order.plan.expected
    if expected is None or not expected.requests_per_s:
        return FULL * room
    decode_s = expected.tpot_s * expected.output_per_s / expected.requests_per_s
    seconds = {Role.PREFILL: expected.ttft_s, Role.DECODE: decode_s, Role.BOTH: expected.ttft_s + decode_s}
    engines = sum(each.replicas for each in order.plan.pools if each.role is pool.role)
    return min(room, expected.requests_per_s * seconds[pool.role] / engines)  # Little's law
