"""The pod of an engine, which Kubernetes targets share: image, flags, probes, resources, volumes, rights, where it may run."""

from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.accelerators import known
from pilothouse.plan.manifests.files import Object
from pilothouse.plan.manifests.flags import DISK_FOLDER, DRAIN_S, HTTP, Place, model_of, variables, words
from pilothouse.plan.manifests.order import Order, gpus_here, nodes
from pilothouse.plan.manifests.serving_pod import LOCKED, NAME, PART, PART_OF, UNPRIVILEGED
from pilothouse.plan.manifests.sizes import (
    CPU_PER_GPU,
    MEMORY_GIB_PER_GPU,
    SHM_GIB,
    disk_gib,
    dram_gib,
    scratch_gib,
    starting_s,
)

HOME = "/var/cache/home"
HUB_SECRET = "hub-token"  # optional: key `token`
LEAVING_S = 15  # until nobody sends requests any more: the gateway resolves names every 10 s
POD_IP = "$(POD_IP)"
PLAN, POOL = "pilothouse.io/plan", "pilothouse.io/pool"  # labels


def labels(order: Order, pool: PoolPlan, component: str = "engine") -> dict[str, str]:
    return {NAME: "vllm", PART_OF: order.part_of, PART: component, PLAN: order.name, POOL: pool.name}


def place_of(order: Order, pool: PoolPlan, rank: str = "0", first_port: int = HTTP) -> Place:
    """Of a pod: LeaderWorkerSet tells each of a group's where its leader is, and which one it is."""
    leader = "$(LWS_LEADER_ADDRESS)" if nodes(pool) > 1 else ""
    return Place(model=model_of(order.weights), address=POD_IP, rank=rank, leader=leader, first_port=first_port)


def pod(order: Order, pool: PoolPlan, place: Place) -> Object:
    """PodSpec of one process of an engine."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT, which vLLM reads
        "securityContext": UNPRIVILEGED,
        "terminationGracePeriodSeconds": LEAVING_S + DRAIN_S + 15,
        **where(order, pool),
        "containers": [engine(order, pool, place)],
        "volumes": volumes(order, pool),
    }


def engine(order: Order, pool: PoolPlan, place: Place, name: str = "engine") -> Object:
    container: Object = {
        "name": name,
        "image": order.ground.images.of(known(pool.gpu).image),
        "command": ["vllm", "serve"],
        "args": [_literal(word, place) for word in (place.model, *words(order, pool, place))],
        "env": environment(order, pool, place),
        "resources": resources(order, pool),
        "volumeMounts": mounts(order, pool),
        "securityContext": _rights(order, pool),
    }
    if place.rank == "0":
        container |= {
            "ports": [{"name": "http", "containerPort": place.port, "protocol": "TCP"}],
            **probes("http", starting_s(order, pool)),
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVING_S)]}}},
        }
    return container


def _literal(word: str, place: Place) -> str:
    """Kubernetes would put variables in place of what looks like one."""
    return word if word in (place.leader, place.rank) else word.replace("$(", "$$(")


def environment(order: Order, pool: PoolPlan, place: Place) -> list[Object]:
    """Names of variables that others refer to come first."""
    given = variables(pool, place) | {"HOME": HOME, "USER": "vllm"}  # a user without a name stops torch's compiler
    hub = {"secretKeyRef": {"name": HUB_SECRET, "key": "token", "optional": True}}
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *({"name": key, "value": value} for key, value in given.items()),
        *([{"name": "HF_TOKEN", "valueFrom": hub}] if order.weights.scheme == "hf" else []),
    ]


def resources(order: Order, pool: PoolPlan) -> Object:
    """Memory is that of weights on their way and of the KV tier in DRAM, which counts as the pod's."""
    gpus = gpus_here(pool)
    memory = f"{MEMORY_GIB_PER_GPU * gpus + SHM_GIB + dram_gib(pool)}Gi"
    device = {known(pool.gpu).resource: str(gpus)}
    if _over_rdma(order, pool):
        device[order.ground.rdma] = "1"
    scratch = f"{scratch_gib(order, pool) + disk_gib(pool)}Gi"
    return {
        "requests": {"cpu": str(CPU_PER_GPU * gpus), "memory": memory, "ephemeral-storage": scratch, **device},
        "limits": {"memory": memory, **device},
    }


def probes(port: str, start_s: int) -> Object:
    """Not ready at once if it does not answer; started anew only if it does not for a minute."""
    get = {"path": "/health", "port": port}
    return {
        "startupProbe": {"httpGet": get, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": start_s // 10},
        "readinessProbe": {"httpGet": get, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
        "livenessProbe": {"httpGet": get, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def volumes(order: Order, pool: PoolPlan) -> list[Object]:
    found: list[Object] = [
        {"name": "home", "emptyDir": {"sizeLimit": f"{scratch_gib(order, pool)}Gi"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHM_GIB + dram_gib(pool)}Gi"}},
    ]
    if disk := disk_gib(pool):
        found.append({"name": "kv", "emptyDir": {"sizeLimit": f"{disk}Gi"}})
    match order.weights.scheme:
        case "pvc":
            claim = {"claimName": order.weights.claim, "readOnly": True}
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
    if disk_gib(pool):
        found.append({"name": "kv", "mountPath": DISK_FOLDER})
    if order.weights.scheme != "hf":
        folder = "/models" if order.weights.scheme else order.weights.uri
        found.append({"name": "models", "mountPath": folder, "readOnly": True})
    return found


def where(order: Order, pool: PoolPlan) -> Object:
    """On nodes with that GPU, taints or not; engines of a pool apart, pools that exchange KV close to each other."""
    gpu = known(pool.gpu)
    one_of = {"matchExpressions": [{"key": gpu.label, "operator": "In", "values": list(gpu.products)}]}
    affinity: Object = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [one_of]}}
    }
    if pool.connector:
        near = {"labelSelector": {"matchLabels": {PLAN: order.name}}, "topologyKey": "topology.kubernetes.io/zone"}
        wanted = [{"weight": 100, "podAffinityTerm": near}]
        affinity["podAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": wanted}
    found: Object = {
        "affinity": affinity,
        "tolerations": [{"key": gpu.resource, "operator": "Exists", "effect": "NoSchedule"}],
    }
    if nodes(pool) == 1:
        spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        alike = {PLAN: order.name, POOL: pool.name}
        found["topologySpreadConstraints"] = [{**spread, "labelSelector": {"matchLabels": alike}}]
    return found


def _over_rdma(order: Order, pool: PoolPlan) -> bool:
    return bool(order.ground.rdma) and (bool(pool.connector) or nodes(pool) > 1)


def _rights(order: Order, pool: PoolPlan) -> Object:
    """A network card writes to memory that is locked."""
    if not _over_rdma(order, pool):
        return LOCKED
    return LOCKED | {"capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}
