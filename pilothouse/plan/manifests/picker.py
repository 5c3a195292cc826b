"""llm-d's endpoint picker: its configuration for a plan, the Deployment, the Service, and what it may read."""

from pilothouse.core.events import Role
from pilothouse.plan.manifests.files import Object, yaml_text
from pilothouse.plan.manifests.order import Order
from pilothouse.plan.manifests.pods import PLAN
from pilothouse.plan.manifests.serving_pod import NAME, PART, PART_OF, deployed, serving_pod

GRPC, HEALTH, METRICS = 9002, 9003, 9090  # llm-d's own
FOLDER, FILE = "/etc/picker", "picker.yaml"
CONTEXT = 131_072  # tokens of a prompt that are matched at most, where the plan names no limit


def picker_objects(order: Order) -> list[Object]:
    name = f"{order.name}-picker"
    marks = {NAME: "llm-d-picker", PART_OF: order.part_of, PART: "picker", PLAN: order.name}
    head = {"name": name, "labels": marks}
    deployment = deployed(name, marks, _pod(order, name))
    deployment["spec"] = {"replicas": 1, **deployment["spec"]}
    ports = [{"name": "grpc", "port": GRPC, "targetPort": "grpc", "appProtocol": "http2"}]
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": {FILE: yaml_text(config(order))}},
        deployment,
        {"apiVersion": "v1", "kind": "Service", "metadata": head, "spec": {"selector": marks, "ports": ports}},
        *_rights(head),
    ]


def config(order: Order) -> Object:
    """Whole requests: queue, KV in use, prefix. Split ones: a profile per role, chosen by what is not cached."""
    split = any(pool.role is Role.PREFILL for pool in order.plan.pools)
    head = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    if not split:
        weights = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3}  # llm-d's default
        found = [{"type": name} for name in (*weights, "metrics-data-source", "core-metrics-extractor")]
        used = [{"pluginRef": name, "weight": weight} for name, weight in weights.items()]
        return {**head, "plugins": found, "schedulingProfiles": [{"name": "default", "plugins": used}]}
    tokens = max(pool.max_model_len or CONTEXT for pool in order.plan.pools)
    decider = "always-disagg-pd-decider"
    plugins: list[Object] = [
        {"type": decider},
        {"type": "disagg-profile-handler", "parameters": {"deciders": {"prefill": decider}}},
        {"type": "approx-prefix-cache-producer", "parameters": {"maxPrefixTokensToMatch": tokens}},
        {"type": "prefix-cache-scorer"},
        *({"type": name} for name in ("prefill-filter", "decode-filter", "inflight-load-producer")),
        *({"type": name} for name in ("token-load-scorer", "active-request-scorer", "max-score-picker")),
    ]
    used_by = {
        "prefill": ["prefill-filter", "prefix-cache-scorer", "token-load-scorer", "max-score-picker"],
        "decode": ["decode-filter", "active-request-scorer", "max-score-picker"],
    }
    profiles = [{"name": role, "plugins": [{"pluginRef": each} for each in names]} for role, names in used_by.items()]
    return {**head, "plugins": plugins, "schedulingProfiles": profiles}


def _pod(order: Order, name: str) -> Object:
    def probe(service: str) -> Object:
        return {"grpc": {"port": HEALTH, "service": service}, "periodSeconds": 5}

    container: Object = {
        "name": "picker",
        "image": order.ground.images.picker,
        "args": [
            f"--pool-name={order.name}",
            "--pool-namespace=$(NAMESPACE)",
            f"--config-file={FOLDER}/{FILE}",
        ],
        "env": [{"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "ports": [
            {"name": "grpc", "containerPort": GRPC},
            {"name": "health", "containerPort": HEALTH},
            {"name": "metrics", "containerPort": METRICS},
        ],
        "readinessProbe": probe("readiness"),
        "livenessProbe": probe("liveness"),
    }
    return {"serviceAccountName": name, **serving_pod(container, name, FOLDER)}


def _rights(head: Object) -> list[Object]:
    """It watches pods and what says how to choose among them, in its own namespace."""
    reading = ["get", "list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": reading},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": reading},
        {"apiGroups": ["llm-d.ai"], "resources": ["inferenceobjectives", "inferencemodelrewrites"], "verbs": reading},
    ]
    api, name = "rbac.authorization.k8s.io", head["name"]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head},
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": head, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": head,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        },
    ]
