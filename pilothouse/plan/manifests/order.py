"""What is to be written out: a plan, and what it does not say: images, where weights come from, machines, sites."""

import re

from msgspec import Struct

from pilothouse.core.errors import Problem
from pilothouse.plan.document import Plan, PoolPlan
from pilothouse.plan.manifests.images import Images

NAME = re.compile(r"[a-z]([-a-z0-9]{0,22}[a-z0-9])?")  # a DNS label, short enough for what stands beside it
NAME_MAX = 32  # of a plan: with a pool's, and what LeaderWorkerSet and KServe append, at most 63
SCHEMES = ("hf", "pvc", "oci")
STORED_SMALL = re.compile(r"fp8|w8a8|fp4|int4|int8|awq|gptq|w4a16|gpt-oss", re.IGNORECASE)  # in names of checkpoints


class Weights(Struct, frozen=True):
    """Where a checkpoint comes from: `hf://owner/name`, `pvc://claim/path`, `oci://image@sha256:...` or a directory."""

    uri: str

    @property
    def scheme(self) -> str:
        """hf, pvc, oci, or empty for a directory of the machine."""
        return self.uri.partition("://")[0] if "://" in self.uri else ""

    @property
    def rest(self) -> str:
        return self.uri.partition("://")[2] if self.scheme else self.uri

    @property
    def quantised(self) -> bool:
        """Whether the checkpoint's name says that it is stored in few bits."""
        return bool(STORED_SMALL.search(self.uri))


class Adapter(Struct, frozen=True):
    """A LoRA adapter that engines load at start."""

    name: str
    uri: str


class Scaling(Struct, frozen=True):
    """One pool grows and shrinks with the requests of one class."""

    pool: str
    request_class: str
    replicas_min: int
    replicas_max: int


class Priority(Struct, frozen=True):
    """How important a request class is; more is more, and below zero may be shed."""

    request_class: str
    priority: int


class Order(Struct, frozen=True, kw_only=True):
    """Everything that a target may need to know."""

    plan: Plan
    weights: Weights
    images: Images = Images()
    hosts: tuple[str, ...] = ()  # machines, where no orchestrator chooses them
    sites: tuple[str, ...] = ()  # overlays to write
    adapters: tuple[Adapter, ...] = ()
    scaling: tuple[Scaling, ...] = ()
    objectives: tuple[Priority, ...] = ()  # of llm-d's flow control
    gateway: str = "inference-gateway"  # the Gateway that llm-d's route hangs on
    scaler: str = "pilothouse-autoscaler:9000"  # host:port of the external scaler that KEDA asks

    @property
    def name(self) -> str:
        """Of objects: the plan's, as Kubernetes spells names, and short enough for what is appended."""
        spelled = re.sub(r"[^a-z0-9]+", "-", self.plan.name.lower()).strip("-")
        return (spelled if spelled[:1].isalpha() else f"plan-{spelled}")[:NAME_MAX].strip("-")

    @property
    def served(self) -> str:
        """The model's name for clients: of a directory its last part."""
        return self.plan.model.rstrip("/").rpartition("/")[2] if self.plan.model[:1] in "/." else self.plan.model

    def name_of(self, pool: PoolPlan) -> str:
        return f"{self.name}-{pool.name}"

    def scaling_of(self, pool: PoolPlan) -> Scaling | None:
        return next((scaling for scaling in self.scaling if scaling.pool == pool.name), None)


def nodes(pool: PoolPlan) -> int:
    """Machines that one engine spans."""
    return -(-pool.layout.gpus // pool.gpus_per_node)


def gpus_here(pool: PoolPlan) -> int:
    """GPUs that one engine has on each of its machines."""
    return pool.layout.gpus // nodes(pool)


def problems(order: Order) -> list[Problem]:
    """What no target can write out."""
    plan, found = order.plan, []
    names = [pool.name for pool in plan.pools]
    if not plan.pools:
        found.append(Problem("pools", "is empty: there is nothing to deploy"))
    for i, pool in enumerate(plan.pools):
        found += [Problem(f"pools[{i}].{where}", what) for where, what in _of_pool(order, pool)]
        if names.index(pool.name) < i:
            found.append(Problem(f"pools[{i}].name", f"{pool.name!r} is there already"))
    if order.weights.scheme not in ("", *SCHEMES):
        found.append(Problem("--weights", f"{order.weights.uri!r} is neither hf://, pvc://, oci:// nor a directory"))
    for n, scaling in enumerate(order.scaling):
        if scaling.pool not in names:
            found.append(Problem("--scale", f"no pool {scaling.pool!r}, there are: {', '.join(names)}"))
        if scaling.pool in [earlier.pool for earlier in order.scaling[:n]]:
            found.append(Problem("--scale", f"{scaling.pool} is given twice: KEDA refuses two masters of one workload"))
        if not 0 <= scaling.replicas_min <= scaling.replicas_max or not scaling.replicas_max:
            found.append(Problem("--scale", f"{scaling.pool}: must be MIN-MAX, MAX at least 1"))
    adapters = [adapter.name for adapter in order.adapters]
    for adapter in order.adapters:
        if adapters.count(adapter.name) > 1 or adapter.name in (order.served, "", ".", ".."):
            found.append(Problem("--lora", f"{adapter.name!r} is no name of its own"))
    for each in order.objectives:
        if not NAME.fullmatch(each.request_class):
            found.append(Problem("--objective", f"{each.request_class!r} is not a DNS label"))
    found += [Problem("--site", f"{site!r} is not a DNS label") for site in order.sites if not NAME.fullmatch(site)]
    return found


def _of_pool(order: Order, pool: PoolPlan) -> list[tuple[str, str]]:
    layout, found = pool.layout, []
    if not NAME.fullmatch(pool.name):
        found.append(("name", f"{pool.name!r} is not a DNS label of at most 24 letters"))
    if pool.replicas < 1:
        found.append(("replicas", "must be at least 1"))
    if min(layout.tp, layout.pp, layout.dp, layout.dcp, layout.pcp, pool.gpus_per_node) < 1:
        return [*found, ("layout", "every degree, and gpus_per_node, must be at least 1")]
    if layout.gpus % nodes(pool):
        found.append(("layout", f"{layout.gpus} GPUs do not spread evenly over {nodes(pool)} nodes"))
    if layout.tp % layout.dcp:
        found.append(("layout.dcp", f"{layout.dcp} does not divide tp {layout.tp}"))
    if layout.dp > 1 and layout.tp * layout.pcp > pool.gpus_per_node:
        found.append(("layout.dp", "a rank that spans nodes cannot be one of several"))
    if pool.precision in ("fp4", "int4") and not order.weights.quantised:
        what = f"no engine makes {pool.precision} of {order.weights.uri}: name a checkpoint that is stored so"
        found.append(("precision", f"{what}, e.g. --weights hf://owner/name-AWQ"))
    return found
