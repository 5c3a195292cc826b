"""Target kubernetes: engines, Pilothouse's gateway in front of them, monitors and scaling; a kustomize base with overlays."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pilothouse.plan.manifests import gateway
from pilothouse.plan.manifests.engines import monitor, service, workload
from pilothouse.plan.manifests.files import File, Object
from pilothouse.plan.manifests.guards import disruption, doors
from pilothouse.plan.manifests.kustomize import in_base
from pilothouse.plan.manifests.order import Fleet
from pilothouse.plan.manifests.scaling import scaled
from pilothouse.plan.manifests.serving_pod import NAME, PART, PART_OF, deployed, serving_pod

CONFIG = "/etc/pilothouse"
DRAIN_S = 45  # the gateway itself gives requests 30 s


def render(fleet: Fleet) -> list[File]:
    places = {pool.name: gateway.by_name(order.name_of(pool)) for order, pool in fleet.pools}
    groups = {
        "engines.yaml": [each(order, pool) for order, pool in fleet.pools for each in (workload, service)],
        "gateway.yaml": gateway_objects(fleet, places),
        "guards.yaml": [*(disruption(order, pool) for order, pool in fleet.pools), *doors(fleet)],
        "monitoring.yaml": [monitor(fleet, "engine", "http"), monitor(fleet, "gateway", "control")],
        "scaling.yaml": [found for order, pool in fleet.pools if (found := scaled(order, pool))],
    }
    return in_base(fleet, groups)


def gateway_objects(fleet: Fleet, places: Mapping[str, Object]) -> list[Object]:
    """One replica: what it knows of the engines' caches is in its memory. `places`: pool -> where its engines are."""
    claims = {order.name: order.weights for order in fleet.orders if order.weights.scheme == "pvc"}
    folders = {name: f"/models/{name}" for name in claims}
    tokenizers = {name: f"{folders[name]}/{claims[name].path}".rstrip("/") for name in claims}
    config = gateway.gateway_file(fleet, places, "0.0.0.0", tokenizers=tokenizers).text
    name = f"{fleet.name}-gateway"
    marks = {NAME: "pilothouse", PART_OF: fleet.name, PART: "gateway"}
    spec = _pod(fleet, name)
    for plan, weights in claims.items():  # for tokenizer and chat template
        claim = {"claimName": weights.claim, "readOnly": True}
        spec["volumes"].append({"name": plan, "persistentVolumeClaim": claim})
        spec["containers"][0]["volumeMounts"].append({"name": plan, "mountPath": folders[plan], "readOnly": True})
    deployment = deployed(name, marks, spec)
    deployment["spec"] = {"replicas": 1, "strategy": {"type": "Recreate"}, **deployment["spec"]}
    seen = {"pilothouse.io/config": sha256(config.encode()).hexdigest()[:16]}  # another configuration is another pod
    deployment["spec"]["template"]["metadata"]["annotations"] = seen
    head = {"name": name, "labels": marks}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": {gateway.PATH: config}},
        deployment,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": head,
            "spec": {"selector": marks, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
    ]


def _pod(fleet: Fleet, name: str) -> Object:
    container: dict[str, Any] = {
        "name": "gateway",
        "image": fleet.ground.images.gateway,
        "args": ["serve", "--config", f"{CONFIG}/{gateway.PATH}"],
        "ports": [
            {"name": "http", "containerPort": gateway.LISTEN},
            {"name": "control", "containerPort": gateway.CONTROL},
        ],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 10, "failureThreshold": 6},
    }
    spec = serving_pod(container, name, CONFIG)
    return {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": DRAIN_S, **spec}
