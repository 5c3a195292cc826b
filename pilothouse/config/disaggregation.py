"""Rules between pools of which some compute prompts for others."""

from pilothouse.config.schema import Config, Connector, Pool
from pilothouse.core.errors import Problem

CARRIERS = ("nixl", "nixl_push", "files", "mooncake", "mooncake_store", "lmcache", "offloading")
LEASE_US_MIN = 2_000_000  # of less, our own deadline before its end would leave no time to fetch anything


def problems(config: Config) -> list[Problem]:
    """What cannot work."""
    found = [problem for i, pool in enumerate(config.pools) for problem in _pool(pool, f"pools[{i}]")]
    if all(pool.role == "prefill" for pool in config.pools):
        found.append(Problem("pools", "no pool serves requests: all have the role prefill"))
    return found + _addresses(config)


def remarks(config: Config) -> list[Problem]:
    """What works, but hardly as meant."""
    found = []
    for i, pool in enumerate(config.pools):
        other = {"prefill": "decode", "decode": "prefill"}.get(pool.role)
        if other is None or pool.connector is None:
            continue
        partners = [p for p in config.pools if p.role == other and p.connector is not None]
        if not any(_hands_over(pool, partner) for partner in partners):
            there = ", ".join(f"{p.name} has {_kind(p)}" for p in partners) or "there is none"
            what = f"no {other} pool has the connector {_kind(pool)} for its models ({there}): no request will be split"
            found.append(Problem(f"pools[{i}].connector", what))
    return found


def _pool(pool: Pool, where: str) -> list[Problem]:
    connector = pool.connector
    if connector is None:
        if pool.role == "both":
            return []
        return [
            Problem(f"{where}.connector", f"a {pool.role} pool needs one: say how KV goes over, e.g. {{type: nixl}}")
        ]
    found = []
    if connector.lease < LEASE_US_MIN:
        found.append(Problem(f"{where}.connector.lease", "must be at least 2s, or there is no time to fetch anything"))
    if (connector.type == "sglang") != (pool.engine == "sglang"):
        found.append(Problem(f"{where}.connector.type", f"{connector.type} is not a connector of {pool.engine}"))
    if connector.type == "multi" and connector.carrier not in CARRIERS:
        what = f"unknown connector {connector.carrier!r}, known: {', '.join(CARRIERS)}"
        found.append(Problem(f"{where}.connector.carrier", what))
    elif connector.type != "multi" and connector.carrier != Connector(type="multi").carrier:
        found.append(Problem(f"{where}.connector.carrier", "is only for type multi"))
    return found


def _addresses(config: Config) -> list[Problem]:
    """An engine under two names would be taken for two, and could be asked to hand KV to itself."""
    found = []
    places: dict[str, tuple[str, str]] = {}
    for i, pool in enumerate(config.pools):
        for j, engine in enumerate(pool.endpoints):
            where, name = f"pools[{i}].endpoints[{j}]", engine.name or engine.url.removeprefix("http://")
            first, first_name = places.setdefault(engine.url, (where, name))
            if first != where and first_name != name:  # the same name twice is a problem by itself
                found.append(Problem(f"{where}.url", f"{engine.url} is there already, as {first}"))
    return found


def _hands_over(a: Pool, b: Pool) -> bool:
    """Of pools that do not say what they serve, the engines will."""
    one_model = not a.models or not b.models or bool(set(a.models) & set(b.models))
    return one_model and _kind(a) == _kind(b)


def _kind(pool: Pool) -> str:
    if pool.connector is None:
        return "none"
    return f"multi/{pool.connector.carrier}" if pool.connector.type == "multi" else pool.connector.type
