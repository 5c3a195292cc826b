"""A recorded day again: as it was, with the same configuration simulated, and with another one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import msgspec

from pilothouse import build
from pilothouse.config.load import from_data
from pilothouse.config.policy import profile
from pilothouse.config.scenario import Scenario
from pilothouse.config.scenario_load import policy_named, scenario_from_data
from pilothouse.core.dispatcher import DispatcherSettings
from pilothouse.core.errors import ConfigError, JournalError, Problem
from pilothouse.core.events import Role
from pilothouse.core.selection import Profile
from pilothouse.core.units import EndpointId, Micros
from pilothouse.journal import asked as recorded
from pilothouse.journal.asked import Asked
from pilothouse.journal.day import Day
from pilothouse.journal.learned import Learned
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.rivals import CACHE_KNOWLEDGE
from pilothouse.sim.delays import Delays
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.faults import Fault
from pilothouse.sim.world import LABEL, Fleet, Pool
from pilothouse.workload.goodput import goodput_note
from pilothouse.workload.outcomes import Histogram, Objectives, Outcome, Run, Sample, StageRun, Summary, summarise
from pilothouse.workload.timeline import timeline

NAME, SAME = "recorded", "as recorded"
UNKNOWN_BLOCKS = 1 << 20  # KV blocks of an engine that did not tell: never full
ENGINES_HERE = "http://recorded.invalid"  # stands for the recorded engines where a configuration names none
FAR_OFF = {"TTFT mean": 0.12, "TPOT mean": 0.05}  # what the simulator reaches on published ladders
WARNING = (
    "the simulation is far off what was recorded: differences between configurations that are smaller than that say "
    "nothing; better step times may help: --step-time with a file of `pilothouse calibrate`"
)
POOLS_OF_A_GATEWAY = ("endpoints", "dns")


@dataclass(slots=True)
class Case:
    """One configuration to be simulated."""

    name: str
    fleet: Fleet
    rules: DispatcherSettings
    profile: Profile
    gateways: int = 1
    faults: Sequence[Fault] = ()
    objectives: Objectives | None = None  # the configuration's own
    notes: list[str] = field(default_factory=list)


def as_recorded(day: Day, given: Asked, times: Mapping[str, StepTime]) -> Case:
    """The configuration that the journal was written with. `times`: pool -> step times."""
    header = day.headers[-1]
    try:
        rules = msgspec.convert(header.settings, DispatcherSettings)
    except msgspec.MsgspecError as error:
        raise JournalError(f"segment {header.index}: its settings cannot be read: {error}") from error
    notes = []
    if any((other.settings, other.policy) != (header.settings, header.policy) for other in day.headers):
        notes.append("the configuration changed while it was recorded; the last one is simulated")
    fleet, more = recorded_fleet(day, given, times, day.scrape_us)
    return Case(SAME, fleet, rules, profile(header.policy), notes=notes + more)


def other(data: object, source: Path, day: Day, given: Asked, times: Mapping[str, StepTime]) -> list[Case]:
    """What a file asks for: a gateway's configuration (the recorded engines stay) or a scenario (its own engines), then
    one case for each of its policies. Raises ConfigError."""
    if not isinstance(data, dict):
        raise ConfigError([Problem(str(source), "must be a mapping: a pilothouse.yaml, or a scenario")])
    return (
        _of_scenario(data, source, day, given, times)
        if _is_scenario(data)
        else [_of_gateway(data, source, day, given, times)]
    )


def _is_scenario(data: Mapping[object, object]) -> bool:
    pools = data.get("pools")
    first = pools[0] if isinstance(pools, list) and pools else None
    return isinstance(first, dict) and not any(key in first for key in POOLS_OF_A_GATEWAY)


def _of_gateway(
    data: Mapping[object, object], source: Path, day: Day, given: Asked, times: Mapping[str, StepTime]
) -> Case:
    """`pools` may be left out: a file that `tune` wrote has a policy alone."""
    config = from_data({"pools": [{"endpoints": [{"url": ENGINES_HERE}]}]} | dict(data), str(source))
    fleet, notes = recorded_fleet(day, given, times, config.signals.scrape_every.us)
    checks = {"probe_us": config.health.every.us, "probe_timeout_us": config.health.timeout.us}
    delays = msgspec.structs.replace(fleet.delays, connect_timeout_us=config.timeouts.connect.us, **checks)
    fleet, made = msgspec.structs.replace(fleet, delays=delays), profile(config.policy)
    name = source.stem if source.stem not in (NAME, SAME) else made.name
    notes = [*notes, f"{name}: policy {made.name}, on the engines of the journal"]
    return Case(name, fleet, build.settings(config), made, notes=notes)


def _of_scenario(
    data: Mapping[object, object], source: Path, day: Day, given: Asked, times: Mapping[str, StepTime]
) -> list[Case]:
    stand_in = {"kind": "open_loop", "rate": 1, "duration": "1s", "block_size": given.block_size}
    ready = scenario_from_data(dict(data) | {"workload": stand_in}, str(source), source.parent)
    scenario, cases, late = ready.scenario, [], data.get("delays")
    _check_drafts(scenario, day, times)
    said = isinstance(late, dict) and "network" in late
    network_us = scenario.delays.network.us if said or not times else _network_us(list(times.values()))
    notes = [
        (
            "of the scenario its workload and loads are not used: the journal says what was asked for; where it names no "
            f"delays.network, requests take as long beside their steps as recorded: {2 * network_us / 1000:.1f} ms"
        )
    ]
    for pool in scenario.pools:
        learned = pool.step_time is None and pool.name in times
        own = f"pool {pool.name}: {pool.replicas} engines, step times as of the recorded pool of that name"
        notes.append(own if learned else build.pool_note(pool))
    for policy in scenario.policies:
        made = policy_named(policy)
        parts = [part for fault in scenario.faults for part in build.faults(fault, scenario)]
        name = source.stem if len(scenario.policies) == 1 and source.stem not in (NAME, SAME) else made.name
        cases.append(
            Case(
                name,
                _scenario_fleet(scenario, made, times, network_us),
                DispatcherSettings(seed=scenario.seeds[0], waiting_max=build.ENGINES_TAKE),
                made,
                scenario.gateways,
                parts,
                build.objectives(scenario.objectives),
                notes,
            )
        )
    return cases


def _check_drafts(scenario: Scenario, day: Day, times: Mapping[str, StepTime]) -> None:
    """What was learned of engines that speculate is their time per token, drafts and all."""
    speculate = [engine.seen.pool for engine in day.engines.values() if engine.seen.speculation]
    what = (
        "the recorded engines of this pool speculate already, and their step times have it in them: leave it out, or "
        "give a `step_time` without speculation"
    )
    problems = [
        Problem(f"pools[{i}].speculation", what)
        for i, pool in enumerate(scenario.pools)
        if pool.speculation is not None and pool.step_time is None and pool.name in times and pool.name in speculate
    ]
    if problems:
        raise ConfigError(problems)


def _scenario_fleet(scenario: Scenario, made: Profile, times: Mapping[str, StepTime], network_us: Micros) -> Fleet:
    """A pool without step times of its own takes those of the recorded pool of its name, if there is one."""
    fleet = build.fleet(scenario, CACHE_KNOWLEDGE.get(made.name))
    pools = []
    for pool, said in zip(fleet.pools, scenario.pools, strict=True):
        found = times.get(pool.name) if said.step_time is None else None
        learned = None if found is None else build.with_drafts(said, found)
        engine = msgspec.structs.replace(pool.engine, step_time=learned) if learned is not None else pool.engine
        pools.append(msgspec.structs.replace(pool, engine=engine))
    return msgspec.structs.replace(
        fleet, pools=pools, delays=msgspec.structs.replace(fleet.delays, network_us=network_us)
    )


def recorded_fleet(day: Day, given: Asked, times: Mapping[str, StepTime], scrape_us: Micros) -> tuple[Fleet, list[str]]:
    """The engines as they were seen, and what had to be taken for granted. Equal ones of one pool are one pool."""
    groups: dict[tuple[str, int, int, bool, Micros, Role, str, str, int], int] = {}
    unknown = list[EndpointId]()
    for endpoint in recorded.serving(day, given.models):
        engine = day.engines[endpoint]
        if engine.gone_us is not None and engine.gone_us <= given.start_us:
            continue
        seen, ready_us = engine.seen, Micros(max(0, engine.ready_us - given.start_us))
        if not seen.kv_blocks:
            unknown.append(endpoint)
        blocks = seen.kv_blocks * (seen.block_size or given.block_size) // given.block_size or UNKNOWN_BLOCKS
        hands_over = (seen.role, seen.connector, seen.exchange, seen.kv_token_bytes)
        key = (seen.pool, blocks, given.block_size, seen.exact, ready_us, *hands_over)
        groups[key] = groups.get(key, 0) + 1
    pools, names = [], dict[str, int]()
    for (name, blocks, size, exact, ready_us, role, connector, exchange, kv_token_bytes), count in groups.items():
        if name not in times:
            what = f"too few answers of pool {name!r} to learn its step times from: give them with --step-time"
            raise ConfigError([Problem("replay", what)])
        names[name] = names.get(name, 0) + 1
        called = name if names[name] == 1 else f"{name}.{names[name]}"
        spec = EngineSpec(times[name], blocks, size)
        pool = Pool(called, count, spec, exact, ready_us=ready_us, role=role, connector=connector, exchange=exchange)
        pools.append(msgspec.structs.replace(pool, kv_token_bytes=kv_token_bytes))
    spec = pools[0].engine
    notes = [
        (
            f"engines take {spec.batched_tokens_max} tokens and {spec.sequences_max} sequences in a step, vLLM's defaults: a "
            "journal does not hold their limits"
        )
    ]
    if unknown:
        notes.append(f"KV capacity unknown, taken as never full: {', '.join(unknown)}")
    network_us = _network_us([pool.engine.step_time for pool in pools])
    return Fleet(pools, Delays(network_us=network_us, scrape_us=scrape_us)), notes


def _network_us(times: Sequence[StepTime]) -> Micros:
    """Each way: what requests take beside their steps, HTTP included, halved."""
    return Micros(round(fmean(time.request_us for time in times) / 2))


def learned_notes(found: Sequence[Learned]) -> list[str]:
    """What the step times stand on."""
    said = []
    for one in found:
        t = one.step_time
        errors = [
            f"{what} {error:.0%}"
            for what, error in (("first tokens", one.first_error), ("time per token", one.decode_error))
            if error is not None
        ]
        parts = (
            f"{t.a_us / 1000:.2f} ms a step", f"{t.b_us:.3g} us a request", f"{t.c_ns:.3g} ns a context token",
            f"{t.p_us:.3g} us a prompt token", f"{t.request_us / 1000:.1f} ms a request beside its steps",
        )  # fmt: skip
        said.append(
            f"pool {one.pool}: step times {t.label}, {one.answers} measurements: {' + '.join(parts)}; median error on "
            f"measurements kept back: {', '.join(errors)}"
        )
    return said


def recorded_run(day: Day, given: Asked, objectives: Objectives, label: str, scenario: str) -> Run:
    """What was recorded, as a run."""
    found = recorded.outcomes(given)
    tenants = dict.fromkeys(outcome.tenant for outcome in found)
    gaps = {tenant: recorded.gaps([outcome for outcome in found if outcome.tenant == tenant]) for tenant in tenants}
    stage = _stage(given, found, gaps, recorded.samples(day, given), objectives, label)
    notes = [
        goodput_note(objectives, {}),
        (
            f"{label}: TTFT from a request's arrival at the gateway; ITL is each answer's mean, so its percentiles are of means: "
            "a journal holds no times of single tokens"
        ),
        *given.notes,
    ]
    return Run(NAME, label, scenario, 1.0, 0, [stage], notes)


def simulated_run(
    case: Case, given: Asked, objectives: Objectives, scenario: str, progress: Callable[[float], None] | None = None
) -> Run:
    """The same requests to simulated engines."""
    rules = msgspec.structs.replace(case.rules, why_max=0)  # nobody reads these receipts
    driver = build.played(
        case.fleet, rules, case.profile, given.workload, gateways=case.gateways, faults=case.faults, progress=progress
    )
    (result,) = driver.results
    begin_s = given.window_us[0] / 1_000_000
    found = [outcome for outcome in result.outcomes if outcome.request in given.counted]
    samples = [msgspec.structs.replace(s, at_s=s.at_s - begin_s) for s in result.samples if s.at_s >= begin_s]
    stage = _stage(given, found, result.gaps, samples, objectives, LABEL)
    return Run(case.name, LABEL, scenario, 1.0, 0, [stage], case.notes)


def compared(real: Summary, simulated: Summary) -> list[str]:
    """How far the simulation of the recorded configuration is off, and a warning where that is too far."""
    pairs = {
        "TTFT mean": (real.ttft.mean, simulated.ttft.mean),
        "TTFT p50": (real.ttft.p50, simulated.ttft.p50),
        "TTFT p99": (real.ttft.p99, simulated.ttft.p99),
        "TPOT mean": (real.tpot.mean, simulated.tpot.mean),
        "E2E mean": (real.e2e.mean, simulated.e2e.mean),
    }
    off = {name: (there / here - 1 if here else 0.0) for name, (here, there) in pairs.items()}
    said = ", ".join(f"{name} {error:+.1%}" for name, error in off.items())
    hits = f"hits {simulated.hit_ratio:.1%} against {real.hit_ratio:.1%}"
    far = any(abs(off[name]) > most for name, most in FAR_OFF.items())
    whole = f"the same configuration simulated, against what was recorded: {said}, {hits}"
    return [whole, WARNING] if far else [whole]


def _stage(
    given: Asked,
    found: list[Outcome],
    gaps: Mapping[str, Histogram],
    samples: list[Sample],
    objectives: Objectives,
    label: str,
) -> StageRun:
    start_us, tenants, whole = given.window_us[0], {}, Histogram()
    for tenant, part in gaps.items():
        if tenant == recorded.ASIDE:
            continue
        whole.merge(part)
        if len(given.models) > 1:
            own = [outcome for outcome in found if outcome.tenant == tenant]
            rate = given.rate * len(own) / max(1, len(found))
            tenants[tenant] = summarise(own, start_us, rate, label, objectives, part)
    summary = summarise(found, start_us, given.rate, label, objectives, whole)
    return StageRun(recorded.STAGE, summary, timeline(found, start_us), samples, tenants)
