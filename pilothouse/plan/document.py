"""A plan: what to deploy and what to expect of it. Search makes plans, manifests and simulation are made of them.

A plan is complete: nothing that a manifest or a simulation needs is left to be guessed. As a file it is YAML.
"""

from enum import StrEnum
from math import hypot
from typing import Any

from msgspec import Struct, field

from pilothouse.core.events import Role


class Confidence(StrEnum):
    """How firm a figure is."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"


class Bound(StrEnum):
    """What runs out first."""

    COMPUTE = "compute"
    BANDWIDTH = "bandwidth"
    KV_CAPACITY = "kv_capacity"
    LATENCY = "latency"


class Layout(Struct, frozen=True, forbid_unknown_fields=True):
    """How one engine is spread over GPUs, in vLLM's words."""

    tp: int = 1  # tensor parallel; within one node
    pp: int = 1  # pipeline parallel: stages
    dp: int = 1  # data-parallel ranks of one engine: attention replicated, experts shared
    expert_parallel: bool = False  # experts are spread over TP x PCP x DP
    dcp: int = 1  # decode context parallel; divides TP, adds no GPU
    pcp: int = 1  # prefill context parallel; multiplies TP

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp * self.pcp

    @property
    def ep(self) -> int:
        """Ranks that share the experts of one pipeline stage; vLLM counts those of PCP in."""
        return self.tp * self.pcp * self.dp if self.expert_parallel else 1


class PoolPlan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Equal engines."""

    name: str
    replicas: int  # engines; each has `layout.gpus` GPUs
    layout: Layout
    gpu: str  # a name of the catalogue
    gpus_per_node: int = 8
    role: Role = Role.BOTH
    connector: str = ""  # how KV goes from a prefill to a decode pool; "" = it does not
    precision: str = "bf16"  # of the weights
    kv_precision: str = "bf16"  # of the KV cache
    max_model_len: int | None = None  # tokens; None = the model's own
    max_num_seqs: int | None = None  # None = the engine's default
    max_num_batched_tokens: int | None = None
    memory_utilisation: float = 0.9
    speculation: dict[str, Any] | None = None  # vLLM's --speculative-config
    tiers: dict[str, float] = {}  # tier -> GB of each engine, beside HBM
    engine_args: list[str] = []  # further flags, as they stand on vLLM's command line
    step_time: str = ""  # file of `pilothouse calibrate`; "" = measured or estimated coefficients
    link_gb_per_s: float | None = None  # of each engine's network card, for KV; None = as for 400 Gb/s
    link_latency_s: float | None = None  # of one transfer, whatever its size; None = as the simulator takes it


class Objective(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold at a percentile. Times in seconds; None = nothing is asked for."""

    percentile: int = 95
    ttft_s: float | None = None
    tpot_s: float | None = None

    def holds(self, ttft_s: float, tpot_s: float) -> bool:
        return all(limit is None or value <= limit for limit, value in ((self.ttft_s, ttft_s), (self.tpot_s, tpot_s)))


class ClassExpected(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one class of requests meets. Times in seconds, at the percentile of its own objective."""

    requests_per_s: float
    ttft_s: float
    tpot_s: float
    keeps: bool  # its objective

    @classmethod
    def under(cls, objective: Objective, requests_per_s: float, ttft_s: float, tpot_s: float) -> "ClassExpected":
        kept = objective.holds(ttft_s, tpot_s)
        return cls(requests_per_s=requests_per_s, ttft_s=ttft_s, tpot_s=tpot_s, keeps=kept)


class CostLine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a part of a pool costs."""

    pool: str
    what: str  # all day, base, burst, following the load
    term: str  # on_demand, reserved, spot, owned
    engines: int
    gpus: int
    gpus_paid: float  # in the mean
    usd_per_hour: float  # in the mean
    price: str  # of one GPU, and who says so
    all_day: bool = True  # it runs, used or not


class Way(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another way to buy the same fleet."""

    how: str
    usd_per_hour: float
    cold_share: float = 0.0  # of the requests, that wait until an engine has started


class Expected(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan promises at its workload's rate. Times in seconds, at the objective's percentile; prices in US dollars."""

    ttft_s: float
    tpot_s: float
    ttft_band: float  # relative error to allow for, as step times are known, e.g. 0.3
    tpot_band: float
    sums_ttft_band: float = 0.0  # beside it, where nothing was simulated: how far sums are from simulation
    sums_tpot_band: float = 0.0
    output_per_s: float  # tokens, whole fleet
    requests_per_s: float
    requests_per_s_max: float  # at which an objective breaks
    kv_tokens: int  # whole fleet
    utilisation: float  # of what binds, 0..1
    bound: Bound
    usd_per_hour: float
    usd_per_m_input: float  # of tokens that are computed; those found in caches are `usd_per_m_cached`
    usd_per_m_output: float
    usd_per_m: float  # blended: of all tokens
    confidence: Confidence
    notes: list[str] = []  # what the figures leave out, sources
    usd_per_m_cached: float = 0.0  # of prompt tokens found in caches
    cost: list[CostLine] = []  # what `usd_per_hour` is made of; [] = no price is known
    start_s: float = 0.0  # until an engine that is started serves
    cold_share: float = 0.0  # of the requests, that wait for such a start
    ways: list[Way] = []  # to buy the same fleet, the cheapest first
    classes: dict[
        str, ClassExpected
    ] = {}  # where classes have objectives: all there are; times above are of all requests

    @property
    def bands(self) -> tuple[float, float]:
        """Of TTFT and TPOT, all in all: the two errors know nothing of each other."""
        return hypot(self.ttft_band, self.sums_ttft_band), hypot(self.tpot_band, self.sums_tpot_band)


class Plan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `pilothouse plan` writes, and `pilothouse plan`, `manifests` and `sim` read."""

    name: str
    model: str  # a name of the catalogue, a hub name, or a directory with config.json
    pools: list[PoolPlan]
    objective: Objective
    workload: Any  # a workload as in `config/workload.py`, or the path of its file
    expected: Expected | None = None
    policy: Any = "marginal_cost"
    why: list[str] = []  # the rules that led here, one sentence each
    blueprint: str = ""  # which one it began with
    version: int = 1
    gateway: dict[str, Any] = field(default_factory=dict)  # further settings of pilothouse.yaml
    rate: float | None = None  # requests/s in busy times that is planned for; None = the workload's own
    classes: dict[str, Objective] = {}  # by tenant of the workload; where there is one, the others have `objective`

    @property
    def gpus(self) -> int:
        return sum(pool.replicas * pool.layout.gpus for pool in self.pools)
