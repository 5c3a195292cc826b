"""Engines of a pool on Kubernetes: Deployment, or LeaderWorkerSet where one engine spans nodes; Service, monitor."""

from typing import Any

from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.flags import HTTP
from pilothouse.plan.manifests.order import Fleet, Order, nodes
from pilothouse.plan.manifests.pods import POOL, labels, place_of, pod
from pilothouse.plan.manifests.serving_pod import PART, PART_OF, deployed

FIRST = {"leaderworkerset.sigs.k8s.io/worker-index": "0"}


def workload(order: Order, pool: PoolPlan) -> Object:
    """Without a number of replicas where KEDA sets it, or applying it again would undo that."""
    marks = labels(order, pool)
    name = order.name_of(pool)
    made = _group(order, pool, name, marks) if nodes(pool) > 1 else deployed(name, marks, _single(order, pool))
    if order.ground.scaling_of(pool.name) is None:
        made["spec"] = {"replicas": pool.replicas, **made["spec"]}
    if nodes(pool) == 1:  # GPUs for a surplus engine are rarely there
        made["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    return made


def _single(order: Order, pool: PoolPlan) -> dict[str, Any]:
    return pod(order, pool, place_of(order, pool))


def _group(order: Order, pool: PoolPlan, name: str, marks: dict[str, str]) -> Object:
    """The first pod answers; the others have no API, and the group starts anew as one."""
    others = labels(order, pool, "engine-worker")
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": marks},
        "spec": {
            "leaderWorkerTemplate": {
                "size": nodes(pool),
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": marks}, "spec": _single(order, pool)},
                "workerTemplate": {
                    "metadata": {"labels": others},
                    "spec": pod(order, pool, place_of(order, pool, "$(LWS_WORKER_INDEX)")),
                },
            }
        },
    }


def service(order: Order, pool: PoolPlan) -> Object:
    """Headless: the gateway wants each engine's own address."""
    marks = labels(order, pool)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": order.name_of(pool), "labels": marks},
        "spec": {
            "clusterIP": "None",
            "selector": marks | (FIRST if nodes(pool) > 1 else {}),
            "ports": [{"name": "http", "port": HTTP, "targetPort": "http"}],
        },
    }


def monitor(fleet: Fleet, component: str, port: str) -> Object:
    """Every pod of one component, scraped; what it is part of becomes labels of its series."""
    marks = {PART_OF: fleet.name, PART: component}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": f"{fleet.name}-{component}", "labels": marks},
        "spec": {
            "selector": {"matchLabels": marks},
            "podTargetLabels": [PART_OF, *([POOL] if component == "engine" else [])],
            "podMetricsEndpoints": [{"port": port, "path": "/metrics", "interval": "15s"}],
        },
    }
