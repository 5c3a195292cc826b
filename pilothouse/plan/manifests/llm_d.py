"""Target llm-d: engines behind an InferencePool, llm-d's endpoint picker, objectives and an HTTPRoute.

Decode engines of a split pair stand behind llm-d's sidecar, which asks the prefill engine first.
"""

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.core.events import Role
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.engines import FIRST, monitor, workload
from pilothouse.plan.manifests.files import File, Object
from pilothouse.plan.manifests.flags import BEHIND, HTTP
from pilothouse.plan.manifests.guards import disruption, doors
from pilothouse.plan.manifests.kustomize import in_base
from pilothouse.plan.manifests.order import Fleet, Order, nodes
from pilothouse.plan.manifests.picker import GRPC, picker_objects
from pilothouse.plan.manifests.pods import PLAN, engine, place_of
from pilothouse.plan.manifests.scaling import scaled
from pilothouse.plan.manifests.serving_pod import LOCKED, PART, PART_OF

ROLE = "llm-d.ai/role"
MODEL_HEADER = "X-Gateway-Model-Name"
SIDECAR_CONNECTORS = {"nixl": "nixlv2", "mooncake": "mooncake"}  # ours -> its


def render(fleet: Fleet) -> list[File]:
    """Raises ConfigError for what llm-d's sidecar cannot carry."""
    if problems := [problem for order in fleet.orders for problem in _problems(order)]:
        raise ConfigError(problems)
    several = len(fleet.orders) > 1
    groups = {
        "engines.yaml": [_workload(order, pool) for order, pool in fleet.pools],
        "picker.yaml": [each for order in fleet.orders for each in picker_objects(order)],
        "routing.yaml": [
            each
            for order in fleet.orders
            for each in (_pool(order), *_objectives(order), _route(order, by_model=several))
        ],
        "guards.yaml": [*(disruption(order, pool) for order, pool in fleet.pools), *doors(fleet, gateway=False)],
        "monitoring.yaml": [monitor(fleet, "engine", "http")],
        "scaling.yaml": [found for order, pool in fleet.pools if (found := scaled(order, pool, gateway=False))],
    }
    return in_base(fleet, groups)


def _problems(order: Order) -> list[Problem]:
    found = []
    for i, pool in enumerate(order.plan.pools):
        if pool.role is not Role.BOTH and pool.connector not in SIDECAR_CONNECTORS:
            what = f"llm-d's sidecar knows {', '.join(SIDECAR_CONNECTORS)}, not {pool.connector!r}"
            found.append(Problem(f"pools[{i}].connector", what))
        scaling = order.ground.scaling_of(pool.name)
        if scaling and not scaling.replicas_min:
            what = "nobody holds requests while there is no engine; MIN at least 1, or --target kubernetes"
            found.append(Problem("--scale", f"{pool.name}: {what}"))
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
        "image": order.ground.images.sidecar,
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
    selected = {PART_OF: order.part_of, PART: "engine", PLAN: order.name}
    if nodes(order.plan.pools[0]) > 1:
        selected |= FIRST
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": order.name, "labels": {PART_OF: order.part_of}},
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
            "metadata": {"name": f"{order.name}-{each.request_class}", "labels": {PART_OF: order.part_of}},
            "spec": {"priority": each.priority, "poolRef": {"name": order.name}},
        }
        for each in order.ground.objectives
    ]


def _route(order: Order, by_model: bool) -> Object:
    """`by_model`: of several models the header tells, which the Gateway's body-based router takes from the body."""
    backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": order.name}
    match: Object = {"path": {"type": "PathPrefix", "value": "/v1"}}
    if by_model:
        match["headers"] = [{"type": "Exact", "name": MODEL_HEADER, "value": order.served}]
    rule = {
        "matches": [match],
        "backendRefs": [backend],
        "timeouts": {"request": "0s"},  # streams last as long as they last
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": order.name, "labels": {PART_OF: order.part_of}},
        "spec": {"parentRefs": [{"name": order.ground.gateway}], "rules": [rule]},
    }
