"""What manifests want of whoever applies them, one line each: operators, secrets, checkpoints, networks."""

from collections.abc import Iterator

from pilothouse.plan.manifests.accelerators import known
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.flags import EVENTS, REPLAY
from pilothouse.plan.manifests.order import Fleet, nodes
from pilothouse.plan.manifests.pods import HUB_SECRET

OPERATORS = {  # apiVersion's beginning -> who serves it
    "leaderworkerset.x-k8s.io": "LeaderWorkerSet",
    "serving.kserve.io": "KServe",
    "keda.sh": "KEDA",
    "monitoring.coreos.com": "prometheus-operator",
    "inference.networking.k8s.io": "Gateway API inference extension",
    "llm-d.ai": "llm-d router (its CRDs)",
    "gateway.networking.k8s.io": "Gateway API",
}


def needs(fleet: Fleet, files: list[File]) -> Iterator[str]:
    text = "".join(file.text for file in files)
    if found := [name for group, name in OPERATORS.items() if f"apiVersion: {group}" in text]:
        yield f"the cluster needs: {', '.join(found)}"
    for label in dict.fromkeys(known(pool.gpu).label for _, pool in fleet.pools):
        if f"key: {label}" in text:
            gpus = [known(pool.gpu) for _, pool in fleet.pools]
            products = [name for gpu in gpus if gpu.label == label for name in gpu.products]
            yield f"nodes need the label {label} = {' or '.join(dict.fromkeys(products))}"
    yield from _of_weights(fleet, text)
    if any(file.path.endswith(".sh") for file in files):
        yield (
            f"KV events, which carry token ids, are published on every interface (ports from {EVENTS} and {REPLAY} on): "
            "let the gateway alone reach them"
        )
    if "wva:" in text:
        yield "KServe scales by the gauge wva_desired_replicas: run llm-d's workload variant autoscaler"
    if "X-Gateway-Model-Name" in text:
        yield "the route tells models by the header X-Gateway-Model-Name: run the body-based router beside the Gateway"
    far = any(pool.connector or nodes(pool) > 1 for _, pool in fleet.pools)
    if far and not fleet.ground.rdma and "kind: " in text:
        yield "KV or activations go over the pods' network: --rdma RESOURCE gives engines a card of their own"


def _of_weights(fleet: Fleet, text: str) -> Iterator[str]:
    for order in fleet.orders:
        if order.weights.scheme == "hf" and HUB_SECRET in text:
            yield f"{order.weights.uri} is fetched by each engine; if it is gated: Secret {HUB_SECRET}, key token"
        if order.weights.scheme == "pvc":
            yield f"the claim {order.weights.claim} must be mountable by several nodes (ReadOnlyMany or ReadWriteMany)"
        for pool in order.plan.pools:
            if pool.precision == "fp8" and not order.stored_small:
                yield (
                    f"{pool.name}: engines make FP8 of {order.weights.uri} while they load; a checkpoint stored so "
                    "(--weights) is half the download and may answer better"
                )
