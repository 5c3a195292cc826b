"""Target kubernetes: engines, Pilothouse's gateway in front of them, monitors and scaling; a kustomize base with overlays."""

from collections.abc import Mapping
from hashlib import sha256

from pilothouse.plan.manifests import gateway
from pilothouse.plan.manifests.engines import monitor, scaled, service, workload
from pilothouse.plan.manifests.files import File, Object
from pilothouse.plan.manifests.kustomize import in_base
from pilothouse.plan.manifests.order import Order
from pilothouse.plan.manifests.pods import LOCKED, UNPRIVILEGED, deployed


def render(order: Order) -> list[File]:
    pools = order.plan.pools
    places = {pool.name: gateway.by_name(order.name_of(pool)) for pool in pools}
    groups = {
        "engines.yaml": [each(order, pool) for pool in pools for each in (workload, service)],
        "gateway.yaml": gateway_objects(order, places),
        "monitoring.yaml": [monitor(order, "engine", "http"), monitor(order, "gateway", "control")],
        "scaling.yaml": [found for pool in pools if (found := scaled(order, pool))],
    }
    return in_base(order, {path: objects for path, objects in groups.items() if objects})


def gateway_objects(order: Order, places: Mapping[str, Object]) -> list[Object]:
    """One replica: what it knows of the engines' caches is in its memory. `places`: pool -> where its engines are."""
    config = gateway.gateway_file(order, places, "0.0.0.0").text
    name = f"{order.name}-gateway"
    marks = {
        "app.kubernetes.io/name": "pilothouse",
        "app.kubernetes.io/part-of": order.name,
        "app.kubernetes.io/component": "gateway",
    }
    deployment = deployed(name, marks, _pod(order, name))
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


def _pod(order: Order, name: str) -> Object:
    get = {"path": "/health", "port": "http"}
    container: Object = {
        "name": "gateway",
        "image": order.images.gateway,
        "args": ["serve", "--config", f"/etc/pilothouse/{gateway.PATH}"],
        "ports": [
            {"name": "http", "containerPort": gateway.LISTEN},
            {"name": "control", "containerPort": gateway.CONTROL},
        ],
        "readinessProbe": {"httpGet": get, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 10, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},  # a judgement
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/pilothouse", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
        "securityContext": LOCKED,
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": UNPRIVILEGED,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}],
    }
