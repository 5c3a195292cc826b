"""The pod of an engine, which Kubernetes targets share: image, flags, probes, resources, volumes, rights."""

from typing import Any

from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.flags import DISK, DISK_FOLDER, DRAM, HTTP, Place, model_of, variables, words
from pilothouse.plan.manifests.order import Order, gpus_here, nodes

UID = 1000
HOME = "/var/cache/home"
HUB_SECRET = "hub-token"  # optional: key `token`
STARTING_S = 1800  # large models load for many minutes
SHM_GIB = 16  # NCCL's rings, and vLLM's messages between its processes
CPU_PER_GPU, MEMORY_GIB_PER_GPU = 4, 32  # a judgement: one busy process per GPU, weights pass through in pieces
DEVICES = {"mi": "amd.com/gpu", "gaudi": "habana.ai/gaudi", "tpu": "google.com/tpu", "arc": "gpu.intel.com/xe"}
POD_IP = "$(POD_IP)"
POOL = "pilothouse.io/pool"  # label
LOCKED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
UNPRIVILEGED = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "fsGroup": UID,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def labels(order: Order, pool: PoolPlan, component: str = "engine") -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "vllm",
        "app.kubernetes.io/part-of": order.name,
        "app.kubernetes.io/component": component,
        POOL: pool.name,
    }


def place_of(order: Order, pool: PoolPlan, rank: str = "0", first_port: int = HTTP) -> Place:
    """Of a pod: LeaderWorkerSet tells each of a group's where its leader is, and which one it is."""
    leader = "$(LWS_LEADER_ADDRESS)" if nodes(pool) > 1 else ""
    return Place(model=model_of(order.weights), address=POD_IP, rank=rank, leader=leader, first_port=first_port)


def pod(order: Order, pool: PoolPlan, place: Place) -> Object:
    """PodSpec of one process of an engine."""
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT, which vLLM reads
        "securityContext": UNPRIVILEGED,
        "terminationGracePeriodSeconds": 120,
        "containers": [engine(order, pool, place)],
        "volumes": volumes(order, pool),
    }
    if len({each.gpu for each in order.plan.pools}) > 1:
        spec["nodeSelector"] = {"pilothouse.io/gpu": pool.gpu}
    return spec


def engine(order: Order, pool: PoolPlan, place: Place, name: str = "engine") -> Object:
    container: Object = {
        "name": name,
        "image": order.images.engine,
        "command": ["vllm", "serve"],
        "args": [place.model, *words(order, pool, place)],
        "env": environment(order, pool, place),
        "resources": resources(pool),
        "volumeMounts": mounts(order, pool),
        "securityContext": LOCKED,
    }
    if place.rank == "0":
        container |= {"ports": [{"name": "http", "containerPort": place.port, "protocol": "TCP"}], **probes("http")}
    return container


def environment(order: Order, pool: PoolPlan, place: Place) -> list[Object]:
    """Names of variables that others refer to come first."""
    given = variables(pool, place) | {"HOME": HOME, "USER": "vllm"}  # a user without a name stops torch's compiler
    hub = {"secretKeyRef": {"name": HUB_SECRET, "key": "token", "optional": True}}
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *({"name": key, "value": value} for key, value in given.items()),
        *([{"name": "HF_TOKEN", "valueFrom": hub}] if order.weights.scheme == "hf" else []),
    ]


def resources(pool: PoolPlan) -> Object:
    """Memory is that of weights on their way and of the KV tier in DRAM, which counts as the pod's."""
    gpus = gpus_here(pool)
    memory = f"{MEMORY_GIB_PER_GPU * gpus + SHM_GIB + _dram_gib(pool)}Gi"
    device = {_device(pool.gpu): str(gpus)}
    return {
        "requests": {"cpu": str(CPU_PER_GPU * gpus), "memory": memory, **device},
        "limits": {"memory": memory, **device},
    }


def probes(port: str) -> Object:
    """Not ready at once if it does not answer; started anew only if it does not for a minute."""
    get = {"path": "/health", "port": port}
    return {
        "startupProbe": {"httpGet": get, "periodSeconds": 10, "failureThreshold": STARTING_S // 10},
        "readinessProbe": {"httpGet": get, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
        "livenessProbe": {"httpGet": get, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def volumes(order: Order, pool: PoolPlan) -> list[Object]:
    found: list[Object] = [
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHM_GIB + _dram_gib(pool)}Gi"}},
    ]
    if disk := _disk_gib(pool):
        found.append({"name": "kv", "emptyDir": {"sizeLimit": f"{disk}Gi"}})
    match order.weights.scheme:
        case "pvc":
            claim = {"claimName": order.weights.rest.split("/")[0], "readOnly": True}
            found.append({"name": "models", "persistentVolumeClaim": claim})
        case "oci":
            found.append({"name": "models", "image": {"reference": order.weights.rest, "pullPolicy": "IfNotPresent"}})
        case "":
            found.append({"name": "models", "hostPath": {"path": order.weights.uri, "type": "Directory"}})
    return found


def mounts(order: Order, pool: PoolPlan) -> list[Object]:
    found: list[Object] = [
        {"name": "home", "mountPath": HOME},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if _disk_gib(pool):
        found.append({"name": "kv", "mountPath": DISK_FOLDER})
    if order.weights.scheme != "hf":
        folder = "/models" if order.weights.scheme else order.weights.uri
        found.append({"name": "models", "mountPath": folder, "readOnly": True})
    return found


def _device(gpu: str) -> str:
    return next((name for start, name in DEVICES.items() if gpu.startswith(start)), "nvidia.com/gpu")


def _dram_gib(pool: PoolPlan) -> int:
    """Of each node, rounded up."""
    return _gib(sum(size for tier, size in pool.tiers.items() if tier in DRAM) / nodes(pool))


def _disk_gib(pool: PoolPlan) -> int:
    return _gib(sum(size for tier, size in pool.tiers.items() if tier in DISK) / nodes(pool))


def _gib(gigabytes: float) -> int:
    return -int(-gigabytes * 10**9 // (1 << 30))


def deployed(name: str, marks: dict[str, str], spec: dict[str, Any]) -> Object:
    """A Deployment's skeleton around a pod."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": marks},
        "spec": {
            "selector": {"matchLabels": marks},
            "template": {"metadata": {"labels": marks}, "spec": spec},
        },
    }
