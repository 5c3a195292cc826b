"""Where plans are put: what no plan says of images, machines, sites, and the cluster's own services."""

from msgspec import Struct

from pilothouse.plan.manifests.images import Images

PROMETHEUS = "http://prometheus-operated.monitoring:9090"  # the Service that prometheus-operator makes


class Scaling(Struct, frozen=True):
    """One pool grows and shrinks with the requests of one class."""

    pool: str
    request_class: str
    replicas_min: int
    replicas_max: int
    requests: int = 0  # in flight at one engine, beyond which another is wanted; 0 = as the plan expects


class Priority(Struct, frozen=True):
    """How important a request class is; more is more, and below zero may be shed."""

    request_class: str
    priority: int


class Site(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one place has otherwise than the base."""

    name: str = ""
    replicas: dict[str, int] = {}  # pool -> engines
    images: dict[str, str] = {}  # role, as of `--image` -> NAME@sha256:DIGEST
    node_labels: dict[str, str] = {}  # that nodes of engines must have
    storage_class: str = ""  # of volumes for KV on disk; "" = the node's own disk


class Ground(Struct, frozen=True, kw_only=True):
    """Everything that a target may need to know beside the plans."""

    images: Images = Images()
    hosts: tuple[str, ...] = ()  # machines, where no orchestrator chooses them
    sites: tuple[Site, ...] = ()  # overlays to write
    scaling: tuple[Scaling, ...] = ()
    objectives: tuple[Priority, ...] = ()  # of llm-d's flow control
    namespace: str = ""  # "" = whoever applies it says which
    gateway: str = "inference-gateway"  # the Gateway that llm-d's route hangs on
    prometheus: str = PROMETHEUS  # whom KEDA asks, and who may read metrics
    rdma: str = ""  # extended resource of a network card for KV and collectives, e.g. rdma/ib; "" = none

    def scaling_of(self, pool: str) -> Scaling | None:
        return next((scaling for scaling in self.scaling if scaling.pool == pool), None)

    @property
    def monitoring(self) -> str:
        """Namespace of Prometheus, as its host name tells; "" if it does not."""
        host = self.prometheus.partition("://")[2].partition("/")[0].partition(":")[0]
        return [*host.split("."), ""][1] if not host.replace(".", "").isdigit() else ""
