"""Target vllm: a shell script per machine with its engines' command lines, and the gateway's configuration."""

import shlex

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.launch_connector import LOOPBACK
from pilothouse.plan.manifests.accelerators import known
from pilothouse.plan.manifests.files import File
from pilothouse.plan.manifests.flags import Place, model_of, variables, words
from pilothouse.plan.manifests.gateway import PATH, by_address, gateway_file
from pilothouse.plan.manifests.order import Fleet, nodes
from pilothouse.plan.manifests.placing import Seat, seats


def render(fleet: Fleet) -> list[File]:
    """Raises ConfigError for weights that need an orchestrator, and for too few machines."""
    refuse_claims(fleet)
    hosts = fleet.ground.hosts or (LOOPBACK,)
    taken = seats(fleet, len(hosts))
    urls: dict[str, list[str]] = {pool.name: [] for _, pool in fleet.pools}
    scripts: dict[int, list[str]] = {}
    for seat in taken:
        place = place_of(seat, hosts)
        scripts.setdefault(seat.machine, []).append(_command(seat, place))
        if seat.rank == 0:
            urls[seat.pool.name].append(f"http://{place.address}:{place.port}")
    files = [
        File(f"node-{machine}.sh", _script(fleet, hosts[machine], kind_of(taken, machine), commands))
        for machine, commands in scripts.items()
    ]
    return [*files, gateway_file(fleet, {name: by_address(found) for name, found in urls.items()}, LOOPBACK)]


def refuse_claims(fleet: Fleet) -> None:
    """Raises ConfigError for weights that only Kubernetes can mount."""
    if claims := [order.weights.uri for order in fleet.orders if order.weights.scheme not in ("", "hf")]:
        what = "outside Kubernetes weights are a directory or hf://owner/name"
        raise ConfigError([Problem("--weights", f"{uri}: {what}") for uri in claims])


def kind_of(taken: list[Seat], machine: int) -> str:
    """Of the GPUs of a machine."""
    return next(seat.pool.gpu for seat in taken if seat.machine == machine)


def place_of(seat: Seat, hosts: tuple[str, ...]) -> Place:
    host = hosts[seat.machine]
    return Place(
        model=model_of(seat.order.weights),
        number=seat.number,
        address=host,
        listen=LOOPBACK if host == LOOPBACK else "0.0.0.0",
        rank=str(seat.rank),
        leader=hosts[seat.leader] if nodes(seat.pool) > 1 else "",
    )


def _command(seat: Seat, place: Place) -> str:
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        known(seat.pool.gpu).visible: ",".join(map(str, seat.gpus)),
        **variables(seat.pool, place),
    }
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return f"# {seat.name}\n{' '.join(settings)} \\\n  {shlex.join(command(seat, place))} &"


def command(seat: Seat, place: Place) -> list[str]:
    return ["vllm", "serve", place.model, *words(seat.order, seat.pool, place)]


def _script(fleet: Fleet, host: str, gpu: str, commands: list[str]) -> str:
    """Ends its engines when it is ended; ends when one of them does, so that whoever watches it sees that."""
    head = f"""#!/usr/bin/env bash
# Engines of {fleet.name} on {host}, GPUs: {shlex.quote(gpu)}. The gateway: pilothouse serve --config {PATH}
set -eu
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 143' TERM INT"""
    return "\n".join([head, *commands, "wait -n"]) + "\n"
