"""Puts a simulated fleet together: pools of engines, delays, a finished dispatcher, a workload."""

import msgspec

from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import EndpointSeen
from pilothouse.core.units import EndpointId, Micros
from pilothouse.sim.driver import Delays, Driver, StageResult, Watch
from pilothouse.sim.engine import Engine, EngineSpec
from pilothouse.workload.outcomes import Objectives, Summary, summarise
from pilothouse.workload.requests import Workload

LABEL = "Simulated"


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal engines."""

    name: str
    replicas: int
    engine: EngineSpec
    exact: bool = False  # they report their KV blocks; else the dispatcher assumes from its own routes
    index_blocks: int | None = None  # KV capacity that the dispatcher believes in; None = the true one


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What there is to steer."""

    pools: list[Pool]
    delays: Delays = Delays()
    tell_blocks: bool = (
        True  # False: nobody hashes prompts, as for a plain service; faster for policies that do not ask
    )


def world(
    fleet: Fleet, dispatcher: Dispatcher, workload: Workload, watch: Watch | None = None, *, macro_steps: bool = True
) -> Driver:
    """The driver, ready to run. `dispatcher` is fresh; how it was configured is not known here."""
    engines: dict[EndpointId, Engine] = {}
    seen: list[EndpointSeen] = []
    for pool in fleet.pools:
        spec = msgspec.structs.replace(pool.engine, macro_steps=macro_steps)
        for i in range(pool.replicas):
            endpoint = EndpointId(f"{pool.name}-{i}")
            engines[endpoint] = Engine(spec, reporting=pool.exact)
            believed = spec.kv_blocks if pool.index_blocks is None else pool.index_blocks
            seen.append(
                EndpointSeen(
                    Micros(0),
                    endpoint,
                    f"http://{endpoint}:8000",
                    pool.name,
                    [workload.model],
                    pool.exact,
                    believed,
                    spec.block_size,
                )
            )
    return Driver(dispatcher, engines, seen, workload, fleet.delays, watch, tell_blocks=fleet.tell_blocks)


def summaries(results: list[StageResult], objectives: Objectives | None = None) -> list[Summary]:
    """Figures of the reported stages, all labelled Simulated."""
    asked = objectives or Objectives()
    reported = [result for result in results if result.stage.reported]
    return [summarise(r.outcomes, r.start_us, r.stage.rate, LABEL, asked) for r in reported]
