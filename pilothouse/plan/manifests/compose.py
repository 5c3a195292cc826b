"""Target compose: one machine, a container per engine and one for the gateway."""

from typing import Any

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.manifests import gateway
from pilothouse.plan.manifests.accelerators import known
from pilothouse.plan.manifests.files import File, Object, yaml_file
from pilothouse.plan.manifests.flags import DISK_FOLDER, DRAIN_S, HTTP, Place, model_of, variables, words
from pilothouse.plan.manifests.order import Fleet, Order
from pilothouse.plan.manifests.placing import Seat, seats
from pilothouse.plan.manifests.serving_pod import UID
from pilothouse.plan.manifests.sizes import SHM_GIB, disk_gib, dram_gib, starting_s
from pilothouse.plan.manifests.vllm import refuse_claims

HUB_FOLDER = "/var/cache/huggingface"
UNPRIVILEGED = {"security_opt": ["no-new-privileges:true"], "cap_drop": ["ALL"]}


def render(fleet: Fleet) -> list[File]:
    """Raises ConfigError for what one machine cannot hold."""
    refuse_claims(fleet)
    taken = seats(fleet)
    if len({seat.machine for seat in taken}) > 1:
        gpus = " and ".join(f"{pool.replicas * pool.layout.gpus} {pool.gpu}" for _, pool in fleet.pools)
        what = f"{gpus} are more than one machine, and compose runs on one"
        raise ConfigError([Problem("pools", f"{what}: use --target vllm with --host, or kubernetes")])
    named = [seat.name for seat in taken]
    urls = {pool.name: [f"http://{seat.name}:{HTTP}" for seat in taken if seat.pool is pool] for _, pool in fleet.pools}
    places = {name: gateway.by_address(found) for name, found in urls.items()}
    services = {seat.name: _engine(seat) for seat in taken} | {"gateway": _gateway(fleet, named)}
    document: Object = {"name": fleet.name, "services": services}
    volumes = {"hub": None} if any(order.weights.scheme == "hf" for order in fleet.orders) else {}
    volumes |= {f"kv-{seat.name}": None for seat in taken if disk_gib(seat.pool)}
    if volumes:
        document["volumes"] = volumes
    return [yaml_file("compose.yaml", _literal(document)), gateway.gateway_file(fleet, places, "0.0.0.0")]


def _literal(value: Any) -> Any:
    """Compose would put variables of the shell in place of what begins with a dollar."""
    if isinstance(value, dict):
        return {name: _literal(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def _engine(seat: Seat) -> Object:
    """In its own network namespace each engine has the ports of a first one."""
    order, pool = seat.order, seat.pool
    place = Place(model=model_of(order.weights), address=seat.name)
    environment: dict[str, str | None] = {**variables(pool, place)}
    if not known(pool.gpu).device:
        environment[known(pool.gpu).visible] = ",".join(map(str, seat.gpus))
    if order.weights.scheme == "hf":
        environment |= {"HF_HOME": HUB_FOLDER, "HF_TOKEN": None}  # None: as the shell has it
    mounts = [_weights(order, read_only=False)]
    if disk_gib(pool):
        mounts.append({"type": "volume", "source": f"kv-{seat.name}", "target": DISK_FOLDER})
    probe = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{place.port}/health', timeout=5)"
    return {
        "image": order.ground.images.of(known(pool.gpu).image),
        "entrypoint": ["vllm", "serve"],
        "command": [place.model, *words(order, pool, place)],
        "environment": environment,
        "volumes": mounts,
        "shm_size": f"{SHM_GIB + dram_gib(pool)}gb",
        **_gpus(seat),
        "healthcheck": {
            "test": ["CMD", "python3", "-c", probe],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": f"{starting_s(order, pool)}s",
        },
        "stop_grace_period": f"{DRAIN_S + 15}s",
        "restart": "unless-stopped",
        **UNPRIVILEGED,
    }


def _weights(order: Order, *, read_only: bool) -> Object:
    if order.weights.scheme == "hf":
        return {"type": "volume", "source": "hub", "target": HUB_FOLDER, "read_only": read_only}
    return {"type": "bind", "source": order.weights.uri, "target": order.weights.uri, "read_only": True}


def _gpus(seat: Seat) -> Object:
    """Those of its seat. AMD's are all there, and a variable picks some."""
    gpu, numbers = known(seat.pool.gpu), [str(number) for number in seat.gpus]
    if gpu.device:
        wanted = {"driver": gpu.device, "device_ids": numbers, "capabilities": ["gpu"]}
        return {"deploy": {"resources": {"reservations": {"devices": [wanted]}}}}
    return {"devices": ["/dev/kfd", "/dev/dri"], "group_add": ["video", "render"]}


def _gateway(fleet: Fleet, engines: list[str]) -> Object:
    """Starts at once: an engine that is not there yet is one that is not healthy yet. Weights: for the tokenizer."""
    folder = "/etc/pilothouse"
    config = {"type": "bind", "source": f"./{gateway.PATH}", "target": f"{folder}/{gateway.PATH}", "read_only": True}
    weights = {order.weights.scheme or order.weights.uri: _weights(order, read_only=True) for order in fleet.orders}
    return {
        "image": fleet.ground.images.gateway,
        "command": ["serve", "--config", f"{folder}/{gateway.PATH}"],
        "environment": {"HF_HOME": HUB_FOLDER} if "hf" in weights else {},
        "ports": [f"{gateway.LISTEN}:{gateway.LISTEN}", f"127.0.0.1:{gateway.CONTROL}:{gateway.CONTROL}"],
        "volumes": [config, *weights.values()],
        "depends_on": {name: {"condition": "service_started"} for name in engines},
        "restart": "unless-stopped",
        "user": f"{UID}:{UID}",
        "read_only": True,
        "tmpfs": ["/tmp"],
        **UNPRIVILEGED,
    }
