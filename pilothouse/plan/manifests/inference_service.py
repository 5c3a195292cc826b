"""Target inferenceservice: KServe's older InferenceService, one per pool, and Pilothouse's gateway in front of them.

On one node the container is ours, flags and all. Over several nodes KServe makes a pod per pipeline stage from its own
multi-node runtime, whose server takes vLLM's engine flags, but not those of vLLM's API.
"""

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests import gateway
from pilothouse.plan.manifests.engines import monitor, service
from pilothouse.plan.manifests.files import File, Object
from pilothouse.plan.manifests.guards import disruption, doors
from pilothouse.plan.manifests.kserve import additional
from pilothouse.plan.manifests.kubernetes import gateway_objects
from pilothouse.plan.manifests.kustomize import in_base
from pilothouse.plan.manifests.order import Fleet, Order, nodes
from pilothouse.plan.manifests.pods import labels, place_of, pod, resources

OF_THE_API = ("--enable-prompt-tokens-details", "--disable-uvicorn-access-log", "--shutdown-timeout")
NAME_MAX = 63 - len("-predictor")
MULTI_NODE_PORT = 80  # of the Service that KServe makes


def render(fleet: Fleet) -> list[File]:
    """Raises ConfigError for what an InferenceService cannot say."""
    if problems := [problem for order in fleet.orders for problem in _problems(order)]:
        raise ConfigError(problems)
    single = [(order, pool) for order, pool in fleet.pools if nodes(pool) == 1]
    places = {pool.name: _address(order, pool) for order, pool in fleet.pools}
    groups = {
        "services.yaml": [_service(order, pool) for order, pool in fleet.pools] + [service(*each) for each in single],
        "gateway.yaml": gateway_objects(fleet, places),
        "guards.yaml": [*(disruption(*each) for each in single), *doors(fleet, engines=bool(single))],
        "monitoring.yaml": [
            *([monitor(fleet, "engine", "http")] if single else []),  # pods of KServe's own runtime name no port
            monitor(fleet, "gateway", "control"),
        ],
    }
    return in_base(fleet, groups)


def _problems(order: Order) -> list[Problem]:
    found = []
    for i, pool in enumerate(order.plan.pools):
        layout, where = pool.layout, f"pools[{i}].layout"
        if nodes(pool) > 1 and (layout.dp > 1 or layout.pp != nodes(pool)):
            what = "over several nodes an InferenceService has one pod per pipeline stage; use --target kserve"
            found.append(Problem(where, what))
        if nodes(pool) > 1 and order.weights.scheme != "pvc":
            found.append(
                Problem("--weights", "over several nodes KServe wants pvc://claim/path that all of them mount")
            )
        if nodes(pool) > 1 and pool.replicas > 1:
            found.append(Problem(f"pools[{i}].replicas", "over several nodes an InferenceService is one engine"))
        if len(order.name_of(pool)) > NAME_MAX:
            what = f"{order.name_of(pool)} is too long: with what KServe appends, {NAME_MAX} letters at most"
            found.append(Problem(f"pools[{i}].name", what))
    if order.ground.scaling:
        found.append(Problem("--scale", "not with an InferenceService: use --target kubernetes or kserve"))
    return found


def _address(order: Order, pool: PoolPlan) -> Object:
    if nodes(pool) > 1:
        return gateway.by_name(f"{order.name_of(pool)}-predictor", MULTI_NODE_PORT)
    return gateway.by_name(order.name_of(pool))


def _service(order: Order, pool: PoolPlan) -> Object:
    counts = {"minReplicas": pool.replicas, "maxReplicas": pool.replicas}
    if nodes(pool) > 1:
        predictor = {**counts, "labels": labels(order, pool, "engine-group"), **_stages(order, pool)}
    else:
        predictor = {**counts, "labels": labels(order, pool), **pod(order, pool, place_of(order, pool))}
        predictor["containers"][0]["name"] = "kserve-container"
    modes = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "none"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": order.name_of(pool), "labels": labels(order, pool), "annotations": modes},
        "spec": {"predictor": predictor},
    }


def _stages(order: Order, pool: PoolPlan) -> Object:
    flags = additional(order, pool, OF_THE_API)
    worker = {"name": "worker-container", "resources": resources(order, pool)}
    return {
        "model": {
            "modelFormat": {"name": "huggingface"},
            "storageUri": order.weights.uri,
            "args": [f"--model_name={order.served}", *flags],
            "resources": resources(order, pool),
        },
        "workerSpec": {
            "pipelineParallelSize": pool.layout.pp,
            "tensorParallelSize": pool.layout.tp,
            "containers": [worker],
        },
    }
