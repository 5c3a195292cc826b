"""Target llm-d: engines behind an InferencePool, llm-d's endpoint picker, objectives and an HTTPRoute.

Decode engines of a split pair stand behind llm-d's sidecar, which asks the prefill engine first.
"""

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.engines import FIRST, monitor, scaled, workload
from pilothouse.plan.manifests.files import File, Object
from pilothouse.plan.manifests.flags import HTTP
from pilothouse.plan.manifests.kustomize import in_base
from pilothouse.plan.manifests.order import Order, nodes
from pilothouse.plan.manifests.picker import GRPC, picker_objects
from pilothouse.plan.manifests.pods import LOCKED, engine, place_of

ROLE = "llm-d.ai/role"
BEHIND = 8200  # where the sidecar looks for the engine
SIDECAR_CONNECTORS = {"nixl": "nixlv2", "mooncake": "mooncake"}  # ours -> its


def render(order: Order) -> list[File]:
    """Raises ConfigError for what llm-d's sidecar cannot carry."""
    if problems := _problems(order):
        raise ConfigError(problems)
    pools = order.plan.pools
    groups = {
        "engines.yaml": [_workload(order, pool) for pool in pools],
        "picker.yaml": picker_objects(order),
        "routing.yaml": [_pool(order), *_objectives(order), _route(order)],
        "monitoring.yaml": [monitor(order, "engine", "http")],
        "scaling.yaml": [found for pool in pools if (found := scaled(order, pool))],
    }
    return in_base(order, {path: objects for path, objects in groups.items() if objects})


def _problems(order: Order) -> list[Problem]:
    found = []
    for i, pool in enumerate(order.plan.pools):
        if pool.role is not Role.BOTH and pool.connector not in SIDECAR_CONNECTORS:
            what = f"llm-d's sidecar knows {', '.join(SIDECAR_CONNECTORS)}, not {pool.connector!r}"
            found.append(Problem(f"pools[{i}].connector", what))
        scaling = order.scaling_of(pool)
        if scaling and not scaling.replicas_min:
            what = (
                f"{pool.name}: nobody holds requests while there is no engine; MIN at least 1, or --target kubernetes"
            )
            found.append(Problem("--scale", what))
    if any(nodes(pool) > 1 for pool in order.plan.pools) and any(nodes(pool) == 1 for pool in order.plan.pools):
        what = "an InferencePool selects by label: engines on one node and on several need a pool each"
        found.append(Problem("pools", f"{what}; write a plan for each"))
    return found


def _workload(order: Order, pool: PoolPlan) -> Object:
    made = workload(order, pool)
    if nodes(pool) == 1:
        template = made["spec"]["template"]
    else:
        template = made["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    if pool.role is not Role.BOTH:
        template["metadata"]["labels"] = template["metadata"]["labels"] | {ROLE: pool.role.value}
    if pool.role is Role.DECODE:
        _behind_sidecar(order, pool, template["spec"])
    return made


def _behind_sidecar(order: Order, pool: PoolPlan, spec: Object) -> None:
    """The sidecar has the engine's port; the engine moves, and its probes and metrics with it."""
    place = place_of(order, pool, first_port=BEHIND)
    spec["containers"] = [engine(order, pool, place)]
    sidecar: Object = {
        "name": "routing",
        "image": order.images.sidecar,
        "args": [
            f"--port={HTTP}",
            f"--model-server-port={BEHIND}",
            f"--kv-connector={SIDECAR_CONNECTORS[pool.connector]}",
            "--secure-proxy=false",
        ],
        "ports": [{"name": "routed", "containerPort": HTTP}],
        "restartPolicy": "Always",  # which makes it a sidecar
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},  # a judgement
        "securityContext": LOCKED,
    }
    spec["initContainers"] = [sidecar]


def _pool(order: Order) -> Object:
    selected = {"app.kubernetes.io/part-of": order.name, "app.kubernetes.io/component": "engine"}
    if nodes(order.plan.pools[0]) > 1:
        selected |= FIRST
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": order.name},
        "spec": {
            "selector": {"matchLabels": selected},
            "targetPorts": [{"number": HTTP}],
            "endpointPickerRef": {"name": f"{order.name}-picker", "port": {"number": GRPC}, "failureMode": "FailClose"},
        },
    }


def _objectives(order: Order) -> list[Object]:
    return [
        {
            "apiVersion": "llm-d.ai/v1alpha2",
            "kind": "InferenceObjective",
            "metadata": {"name": f"{order.name}-{each.request_class}"},
            "spec": {"priority": each.priority, "poolRef": {"name": order.name}},
        }
        for each in order.objectives
    ]


def _route(order: Order) -> Object:
    backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": order.name}
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "backendRefs": [backend],
        "timeouts": {"request": "0s"},  # streams last as long as they last
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": order.name},
        "spec": {"parentRefs": [{"name": order.gateway}], "rules": [rule]},
    }
