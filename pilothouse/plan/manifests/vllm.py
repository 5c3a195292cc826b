"""Target vllm: a shell script per machine with its engines' command lines, and the gateway's configuration."""

import shlex

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.launch_connector import LOOPBACK
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.flags import Place, model_of, variables, words
from pilothouse.plan.manifests.gateway import by_address, gateway_file
from pilothouse.plan.manifests.order import Order, nodes
from pilothouse.plan.manifests.placing import Seat, seats


def render(order: Order) -> list[File]:
    """Raises ConfigError for weights that need an orchestrator, and for too few machines."""
    if order.weights.scheme not in ("", "hf"):
        what = f"{order.weights.uri}: outside Kubernetes weights are a directory or hf://owner/name"
        raise ConfigError([Problem("--weights", what)])
    hosts = order.hosts or (LOOPBACK,)
    taken = seats(order, len(hosts))
    urls: dict[str, list[str]] = {pool.name: [] for pool in order.plan.pools}
    scripts: dict[int, list[str]] = {}
    for seat in taken:
        place = place_of(seat, hosts, model_of(order.weights))
        scripts.setdefault(seat.machine, []).append(_command(order, seat, place))
        if seat.rank == 0:
            urls[seat.pool.name].append(f"http://{place.address}:{place.port}")
    files = [
        File(f"node-{machine}.sh", _script(order, hosts[machine], commands)) for machine, commands in scripts.items()
    ]
    return [*files, gateway_file(order, {name: by_address(found) for name, found in urls.items()}, LOOPBACK)]


def place_of(seat: Seat, hosts: tuple[str, ...], model: str) -> Place:
    host = hosts[seat.machine]
    return Place(
        model=model,
        number=seat.number,
        address=host,
        listen=LOOPBACK if host == LOOPBACK else "0.0.0.0",
        rank=str(seat.rank),
        leader=hosts[seat.leader] if nodes(seat.pool) > 1 else "",
    )


def _command(order: Order, seat: Seat, place: Place) -> str:
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, seat.gpus)),
        **variables(seat.pool, place),
    }
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return f"# {seat.name}\n{' '.join(settings)} \\\n  {shlex.join(command(order, seat, place))} &"


def command(order: Order, seat: Seat, place: Place) -> list[str]:
    return ["vllm", "serve", place.model, *words(order, seat.pool, place)]


def _script(order: Order, host: str, commands: list[str]) -> str:
    """Ends its engines when it is ended; ends when one of them does, so that whoever watches it sees that."""
    head = (
        f"#!/usr/bin/env bash\n# Engines of the plan {order.name} on {host}. The gateway: pilothouse serve\nset -eu\n"
    )
    return "\n".join([head + "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *commands, "wait -n"]) + "\n"
