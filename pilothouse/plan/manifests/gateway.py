"""Pilothouse's own configuration for a plan: the same pools, roles and connectors."""

from collections.abc import Mapping
from typing import Any

from pilothouse.config.load import from_data
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.files import File, yaml_text
from pilothouse.plan.manifests.flags import HTTP, connector
from pilothouse.plan.manifests.order import Order

LISTEN, CONTROL = 8080, 9090
PATH = "pilothouse.yaml"


def by_address(urls: list[str]) -> dict[str, Any]:
    """Where engines are that have fixed addresses."""
    return {"endpoints": [{"url": url} for url in urls]}


def by_name(host: str, port: int = HTTP) -> dict[str, Any]:
    """Where engines are that one DNS name stands for."""
    return {"dns": {"name": host, "port": port}}


def gateway_file(order: Order, places: Mapping[str, dict[str, Any]], listen: str, path: str = PATH) -> File:
    """`places`: pool name -> where its engines are. Raises ConfigError if the plan's own settings do not load."""
    settings = {
        "listen": f"{listen}:{LISTEN}",
        "control": f"{listen}:{CONTROL}",
        "policy": order.plan.policy,
        **order.plan.gateway,
        "pools": [_pool(order, pool, places[pool.name]) for pool in order.plan.pools],
    }
    text = yaml_text(settings)
    from_data(settings, path)
    return File(path, text)


def _pool(order: Order, pool: PoolPlan, place: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"name": pool.name, **place, "models": [order.served]}
    if given := connector(order, pool):
        settings |= {"role": pool.role.value, "connector": given}
    return settings
