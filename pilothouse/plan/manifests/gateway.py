"""Pilothouse's own configuration for plans: the same pools, roles and connectors."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pilothouse.config.load import from_data
from pilothouse.core.errors import ConfigError, Problem
from pilothouse.live.launch_connector import LOOPBACK
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import File, yaml_text
from pilothouse.plan.manifests.flags import HTTP, connector
from pilothouse.plan.manifests.order import Fleet, Order
from pilothouse.plan.manifests.sizes import starting_s

LISTEN, CONTROL = 8080, 9090
PATH = "pilothouse.yaml"


def by_address(urls: list[str]) -> dict[str, Any]:
    """Where engines are that have fixed addresses."""
    return {"endpoints": [{"url": url} for url in urls]}


def by_name(host: str, port: int = HTTP) -> dict[str, Any]:
    """Where engines are that one DNS name stands for."""
    return {"dns": {"name": host, "port": port}}


def gateway_file(
    fleet: Fleet,
    places: Mapping[str, dict[str, Any]],
    listen: str,
    path: str = PATH,
    tokenizers: Mapping[str, str] = MappingProxyType({}),
) -> File:
    """`places`: pool -> where its engines are; `tokenizers`: plan -> folder that the gateway reads.

    Raises ConfigError if the plans' own settings do not load, or contradict each other.
    """
    settings: dict[str, Any] = {
        "listen": f"{listen}:{LISTEN}",
        "control": f"{listen}:{CONTROL}",
        "policy": fleet.orders[0].plan.policy,
    }
    if any(scaling.replicas_min == 0 for scaling in fleet.ground.scaling):
        pools = [(order, pool) for order, pool in fleet.pools if fleet.ground.scaling_of(pool.name)]
        settings["timeouts"] = {"waiting": f"{max(starting_s(order, pool) for order, pool in pools)}s"}
    own = _own(fleet)
    if fixed := [name for name in ("listen", "control") if name in own and listen != LOOPBACK]:
        what = "probes and Services go by what is set here: leave it out"
        raise ConfigError([Problem(f"gateway.{name}", what) for name in fixed])
    if isinstance(own.get("timeouts"), dict):
        own = own | {"timeouts": settings.get("timeouts", {}) | own["timeouts"]}
    settings |= own
    settings["pools"] = [_pool(order, pool, places[pool.name], tokenizers) for order, pool in fleet.pools]
    text = yaml_text(settings)
    try:
        from_data(settings, path)
    except ConfigError as error:
        raise ConfigError([Problem(_of_plan(each.where, path, own), each.what) for each in error.problems]) from None
    return File(path, text)


def _of_plan(where: str, path: str, own: Mapping[str, Any]) -> str:
    """The place in a plan that a place in the gateway's configuration comes from."""
    place = where.removeprefix(f"{path}: ")
    name = re.split(r"[.\[]", place)[0]
    return f"gateway.{place}" if name in own else place if name == "policy" else where


def _own(fleet: Fleet) -> dict[str, Any]:
    """What plans say of the gateway themselves."""
    found: dict[str, Any] = {}
    for order in fleet.orders:
        for name, value in order.plan.gateway.items():
            if found.setdefault(name, value) != value:
                raise ConfigError([Problem(f"gateway.{name}", "differs between the plans, and there is one gateway")])
    if "pools" in found:
        raise ConfigError([Problem("gateway.pools", "is made of the plan's pools: leave it out")])
    return found


def _pool(order: Order, pool: PoolPlan, place: dict[str, Any], tokenizers: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {"name": pool.name, **place, "models": [order.served]}
    if order.name in tokenizers:
        settings["tokenizer"] = tokenizers[order.name]
    settings["labels"] = {"gpu": pool.gpu}
    if given := connector(order, pool):
        settings |= {"role": pool.role.value, "connector": given}
    return settings
