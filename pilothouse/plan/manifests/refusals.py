"""Why plans cannot be written out, whatever the target: every reason with its place."""

import re
from collections.abc import Iterator
from itertools import chain

from pilothouse.core.errors import Problem
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.layouts import indivisible
from pilothouse.plan.manifests.accelerators import accelerator
from pilothouse.plan.manifests.flags import pool_problems
from pilothouse.plan.manifests.ground import Ground
from pilothouse.plan.manifests.images import PINNED, UNFILLED, Images
from pilothouse.plan.manifests.order import Fleet, Order, Weights, nodes

NAME = re.compile(r"[a-z]([-a-z0-9]{0,22}[a-z0-9])?")  # a DNS label, short enough for what stands beside it
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PLACE = re.compile(r"[\w./-]+")  # of a claim and what lies in it
IMAGE = re.compile(r"[\w.:/@+-]+")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
PART = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LABEL_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{PART}")  # of nodes
LABEL_VALUE = re.compile(rf"({PART})?")
CLASS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
URL = re.compile(r"https?://[\w.-]+(:\d{1,5})?(/[\w./-]*)?")
RESOURCE = re.compile(r"[a-z0-9.-]+/[\w.-]+")
ADAPTER = re.compile(r"[\w./-]{1,128}")
PRINTED = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def problems(fleet: Fleet) -> list[Problem]:
    """What no target can write out."""
    found: list[Problem] = []
    for order in fleet.orders:
        where = f"{order.plan.name}: " if len(fleet.orders) > 1 else ""
        found += [Problem(f"{where}{problem.where}", problem.what) for problem in _of_order(order)]
    names = [pool.name for _, pool in fleet.pools]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            found.append(
                Problem("pools", f"{name!r} occurs {names.count(name)} times: the gateway tells pools by name")
            )
    plans = [order.name for order in fleet.orders]
    for name in dict.fromkeys(plans):
        if plans.count(name) > 1:
            found.append(Problem("name", f"{plans.count(name)} plans are called {name}: objects are named after them"))
    if len({str(order.plan.policy) for order in fleet.orders}) > 1:
        found.append(Problem("policy", "differs between the plans, and one gateway has one"))
    return list(dict.fromkeys([*found, *chain(_scaling(fleet.ground, names), _ground(fleet.ground, names))]))


def _of_order(order: Order) -> Iterator[Problem]:
    plan = order.plan
    if not plan.pools:
        yield Problem("pools", "is empty: there is nothing to deploy")
    if not PRINTED.fullmatch(plan.model):
        yield Problem("model", f"{plan.model!r} is not a line of at most 200 printed characters")
    for i, pool in enumerate(plan.pools):
        where = f"pools[{i}]"
        yield from (Problem(f"{where}.{field}", what) for field, what in _of_pool(order, pool))
        yield from pool_problems(order, pool, where)
    yield from _weights(order)
    adapters = [adapter.name for adapter in order.adapters]
    for adapter in order.adapters:
        if adapters.count(adapter.name) > 1 or adapter.name in (order.served, "", ".", ".."):
            yield Problem("--lora", f"{adapter.name!r} is no name of its own")
        elif not ADAPTER.fullmatch(adapter.name):
            yield Problem("--lora", f"{adapter.name!r}: letters, digits and . _ - / only")
        elif not (_reachable(order.weights, Weights(adapter.uri))):
            what = "is neither hf://owner/name nor in the claim or directory of the weights"
            yield Problem("--lora", f"{adapter.name}={adapter.uri} {what}")


def _reachable(weights: Weights, adapter: Weights) -> bool:
    """Engines have one volume of weights, and the hub."""
    if adapter.scheme == "hf":
        return bool(HUB_NAME.fullmatch(adapter.rest))
    if adapter.scheme == "pvc" == weights.scheme:
        return adapter.claim == weights.claim and bool(PLACE.fullmatch(adapter.rest))
    return not adapter.scheme and not weights.scheme and adapter.uri.startswith(weights.uri.rstrip("/") + "/")


def _weights(order: Order) -> Iterator[Problem]:
    weights = order.weights
    right = {"": PRINTED, "hf": HUB_NAME, "pvc": PLACE, "oci": IMAGE}.get(weights.scheme)
    if right is None:
        yield Problem("--weights", f"{weights.uri!r} is neither hf://, pvc://, oci:// nor a directory")
    elif not right.fullmatch(weights.rest) or ".." in weights.rest.split("/"):
        shapes = "hf://owner/name, pvc://claim/path, oci://image@sha256:DIGEST or a directory"
        yield Problem("--weights", f"{weights.uri!r} is none of {shapes}")
    elif not weights.scheme and not weights.rest.startswith("/"):
        yield Problem("--weights", f"{weights.uri!r}: engines run elsewhere; write the directory from / on")
    elif weights.scheme == "pvc" and not LABEL.fullmatch(weights.claim):
        yield Problem("--weights", f"{weights.claim!r} is no name of a claim")
    elif weights.scheme == "oci" and not PINNED.fullmatch(weights.rest) and UNFILLED not in weights.rest:
        yield Problem("--weights", f"{weights.uri} is not pinned: write oci://NAME@sha256:DIGEST")


def _of_pool(order: Order, pool: PoolPlan) -> Iterator[tuple[str, str]]:
    layout = pool.layout
    if not NAME.fullmatch(pool.name):
        yield "name", f"{pool.name!r} is not a DNS label of at most 24 letters (a-z, 0-9, -)"
    if pool.replicas < 1:
        yield "replicas", "must be at least 1; to have none at times: --scale POOL=CLASS:0-MAX"
    if not 0 < pool.memory_utilisation <= 1:
        yield "memory_utilisation", f"{pool.memory_utilisation:g} is not between 0 and 1"
    if isinstance(made := accelerator(pool.gpu), str):
        yield "gpu", made
    if min(layout.tp, layout.pp, layout.dp, layout.dcp, layout.pcp, pool.gpus_per_node) < 1:
        yield "layout", "every degree, and gpus_per_node, must be at least 1"
        return
    if order.model is not None and (why_not := indivisible(order.model, layout)):
        yield "layout", why_not
    if layout.gpus % nodes(pool):
        yield "layout", f"{layout.gpus} GPUs do not spread evenly over {nodes(pool)} nodes"
    if layout.tp % layout.dcp:
        yield "layout.dcp", f"{layout.dcp} does not divide tp {layout.tp}"
    if layout.dp > 1 and layout.tp * layout.pcp > pool.gpus_per_node:
        yield "layout.dp", "a rank that spans nodes cannot be one of several"
    if pool.precision in ("fp4", "int4") and not order.stored_small:
        what = f"no engine makes {pool.precision} of {order.weights.uri}: name a checkpoint that is stored so"
        yield "precision", f"{what}, e.g. --weights hf://owner/name-AWQ"


def _scaling(ground: Ground, names: list[str]) -> Iterator[Problem]:
    for n, scaling in enumerate(ground.scaling):
        if scaling.pool not in names:
            yield Problem("--scale", f"no pool {scaling.pool!r}, there are: {', '.join(names)}")
        if scaling.pool in [earlier.pool for earlier in ground.scaling[:n]]:
            yield Problem("--scale", f"{scaling.pool} is given twice: KEDA refuses two masters of one workload")
        if not 0 <= scaling.replicas_min <= scaling.replicas_max or not scaling.replicas_max:
            yield Problem("--scale", f"{scaling.pool}: must be MIN-MAX, MAX at least 1")
        if not NAME.fullmatch(scaling.request_class):
            yield Problem("--scale", f"class {scaling.request_class!r} is not a DNS label")


def _ground(ground: Ground, names: list[str]) -> Iterator[Problem]:
    roles = Images.roles()
    for role in roles:
        yield from _image(f"--image {role}", ground.images.of(role))
    for each in ground.objectives:
        if not NAME.fullmatch(each.request_class):
            yield Problem("--objective", f"{each.request_class!r} is not a DNS label")
    for host in ground.hosts:
        if not HOST.fullmatch(host):
            yield Problem("--host", f"{host!r} is neither a host name nor an IPv4 address")
    if len(set(ground.hosts)) < len(ground.hosts):
        yield Problem("--host", "one is given twice: each is a machine of its own")
    sites = [site.name for site in ground.sites]
    for site in ground.sites:
        where = f"--site {site.name}"
        if not NAME.fullmatch(site.name):
            yield Problem("--site", f"{site.name!r} is not a DNS label")
        if sites.count(site.name) > 1:
            yield Problem("--site", f"{site.name} is given twice")
        for pool, count in site.replicas.items():
            if pool not in names:
                yield Problem(f"{where}: replicas", f"no pool {pool!r}, there are: {', '.join(names)}")
            elif ground.scaling_of(pool):
                yield Problem(f"{where}: replicas", f"{pool} is scaled: KEDA sets its number")
            elif count < 0:
                yield Problem(f"{where}: replicas", f"{pool}: {count} is less than none")
        for key, value in site.node_labels.items():
            if not (LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(value)):
                yield Problem(f"{where}: node_labels", f"{key}: {value} is no label of a node")
        if site.storage_class and not CLASS_NAME.fullmatch(site.storage_class):
            yield Problem(f"{where}: storage_class", f"{site.storage_class!r} is no name of a class")
        for role, image in site.images.items():
            if role not in roles:
                yield Problem(f"{where}: images", f"{role!r} is none of {', '.join(roles)}")
            yield from _image(f"{where}: images", image)
    for option, value, right, shape in (
        ("--namespace", ground.namespace, LABEL, "a DNS label"),
        ("--gateway", ground.gateway, LABEL, "a DNS label"),
        ("--prometheus", ground.prometheus, URL, "http://HOST:PORT"),
        ("--rdma", ground.rdma, RESOURCE, "a resource of nodes, e.g. rdma/ib"),
    ):
        if value and not right.fullmatch(value):
            yield Problem(option, f"{value!r} is not {shape}")


def _image(where: str, image: str) -> Iterator[Problem]:
    if not PINNED.fullmatch(image) and not image.endswith(f"@{UNFILLED}"):
        yield Problem(where, f"{image} is not pinned: write NAME@sha256:DIGEST")
