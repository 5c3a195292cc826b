"""What is to be written out: plans, where their weights come from, and the ground that they stand on."""

import re
from pathlib import Path

from msgspec import Struct

from pilothouse.core.errors import ConfigError
from pilothouse.perf.catalog import model_named
from pilothouse.perf.memory import Precision
from pilothouse.perf.models import Model
from pilothouse.plan.document import Plan, PoolPlan
from pilothouse.plan.manifests.ground import Ground
from pilothouse.plan.model_source import find_model

NAME_MAX = 32  # of a plan: with a pool's, and what LeaderWorkerSet and KServe append, at most 63
STORED_SMALL = re.compile(r"fp8|w8a8|fp4|int4|int8|awq|gptq|w4a16", re.IGNORECASE)  # in names of checkpoints
STORED_WIDE = re.compile(r"bf16|fp16|bfloat16", re.IGNORECASE)


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
    def claim(self) -> str:
        """Of a pvc."""
        return self.rest.partition("/")[0]

    @property
    def path(self) -> str:
        """What follows the claim."""
        return self.rest.partition("/")[2].strip("/")


class Adapter(Struct, frozen=True):
    """A LoRA adapter that engines load at start."""

    name: str
    uri: str


class Order(Struct, frozen=True, kw_only=True):
    """One plan to be written out."""

    plan: Plan
    weights: Weights
    adapters: tuple[Adapter, ...] = ()
    fleet: str = ""  # name of what it is a part of; "" = it stands alone
    ground: Ground = Ground()

    @property
    def name(self) -> str:
        """Of objects: the plan's, as Kubernetes spells names, and short enough for what is appended."""
        return spelled(self.plan.name)

    @property
    def part_of(self) -> str:
        return self.fleet or self.name

    @property
    def served(self) -> str:
        """The model's name for clients: of a directory its last part."""
        return self.plan.model.rstrip("/").rpartition("/")[2] if self.plan.model[:1] in "/." else self.plan.model

    @property
    def stored_small(self) -> bool:
        """Whether the checkpoint is stored in few bits: as its name says, or as the model is published."""
        if STORED_SMALL.search(self.weights.uri):
            return True
        narrow = self.model is not None and self.model.published != Precision.BF16
        return narrow and not STORED_WIDE.search(self.weights.uri)

    @property
    def model(self) -> Model | None:
        """None if neither the catalogue has it nor it is a directory. Never asks the hub."""
        name = self.plan.model
        try:
            return find_model(name) if Path(name).is_dir() else model_named(name)
        except (KeyError, ConfigError):
            return None

    def name_of(self, pool: PoolPlan) -> str:
        """Of a pool's objects. Nobody wants to read chat-chat."""
        return self.name if f"-{self.name}".endswith(f"-{pool.name}") else f"{self.name}-{pool.name}"


class Fleet(Struct, frozen=True):
    """Plans behind one gateway, all on the same ground."""

    orders: tuple[Order, ...]

    @property
    def ground(self) -> Ground:
        return self.orders[0].ground

    @property
    def name(self) -> str:
        return self.orders[0].part_of

    @property
    def pools(self) -> list[tuple[Order, PoolPlan]]:
        return [(order, pool) for order in self.orders for pool in order.plan.pools]


def spelled(name: str) -> str:
    """As Kubernetes spells names."""
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (letters if letters[:1].isalpha() else f"plan-{letters}")[:NAME_MAX].strip("-")


def nodes(pool: PoolPlan) -> int:
    """Machines that one engine spans."""
    return -(-pool.layout.gpus // pool.gpus_per_node)


def gpus_here(pool: PoolPlan) -> int:
    """GPUs that one engine has on each of its machines."""
    return pool.layout.gpus // nodes(pool)
