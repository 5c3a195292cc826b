"""Puts a simulated fleet together, and makes figures of what it did."""

from collections.abc import Sequence
from math import inf

import msgspec

from pilothouse.core.assumed import Lru
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import EndpointSeen, Role, Tier
from pilothouse.core.units import SECOND, EndpointId, Micros
from pilothouse.sim.clients import StageResult
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver, Watch
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.faults import Fault
from pilothouse.sim.gaps import Gaps
from pilothouse.sim.hosts import LINK_BYTES_PER_US, Host
from pilothouse.workload.outcomes import Histogram, Objectives, Outcome, StageRun, Summary, summarise
from pilothouse.workload.requests import Workload
from pilothouse.workload.timeline import timeline

LABEL = "Simulated"


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal engines."""

    name: str
    replicas: int
    engine: EngineSpec
    exact: bool = False  # they report their KV blocks; else the dispatcher assumes from its own routes
    index_blocks: int | None = None  # KV capacity that the dispatcher believes in; None = the true one
    ready_us: Micros = Micros(0)  # when they serve for the first time; until then nobody knows them
    start_up_us: Micros = Micros(60 * SECOND)  # from a crash until they serve again
    role: Role = Role.BOTH
    connector: str = ""  # how they exchange KV; "" = they do not
    exchange: str = ""  # what both ends of a transfer must have alike
    kv_token_bytes: int = 0  # needed for handovers and tiers
    link_bytes_per_us: float = LINK_BYTES_PER_US  # of each engine's network interface
    link_latency_us: int = 0  # of one transfer
    labels: dict[str, str] = {}  # where they stand
    far_bytes_per_us: float = inf  # of that interface to engines of whose labels one differs


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What there is to steer."""

    pools: list[Pool]
    delays: Delays = Delays()
    tell_blocks: bool = (
        True  # False: nobody hashes prompts, as for a plain service; faster for policies that do not ask
    )


def world(
    fleet: Fleet,
    dispatchers: Dispatcher | Sequence[Dispatcher],
    workload: Workload,
    watch: Watch | None = None,
    *,
    faults: Sequence[Fault] = (),
    samples_max: int = 0,
    macro_steps: bool = True,
) -> Driver:
    """The driver, ready to run.

    dispatchers   fresh ones, one for each gateway; how they were configured is not known here
    samples_max   moments of each stage at which every replica is looked at; 0 = never
    """
    gaps, delays = Gaps(), fleet.delays
    hosts = [host for pool in fleet.pools for host in _hosts(pool, workload, gaps, macro_steps)]
    several = [dispatchers] if isinstance(dispatchers, Dispatcher) else dispatchers
    return Driver(
        several,
        hosts,
        gaps,
        workload,
        delays,
        watch,
        faults=faults,
        tell_blocks=fleet.tell_blocks,
        samples_max=samples_max,
    )


def _hosts(pool: Pool, workload: Workload, gaps: Gaps, macro_steps: bool) -> list[Host]:
    remote = [tier.blocks for tier in pool.engine.tiers if tier.tier is Tier.REMOTE]
    store = Lru(remote[0]) if remote else None
    return [_host(pool, i, workload, gaps, macro_steps, store) for i in range(pool.replicas)]


def _host(pool: Pool, i: int, workload: Workload, gaps: Gaps, macro_steps: bool, store: Lru | None) -> Host:
    spec = msgspec.structs.replace(pool.engine, macro_steps=macro_steps)
    endpoint = EndpointId(f"{pool.name}-{i}")
    seen = EndpointSeen(
        pool.ready_us,
        endpoint,
        f"http://{endpoint}:8000",
        pool.name,
        [workload.model],
        pool.exact and spec.prefix_cache,
        spec.kv_blocks if pool.index_blocks is None else pool.index_blocks,
        spec.block_size,
        pool.role,
        pool.connector,
        pool.exchange,
        pool.labels,
        kv_token_bytes=pool.kv_token_bytes,
        speculation=spec.speculation.method.value if spec.speculation is not None else "",
        store="" if store is None else pool.name,
        store_blocks=0 if store is None else store.capacity,
        tier_gb_per_s={tier.tier: tier.gb_per_s for tier in spec.tiers},
    )
    link = pool.link_bytes_per_us, pool.link_latency_us, pool.far_bytes_per_us
    return Host(seen, spec, pool.ready_us, pool.start_up_us, gaps, *link, store=store)


def settle(result: StageResult, lead: int) -> list[Outcome]:
    """Forgets the outcomes of the first requests of a stage, at most half of them, and returns what counts, as it was sent."""
    ordered = sorted(result.outcomes, key=lambda outcome: outcome.sent_us)
    counted = ordered[min(lead, len(ordered) // 2) :]
    if counted:
        result.start_us = max(result.start_us, counted[0].sent_us)
    result.outcomes = counted
    return counted


def summaries(results: Sequence[StageResult], objectives: Objectives | None = None) -> list[Summary]:
    """Figures of the reported stages, all labelled Simulated."""
    return [_summary(result, objectives or Objectives(), {}) for result in results if result.stage.reported]


def stage_runs(
    driver: Driver, objectives: Objectives | None = None, tenants: dict[str, Objectives] | None = None
) -> list[StageRun]:
    """Figures of the reported stages over time, by replica and by tenant. `tenants`: their own service levels."""
    general, own = objectives or Objectives(), tenants or {}
    runs = []
    for result in driver.results:
        if result.stage.reported:
            several = list(result.gaps) if len(result.gaps) > 1 else []
            runs.append(
                StageRun(
                    result.stage.name,
                    _summary(result, general, own),
                    timeline(result.outcomes, result.start_us),
                    result.samples,
                    {tenant: _tenant_summary(result, tenant, own.get(tenant, general)) for tenant in several},
                    _notes(result),
                )
            )
    return runs


def _summary(result: StageResult, objectives: Objectives, tenants: dict[str, Objectives]) -> Summary:
    gaps, stage = Histogram(), result.stage
    for part in result.gaps.values():
        gaps.merge(part)
    return summarise(result.outcomes, result.start_us, stage.rate, LABEL, objectives, gaps, tenants)


def _tenant_summary(result: StageResult, tenant: str, objectives: Objectives) -> Summary:
    outcomes = [outcome for outcome in result.outcomes if outcome.tenant == tenant]
    rate = result.stage.rate * len(outcomes) / max(1, len(result.outcomes))
    return summarise(outcomes, result.start_us, rate, LABEL, objectives, result.gaps[tenant])


def _notes(result: StageResult) -> list[str]:
    """Why requests were not served."""
    counts: dict[str, int] = {}
    for outcome in result.outcomes:
        if outcome.error:
            counts[outcome.error] = counts.get(outcome.error, 0) + 1
    return [f"{count} requests were not served: {error}" for error, count in sorted(counts.items())]
