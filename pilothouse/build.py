"""The composition root: a configuration becomes a dispatcher, a scenario a run. Nothing else builds parts of two layers
together."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from pilothouse import policies
from pilothouse.config import speculating
from pilothouse.config.policy import profile
from pilothouse.config.scenario import Fault as PlannedFault
from pilothouse.config.scenario import Lateness, Replicas, Scenario, Slo
from pilothouse.config.scenario_load import hardware_of, policy_named, read_step_time
from pilothouse.config.schema import Config
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.errors import JournalError
from pilothouse.core.events import Role, Tier
from pilothouse.core.health import HealthSettings
from pilothouse.core.selection import Profile
from pilothouse.core.units import EndpointId, Micros
from pilothouse.journal.log import Header
from pilothouse.perf.catalog import model_named
from pilothouse.perf.coefficients import step_time
from pilothouse.perf.memory import GIB, SEQUENCE_TOKENS, kv_gib, sequence_bytes
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.rivals import CACHE_KNOWLEDGE, CacheKnowledge, Knows
from pilothouse.sim.admission import FirstChunk, WholePrompt
from pilothouse.sim.clients import StageResult
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.faults import Fault, FaultKind
from pilothouse.sim.tiers import TierSpec
from pilothouse.sim.world import LABEL, Fleet, Pool, stage_runs, world
from pilothouse.workload.goodput import goodput_note
from pilothouse.workload.outcomes import Objectives, Run
from pilothouse.workload.requests import Workload, total_requests
from pilothouse.workload.spec import Recipe

assert policies  # importing it fills the registries

SAMPLES_MAX = 60  # moments of each stage: finer than a chart shows
ENGINES_TAKE = 1_000_000  # requests waiting: as rivals may queue without bound inside the engines, so may ours outside
TOLD_EVERY = 2000  # entries of the agenda between two words on progress: a few hundredths of a second


def settings(config: Config) -> DispatcherSettings:
    """What the decision needs to know of the configuration."""
    limits, health = config.limits, config.health
    return DispatcherSettings(
        seed=config.seed,
        attempts_max=limits.attempts,
        retry_ratio=limits.retry_ratio,
        retries_per_second=limits.retries_per_second,
        retries_burst=limits.retries_burst,
        waiting_max=limits.waiting,
        wait_us_max=config.timeouts.waiting.us,
        held_us_max=config.timeouts.held.us,
        sessions_max=limits.sessions,
        index_blocks_max=limits.index_blocks,
        report_stale_us=config.signals.stale_after.us,
        declared=tuple(dict.fromkeys(model for pool in config.pools if pool.dns is not None for model in pool.models)),
        health=HealthSettings(
            failures_max=health.failures,
            probe_failures_max=health.probe_failures,
            backoff_us_min=health.backoff.us,
            backoff_us_max=health.backoff_max.us,
        ),
    )


def dispatcher(config: Config) -> Dispatcher:
    """Raises ConfigError if the policy is wrong."""
    return Dispatcher(settings(config), profile(config.policy))


def journal_header(config: Config) -> tuple[dict[str, Any], Any]:
    """(settings, policy) as the journal's header holds them."""
    plain: dict[str, Any] = msgspec.to_builtins(settings(config))
    return plain, config.policy


def replayed_dispatcher(header: Header, snapshot: bytes) -> Dispatcher:
    """The dispatcher that wrote a journal's segment, as it was at the segment's beginning."""
    try:
        made = Dispatcher(msgspec.convert(header.settings, DispatcherSettings), profile(header.policy))
        if snapshot:
            made.restore(snapshot)
    except msgspec.MsgspecError as error:
        raise JournalError(f"segment {header.index}: its settings cannot be read: {error}") from error
    return made


def explaining_dispatcher(header: Header, snapshot: bytes) -> Dispatcher:
    """As `replayed_dispatcher`, with receipts that list every candidate."""
    everyone = 1 << 30
    return replayed_dispatcher(replace(header, settings=header.settings | {"why_max": everyone}), snapshot)


def simulate(
    scenario: Scenario,
    recipe: Recipe,
    policy: object,
    load: float,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """One policy under one load with one seed. `progress` hears the share of requests that have ended, 0..1.

    policy   a name, or a profile spelled out, as in the scenario's `policies`
    """
    return simulated(scenario, recipe.make(seed, load), policy, load, seed, progress)


def simulated(
    scenario: Scenario,
    workload: Workload,
    policy: object,
    load: float = 1.0,
    seed: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """The same with requests that are there already, whatever the scenario says of a workload. `load`: theirs."""
    general = objectives(scenario.objectives)
    tenants = {name: objectives(slo) for name, slo in scenario.tenants.items()}
    setting = Setting(
        scenario.name, general, tenants, scenario.gateways,
        [part for fault in scenario.faults for part in faults(fault, scenario)],
        [goodput_note(general, tenants), *(pool_note(pool) for pool in scenario.pools)],
    )  # fmt: skip
    return ran(fleet(scenario), workload, policy, setting, load, seed, progress)


class Setting(msgspec.Struct, frozen=True):
    """What belongs to a run beside fleet, workload and policy."""

    name: str
    objectives: Objectives = Objectives()
    tenants: dict[str, Objectives] = {}
    gateways: int = 1
    faults: list[Fault] = []
    notes: list[str] = []
    count: Callable[[StageResult], object] | None = None  # leaves what counts of a reported stage; None = all


def ran(
    fleet: Fleet,
    workload: Workload,
    policy: object,
    setting: Setting,
    load: float = 1.0,
    seed: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Run:
    """What a fleet did, in figures. A rival hears of it what it would hear. `load`: the workload's."""
    profile_ = policy_named(policy)
    knowledge = CACHE_KNOWLEDGE.get(profile_.name)
    driver = played(
        fleet if knowledge is None else told(fleet, knowledge),
        DispatcherSettings(seed=seed, strict=True, waiting_max=ENGINES_TAKE),
        profile_,
        workload,
        gateways=setting.gateways,
        faults=setting.faults,
        progress=progress,
    )
    for result in driver.results:
        if setting.count is not None and result.stage.reported:
            setting.count(result)
    notes = list(setting.notes)
    notes += [f"{profile_.name} {_knowledge_note(knowledge)}"] if knowledge is not None else []
    of_run = f"{profile_.name}, load x {load:g}, seed {seed}"
    notes += [
        f"{of_run}: {count:,} blocks were loaded from {tier.value}" for tier, count in driver.loads.blocks.items()
    ]
    stages = stage_runs(driver, setting.objectives, setting.tenants)
    return Run(profile_.name, LABEL, setting.name, load, seed, stages, notes)


def played(
    fleet: Fleet,
    rules: DispatcherSettings,
    profile: Profile,
    workload: Workload,
    *,
    gateways: int = 1,
    faults: Sequence[Fault] = (),
    progress: Callable[[float], None] | None = None,
) -> Driver:
    """A workload through dispatchers and simulated engines, to its end."""
    several = [Dispatcher(rules, profile) for _ in range(gateways)]
    driver = world(fleet, several, workload, faults=faults, samples_max=SAMPLES_MAX)
    total, entries = max(1, total_requests(workload.stages)), 0
    while driver.advance():
        entries += 1
        if progress is not None and entries % TOLD_EVERY == 0:
            progress(sum(len(result.outcomes) for result in driver.results) / total)
    return driver


def fleet(scenario: Scenario, knowledge: CacheKnowledge | None = None) -> Fleet:
    """What a scenario simulates. `knowledge`: what the gateway's policy hears of it; None = all that there is."""
    late = scenario.delays
    pools = [
        Pool(
            name=pool.name,
            replicas=pool.replicas,
            engine=engine_spec(pool),
            exact=pool.kv_events,
            start_up_us=pool.start_up.us,
            **_exchange(pool),
        )
        for pool in scenario.pools
    ]
    made = Fleet(pools, delays(late))
    return made if knowledge is None else told(made, knowledge)


def delays(late: Lateness) -> Delays:
    return Delays(
        client_us=late.client.us,
        network_us=late.network.us,
        kv_event_us=late.kv_events.us,
        scrape_us=late.scrape_every.us,
        scraped_us=late.scraped.us,
        tokenise_us=late.tokenise.us,
    )


def told(fleet: Fleet, knowledge: CacheKnowledge) -> Fleet:
    """The same as one hears of it who knows no more than this."""
    precise = knowledge.knows is Knows.PRECISE
    pools = [replace(pool, exact=pool.exact and precise, index_blocks=knowledge.blocks) for pool in fleet.pools]
    scrape_us = knowledge.scrape_us if fleet.delays.scrape_us else Micros(0)
    late = replace(fleet.delays, scrape_us=scrape_us)
    return replace(fleet, pools=pools, delays=late, tell_blocks=knowledge.knows is not Knows.NOTHING)


def _exchange(pool: Replicas) -> dict[str, Any]:
    """How a pool hands KV over, if it does."""
    if pool.role == "both":
        return {"kv_token_bytes": _token_bytes(pool)} if _tiers(pool) else {}
    return {
        "role": Role(pool.role),
        "connector": "nixl",
        "exchange": f"{pool.model} {pool.precision} {pool.block_size}",
        "kv_token_bytes": _token_bytes(pool),
        "link_bytes_per_us": pool.link.gb_per_s * 1e3,
        "link_latency_us": pool.link.latency.us,
        "far_bytes_per_us": (pool.link.far_gb_per_s or pool.link.gb_per_s) * 1e3,
        "labels": pool.labels,
    }


def _token_bytes(pool: Replicas) -> int:
    return int(sequence_bytes(model_named(pool.model), 1, SEQUENCE_TOKENS) / SEQUENCE_TOKENS)


def _tiers(pool: Replicas) -> list[TierSpec]:
    spaces = {Tier.DRAM: pool.tiers.dram, Tier.DISK: pool.tiers.disk, Tier.REMOTE: pool.tiers.remote}
    block_bytes = _token_bytes(pool) * (pool.block_size or 16)
    return [
        TierSpec(tier, max(1, int(space.gb * 1e9 / block_bytes)), space.gb_per_s)
        for tier, space in spaces.items()
        if space is not None
    ]


def engine_spec(pool: Replicas) -> EngineSpec:
    """One engine of a checked pool. Raises ConfigError if its file of step times is gone, KeyError for unknown names."""
    model, gpu, precision = hardware_of(pool)
    times = read_step_time(Path(pool.step_time)) if pool.step_time else step_time(model, gpu, pool.tp, precision)
    size, blocks, drafts = pool.block_size or 16, pool.kv_blocks, pool.speculation
    times = with_drafts(pool, times)
    if blocks is None:
        room = kv_gib(model, gpu, pool.tp, precision, pool.utilisation, pool.sequences, pool.batched_tokens) * GIB
        each = sequence_bytes(model, pool.tp, SEQUENCE_TOKENS)
        if drafts is not None:
            weights, per_token = speculating.drafting_bytes(drafts, model, pool.tp)
            room, each = room - weights, each + per_token * SEQUENCE_TOKENS
        blocks = int(room * SEQUENCE_TOKENS / each) // size
    admission = WholePrompt() if pool.admission == "whole_prompt" else FirstChunk()
    return EngineSpec(
        times,
        blocks,
        size,
        pool.batched_tokens,
        pool.sequences,
        admission,
        prefix_cache=pool.prefix_cache,
        steps_ahead=int(pool.async_scheduling),
        speculation=None if drafts is None else speculating.speculation_of(drafts),
        tiers=_tiers(pool),
    )


def with_drafts(pool: Replicas, times: StepTime) -> StepTime:
    """Step times of a pool's engines, out of those that they have without its speculation."""
    if pool.speculation is None:
        return times
    model, gpu, precision = hardware_of(pool)
    return speculating.timed(pool.speculation, times, model, gpu, pool.tp, precision)


def objectives(slo: Slo) -> Objectives:
    ttft, tpot, e2e = (None if limit is None else limit.us for limit in (slo.ttft, slo.tpot, slo.e2e))
    return Objectives(ttft, tpot, e2e, slo.ttft_per_1k.us)


def faults(fault: PlannedFault, scenario: Scenario) -> list[Fault]:
    """A fault of each engine that it names."""
    pool = next((pool for pool in scenario.pools if pool.name == fault.endpoint), None)
    hit = [f"{pool.name}-{i}" for i in range(pool.replicas)] if pool else [fault.endpoint]
    until_us = None if fault.lasts is None else Micros(fault.at + fault.lasts)
    return [Fault(FaultKind(fault.kind), EndpointId(name), fault.at.us, until_us, fault.factor) for name in hit]


def pool_note(pool: Replicas) -> str:
    """What the figures stand on, and how firmly."""
    spec = engine_spec(pool)
    off = "" if spec.step_time.error is None else f" (error {spec.step_time.error:.0%})"
    kv = f"{spec.kv_blocks:,} KV blocks of {spec.block_size} tokens each, {'given' if pool.kv_blocks else 'Estimated'}"
    times = f"step times {spec.step_time.label}{off}: {spec.step_time.source}"
    below = "".join(f", {tier.blocks:,} blocks in {tier.tier.value} at {tier.gb_per_s:g} GB/s" for tier in spec.tiers)
    on = f"{pool.replicas} x {pool.model} {pool.precision} on {pool.tp} x {pool.gpu}"
    drafts = "" if pool.speculation is None else f"; {speculating.note(pool.speculation)}"
    return f"pool {pool.name}: {on}, {kv}{below}; {times}{drafts}"


def _knowledge_note(knowledge: CacheKnowledge) -> str:
    """Rivals are given what they have, no less and no more."""
    knows = {
        Knows.NOTHING: "does not look at caches",
        Knows.APPROXIMATE: "knows caches from its own routes",
        Knows.PRECISE: "knows caches from KV events",
    }[knowledge.knows]
    every = f"load reports every {knowledge.scrape_us / 1000:g} ms" if knowledge.scrape_us else "no load reports"
    return f"{knows}, and reads {every}"
