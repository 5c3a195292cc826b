"""What `pilothouse manifests` is told by its options, made into a fleet on its ground."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import Plan
from pilothouse.plan.manifests.ground import Ground, Priority, Scaling, Site
from pilothouse.plan.manifests.images import Images
from pilothouse.plan.manifests.order import Adapter, Fleet, Order, Weights, spelled
from pilothouse.plan.manifests.sites import read_sites

SCALE = re.compile(r"([^:]+):(\d{1,4})-(\d{1,4})(?:@([1-9]\d{0,5}))?")


@dataclass(frozen=True, slots=True)
class Said:
    """Options as they were given."""

    name: str
    weights: tuple[str, ...]
    images: tuple[str, ...]
    sites: tuple[str, ...]
    sites_file: Path | None
    hosts: tuple[str, ...]
    adapters: tuple[str, ...]
    scales: tuple[str, ...]
    objectives: tuple[str, ...]
    namespace: str
    gateway: str
    prometheus: str
    rdma: str


def fleet_of(plans: Sequence[Plan], said: Said) -> Fleet:
    """Raises ConfigError for an option that does not say what it should."""
    sites = [*(Site(name=name) for name in said.sites), *(read_sites(said.sites_file) if said.sites_file else [])]
    ground = Ground(
        images=_images(said.images),
        hosts=said.hosts,
        sites=tuple(sites),
        scaling=tuple(_scaling(text) for text in said.scales),
        objectives=tuple(_priority(text) for text in said.objectives),
        namespace=said.namespace,
        gateway=said.gateway,
        prometheus=said.prometheus,
        rdma=said.rdma,
    )
    adapters = tuple(Adapter(name, uri) for name, uri in (_pair("--lora", text) for text in said.adapters))
    if adapters and len(plans) > 1:
        raise ConfigError([Problem("--lora", f"for which of {_names(plans)}? Write them out one by one")])
    weights, name = _weights(plans, said.weights), _name(plans, said.name)
    if said.name and len(plans) == 1:
        plans = [replace(plans[0], name=said.name)]
    orders = [
        Order(plan=plan, weights=Weights(uri), adapters=adapters, fleet=name, ground=ground)
        for plan, uri in zip(plans, weights, strict=True)
    ]
    return Fleet(tuple(orders))


def _names(plans: Sequence[Plan]) -> str:
    return ", ".join(plan.name for plan in plans)


def _name(plans: Sequence[Plan], given: str) -> str:
    """One plan's own; of several the blueprint's that they are of."""
    if given or len(plans) == 1:
        return spelled(given or plans[0].name)
    blueprints = {plan.blueprint for plan in plans}
    return spelled(blueprints.pop() or "fleet") if len(blueprints) == 1 else "fleet"


def _weights(plans: Sequence[Plan], given: tuple[str, ...]) -> list[str]:
    """URI for one plan, PLAN=URI for several."""
    if len(given) == len(plans) == 1 and not re.match(r"[^/:=]+=", given[0]):
        return [given[0]]
    told = dict(_pair("--weights", text) for text in given)
    names = [plan.name for plan in plans]
    if strangers := [name for name in told if name not in names]:
        raise ConfigError([Problem("--weights", f"no plan {name!r}, there are: {_names(plans)}") for name in strangers])
    return [told.get(plan.name) or _default_weights(plan.model) for plan in plans]


def _default_weights(model: str) -> str:
    """A directory, or the hub's name of a model of the catalogue, or a hub name as it stands."""
    from pilothouse.perf.catalog import model_named

    if model.startswith(("/", "./", "../")):
        return str(Path(model).resolve())
    if "/" in model:
        return f"hf://{model}"
    try:
        return f"hf://{model_named(model).name}"
    except KeyError as error:
        raise ConfigError([Problem("model", f"{error.args[0]}; or say --weights hf://owner/name")]) from None


def _images(given: tuple[str, ...]) -> Images:
    images, roles = Images(), Images.roles()
    for text in given:
        role, image = _pair("--image", text)
        if role not in roles:
            raise ConfigError([Problem("--image", f"{role!r} is none of {', '.join(roles)}")])
        images = replace(images, **{role.replace("-", "_"): image})
    return images


def _scaling(text: str) -> Scaling:
    pool, said = _pair("--scale", text)
    found = SCALE.fullmatch(said)
    if found is None:
        raise ConfigError([Problem("--scale", f"{text!r} is not POOL=CLASS:MIN-MAX[@REQUESTS], e.g. batch=bulk:0-8")])
    return Scaling(pool, found[1], int(found[2]), int(found[3]), int(found[4] or 0))


def _priority(text: str) -> Priority:
    name, number = _pair("--objective", text)
    if not re.fullmatch(r"-?\d{1,6}", number):
        raise ConfigError([Problem("--objective", f"{text!r} is not CLASS=PRIORITY, e.g. interactive=100")])
    return Priority(name, int(number))


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise ConfigError([Problem(option, f"{text!r} is not NAME=VALUE")])
    return name, value
