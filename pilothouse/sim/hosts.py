"""An engine and what lies between it and the gateways: whether it runs, can be reached, and is heard."""

from dataclasses import dataclass, field
from math import inf

import msgspec

from pilothouse.core.assumed import Lru
from pilothouse.core.events import EndpointSeen
from pilothouse.core.units import EndpointId, Micros
from pilothouse.perf.step_time import StepTime
from pilothouse.sim.engine import Engine, EngineSpec
from pilothouse.sim.gaps import Gaps
from pilothouse.sim.tiers import Tiers

LINK_BYTES_PER_US = 40_000.0  # 320 Gb/s: four fifths of a 400 Gb/s network card
TIMES = ("a_us", "b_us", "c_ns", "p_us", "q_ps", "expert_us")


@dataclass(slots=True, eq=False)
class Host:
    """One engine. Every kind of trouble is counted, as spells may overlap."""

    seen: EndpointSeen  # how gateways learn of it
    spec: EngineSpec
    ready_us: Micros  # when it serves for the first time
    start_up_us: Micros  # from a crash until it serves again
    gaps: Gaps
    link_bytes_per_us: float = LINK_BYTES_PER_US  # of its network interface
    link_latency_us: int = 0  # of one transfer, whatever its size
    far_bytes_per_us: float = inf  # to engines that stand elsewhere: of whose labels one differs
    link_free_us: float = 0.0  # when the transfers that it is in have ended
    store: Lru | None = None  # that its pool shares; outlives the engine
    engine: Engine = field(init=False)
    due_us: Micros | None = None  # its step in the agenda
    up: bool = True
    cut_off: int = 0  # partitions
    mute: int = 0  # spells in which its KV events are lost
    unscraped: int = 0  # spells in which its load reports are lost
    paces: list[float] = field(default_factory=list)  # factors on its step times
    # What those who watch it live would know:
    forget: bool = False  # reports were lost or it restarted: what is known of its blocks must go
    restarted: bool = False  # and nobody has noticed
    well: bool = True  # by the last check
    probe_us: Micros = Micros(0)  # the next check is not before

    def __post_init__(self) -> None:
        self.start()

    @property
    def id(self) -> EndpointId:
        return self.seen.endpoint

    @property
    def is_open(self) -> bool:
        """Whether a gateway can reach it."""
        return self.up and not self.cut_off

    def start(self) -> None:
        """A new process, with nothing in it."""
        tiers, block_bytes = None, float(self.spec.block_size * self.seen.kv_token_bytes)
        if self.spec.tiers and self.spec.prefix_cache:
            tiers = Tiers(self.spec.tiers, block_bytes, self.store)
        self.engine, self.due_us = Engine(self.spec, reporting=self.seen.exact, tiers=tiers), None
        self.engine.gaps = self.gaps
        if self.paces:
            self.set_pace(Micros(0))

    def set_pace(self, now_us: Micros) -> None:
        """As all spells of slowness together want it."""
        factor = 1.0
        for pace in self.paces:
            factor *= pace
        self.engine.set_pace(scaled(self.spec.step_time, factor), now_us)


def scaled(step_time: StepTime, factor: float) -> StepTime:
    """Every step takes `factor` times as long."""
    return msgspec.structs.replace(step_time, **{name: getattr(step_time, name) * factor for name in TIMES})
