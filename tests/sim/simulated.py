"""Small simulated worlds in few words, for the tests of this folder."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from pilothouse.core.commands import AnyCommand
from pilothouse.core.dispatcher import Dispatcher, DispatcherSettings
from pilothouse.core.events import AnyEvent
from pilothouse.core.random_stream import stream
from pilothouse.core.units import SECOND, EndpointId, Micros, RequestId
from pilothouse.perf.step_time import StepTime
from pilothouse.policies.profiles import DEFAULT, PROFILES
from pilothouse.sim.delays import Delays
from pilothouse.sim.driver import Driver
from pilothouse.sim.engine import EngineSpec
from pilothouse.sim.faults import Fault, FaultKind
from pilothouse.sim.jobs import Job
from pilothouse.sim.world import Fleet, Pool, world
from pilothouse.workload.requests import Planned, Stage, Workload, block_keys

TIME = StepTime(a_us=10_000, b_us=60, c_ns=50, p_us=40, q_ps=800, rho=0.8)
ENGINE = EngineSpec(TIME, 900, batched_tokens_max=1024, sequences_max=64)
SIZE = 16
T = TypeVar("T")


def ask(
    name: str,
    at_s: float = 0.0,
    tokens: int = 320,
    output: int = 10,
    *,
    content: int = 1,
    session: int = 0,
    after: str | None = None,
    tenant: str = "",
) -> Planned:
    """One request; equal `content` means one text, as far as both go."""
    behind = None if after is None else RequestId(after)
    keys = block_keys(content, tokens // SIZE)
    at_us = Micros(round(at_s * SECOND))
    return Planned(RequestId(name), at_us, keys, tokens, output, output, session, [], behind, tenant)


def workload(*stages: Sequence[Planned], pause_s: float = 0.0) -> Workload:
    pause_us = Micros(round(pause_s * SECOND))
    return Workload("m", SIZE, [Stage(f"stage {i}", 1.0, 1.0, list(part), pause_us) for i, part in enumerate(stages)])


def many(count: int, seed: int, *, sessions: int = 4, tenants: int = 1, stages: int = 1) -> Workload:
    """Requests of all sorts within a few seconds, every third of them after another one."""
    luck, made = stream(seed, "worlds/many"), []
    for s in range(stages):
        requests: list[Planned] = []
        for i in range(count):
            after = luck.choice(requests).request if requests and luck.random() < 0.3 else None
            shape = {
                "tokens": luck.randint(1, 1500),
                "output": luck.choice([1, 2, 40, 150]),
                "content": luck.randint(1, 5),
            }
            session, tenant = luck.randint(0, sessions), f"t{luck.randrange(tenants)}"
            at_s = luck.random() * 3
            requests.append(ask(f"{s}-{i}", at_s, **shape, session=session, after=after, tenant=tenant))
        made.append(requests)
    return workload(*made, pause_s=0.5)


def fault(kind: str, endpoint: str, at_s: float = 0.0, until_s: float | None = None, factor: float = 2.0) -> Fault:
    until_us = None if until_s is None else Micros(round(until_s * SECOND))
    return Fault(FaultKind(kind), EndpointId(endpoint), Micros(round(at_s * SECOND)), until_us, factor)


class Told:
    """All events and commands of a run, and their digest."""

    def __init__(self) -> None:
        self.pairs: list[tuple[AnyEvent, list[AnyCommand]]] = []

    def __call__(self, event: AnyEvent, commands: list[AnyCommand]) -> None:
        self.pairs.append((event, commands))

    def events(self, kind: type[T]) -> list[T]:
        return [event for event, _ in self.pairs if isinstance(event, kind)]

    def commands(self, kind: type[T]) -> list[T]:
        return [command for _, commands in self.pairs for command in commands if isinstance(command, kind)]

    def digest(self) -> str:
        return blake2b(msgspec.json.encode(self.pairs)).hexdigest()


def dispatcher(seed: int = 1, policy: str = DEFAULT) -> Dispatcher:
    return Dispatcher(DispatcherSettings(seed=seed, strict=True, index_blocks_max=100_000), PROFILES[policy])


def small(
    load: Workload,
    *,
    engines: int = 2,
    gateways: int = 1,
    exact: bool = True,
    engine: EngineSpec = ENGINE,
    delays: Delays = Delays(scrape_us=Micros(200_000)),  # noqa: B008 - frozen
    faults: Sequence[Fault] = (),
    start_up_s: float = 2.0,
    ready_s: float = 0.0,
    samples_max: int = 0,
    macro_steps: bool = True,
    policy: str = DEFAULT,
) -> tuple[Driver, Told]:
    """Engines e-0, e-1, ... of one pool, not yet run."""
    ready_us, start_up_us = Micros(round(ready_s * SECOND)), Micros(round(start_up_s * SECOND))
    fleet = Fleet([Pool("e", engines, engine, exact, None, ready_us, start_up_us)], delays)
    told, several = Told(), [dispatcher(policy=policy) for _ in range(gateways)]
    return (
        world(fleet, several, load, told, faults=faults, samples_max=samples_max, macro_steps=macro_steps),
        told,
    )


def digest_of_a_rough_day() -> str:
    """Several gateways, every kind of fault: one line that must be the same everywhere."""
    faults = [
        fault("crash", "e-0", 0.7),
        fault("slow", "e-1", 0.2, 2.0, 3.0),
        fault("partition", "e-1", 1.0, 1.5),
        fault("lost_kv_events", "e-2", 0.1, 0.9),
        fault("stale_metrics", "e-2", 0.5, 1.5),
    ]
    driver, told = small(many(60, 5, tenants=2, stages=2), engines=3, gateways=2, faults=faults)
    driver.run()
    return told.digest()


def job_of(planned: Planned) -> Job:
    return Job(planned.request, planned.blocks, planned.prompt_tokens, planned.output_tokens)


def linked(token_bytes: int, bytes_per_us: float) -> dict[str, Any]:
    """What pools that hand KV over to each other have alike."""
    return {"connector": "nixl", "exchange": "x", "kv_token_bytes": token_bytes, "link_bytes_per_us": bytes_per_us}
