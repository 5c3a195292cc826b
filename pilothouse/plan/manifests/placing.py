"""Which engine runs on which GPUs of which machine, where no orchestrator decides it: first fit, in the plan's order."""

from msgspec import Struct

from pilothouse.core.errors import ConfigError, Problem
from pilothouse.plan.document import PoolPlan
from pilothouse.plan.manifests.order import Fleet, Order, gpus_here, nodes


class Seat(Struct, frozen=True):
    """One process of one engine."""

    order: Order
    pool: PoolPlan
    engine: int  # of its pool
    rank: int  # of the node in its group
    machine: int
    leader: int  # machine of the group's first process
    number: int  # of the engine on its machines, which makes its ports its own
    gpus: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.pool.name}-{self.engine}" + (f"-node{self.rank}" if nodes(self.pool) > 1 else "")


def seats(fleet: Fleet, machines: int | None = None) -> list[Seat]:
    """Raises ConfigError if there are not enough `machines`; None takes as many as are needed."""
    free: list[tuple[str, list[int]]] = []  # kind of GPU, and which of a machine's nobody has yet
    taken: list[Seat] = []
    for order, pool in fleet.pools:
        for engine in range(pool.replicas):
            places = _machines(free, pool)
            number = max(sum(seat.machine == machine for seat in taken) for machine in places)
            for rank, machine in enumerate(places):
                gpus = tuple(free[machine][1][: gpus_here(pool)])
                del free[machine][1][: gpus_here(pool)]
                taken.append(Seat(order, pool, engine, rank, machine, places[0], number, gpus))
    if machines is not None and len(free) > machines:
        largest = max(pool.gpus_per_node for _, pool in fleet.pools)
        count = sum(order.plan.gpus for order in fleet.orders)
        what = f"{count} GPUs need {len(free)} machines of {largest} GPUs, and {machines} are given"
        raise ConfigError([Problem("--host", f"{what}: repeat --host for each")])
    return taken


def _machines(free: list[tuple[str, list[int]]], pool: PoolPlan) -> list[int]:
    """Indices of machines with room for one engine; new ones, all of whose GPUs are alike, are appended to `free`."""
    wanted = gpus_here(pool)
    found = [i for i, (gpu, left) in enumerate(free) if gpu == pool.gpu and len(left) >= wanted][: nodes(pool)]
    while len(found) < nodes(pool):
        found.append(len(free))
        free.append((pool.gpu, list(range(pool.gpus_per_node))))
    return found
