"""What protects pods: budgets for those who empty nodes, and who may connect to which port."""

from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.flags import BEHIND, HTTP
from pilothouse.plan.manifests.gateway import CONTROL, LISTEN
from pilothouse.plan.manifests.order import Fleet, Order
from pilothouse.plan.manifests.pods import POOL
from pilothouse.plan.manifests.serving_pod import PART, PART_OF

ENGINES = ["engine", "engine-worker"]


def disruption(order: Order, pool: PoolPlan) -> Object:
    """One pod of a pool at a time. The gateway has none: with one replica it would only keep nodes from being emptied."""
    marks = {PART_OF: order.part_of, POOL: pool.name}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": order.name_of(pool), "labels": marks},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": marks}},
    }


def doors(fleet: Fleet, *, gateway: bool = True, engines: bool = True) -> list[Object]:
    """Engines have no password: only their own fleet reaches them, and Prometheus their metrics.

    gateway     whether Pilothouse's is in front; else requests may come from anywhere
    engines     whether any are pods of ours
    """
    own: Object = {"from": [{"podSelector": {"matchLabels": {PART_OF: fleet.name}}}]}
    found = []
    if engines:
        asked = [_scraped(fleet, HTTP)] if gateway else [_open(HTTP), _scraped(fleet, BEHIND)]
        found.append(_policy(fleet, "engine", ENGINES, [own, *asked]))
    if gateway:
        found.append(_policy(fleet, "gateway", ["gateway"], [_open(LISTEN), _scraped(fleet, CONTROL)]))
    return found


def _open(port: int) -> Object:
    return {"ports": [{"port": port, "protocol": "TCP"}]}


def _scraped(fleet: Fleet, port: int) -> Object:
    """By Prometheus, if its address says in which namespace it is; else by anyone."""
    if not (namespace := fleet.ground.monitoring):
        return _open(port)
    there = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return {"from": [there], **_open(port)}


def _policy(fleet: Fleet, name: str, components: list[str], ingress: list[Object]) -> Object:
    chosen = {"key": PART, "operator": "In", "values": components}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{fleet.name}-{name}", "labels": {PART_OF: fleet.name}},
        "spec": {
            "podSelector": {"matchLabels": {PART_OF: fleet.name}, "matchExpressions": [chosen]},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }
