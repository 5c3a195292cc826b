"""Target compose: one machine, a container per engine and one for the gateway."""

from typing import Any

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests import gateway
from pilothouse.plan.manifests.files import File, Object, yaml_file
from pilothouse.plan.manifests.flags import HTTP, Place, model_of, variables, words
from pilothouse.plan.manifests.order import Order
from pilothouse.plan.manifests.placing import Seat, seats

UID = 1000
HUB_FOLDER = "/var/cache/huggingface"
STARTING_S = 1800  # large models load for many minutes


def render(order: Order) -> list[File]:
    """Raises ConfigError for what one machine cannot hold."""
    _refuse(order)
    taken = seats(order)
    services = {seat.name: _engine(order, seat) for seat in taken}
    urls = {
        pool.name: [f"http://{seat.name}:{HTTP}" for seat in taken if seat.pool is pool] for pool in order.plan.pools
    }
    places = {name: gateway.by_address(found) for name, found in urls.items()}
    document: Object = {"name": order.name, "services": {**services, "gateway": _gateway(order, list(services))}}
    if order.weights.scheme == "hf":
        document["volumes"] = {"hub": {}}
    return [yaml_file("compose.yaml", document), gateway.gateway_file(order, places, "0.0.0.0")]


def _refuse(order: Order) -> None:
    if order.weights.scheme not in ("", "hf"):
        what = f"{order.weights.uri}: outside Kubernetes weights are a directory or hf://owner/name"
        raise ConfigError([Problem("--weights", what)])
    if any(seat.machine for seat in seats(order)):
        there = max(pool.gpus_per_node for pool in order.plan.pools)
        what = f"{order.plan.gpus} GPUs, and compose runs on one machine of {there}"
        raise ConfigError([Problem("pools", f"{what}: use --target vllm with --host, or kubernetes")])


def _engine(order: Order, seat: Seat) -> dict[str, Any]:
    """In its own network namespace each engine has the ports of a first one."""
    place = Place(model=model_of(order.weights), address=seat.name)
    local = order.weights.scheme != "hf"
    mount = f"{order.weights.uri}:{order.weights.uri}:ro" if local else f"hub:{HUB_FOLDER}"
    devices = {"driver": "nvidia", "device_ids": [str(gpu) for gpu in seat.gpus], "capabilities": ["gpu"]}
    environment = variables(seat.pool, place) | ({} if local else {"HF_HOME": HUB_FOLDER, "HF_TOKEN": "${HF_TOKEN:-}"})
    probe = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{place.port}/health', timeout=5)"
    return {
        "image": order.images.engine,
        "entrypoint": ["vllm", "serve"],
        "command": [_literal(word) for word in (place.model, *words(order, seat.pool, place))],
        "environment": environment,
        "volumes": [mount],
        "shm_size": "16gb",  # NCCL's rings between the GPUs of one engine
        "deploy": {"resources": {"reservations": {"devices": [devices]}}},
        "healthcheck": {
            "test": ["CMD", "python3", "-c", probe],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": f"{STARTING_S}s",
        },
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
    }


def _literal(word: str) -> str:
    """Compose would put variables of the shell in place of what begins with a dollar."""
    return word.replace("$", "$$")


def _gateway(order: Order, engines: list[str]) -> dict[str, Any]:
    """Starts at once: an engine that is not there yet is one that is not healthy yet."""
    return {
        "image": order.images.gateway,
        "command": ["serve", "--config", "/etc/pilothouse/pilothouse.yaml"],
        "ports": [f"{gateway.LISTEN}:{gateway.LISTEN}", f"127.0.0.1:{gateway.CONTROL}:{gateway.CONTROL}"],
        "volumes": [f"./{gateway.PATH}:/etc/pilothouse/pilothouse.yaml:ro"],
        "depends_on": {name: {"condition": "service_started"} for name in engines},
        "restart": "unless-stopped",
        "user": f"{UID}:{UID}",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
    }
