"""A simulated fleet as people write it: `pilothouse sim` reads this, `pilothouse.yaml`'s rules of strictness apply."""

from typing import Annotated, Any

from msgspec import Meta, field

from pilothouse.config.schema import SECOND, RoleName, Settings, duration
from pilothouse.config.speculating import Speculating
from pilothouse.config.values import Duration
from pilothouse.policies.profiles import DEFAULT


def listed(value: Any) -> Any:
    return field(default_factory=lambda: [value])


class Link(Settings, frozen=True, kw_only=True):
    """An engine's network interface, over which KV moves."""

    gb_per_s: Annotated[float, Meta(gt=0, description="gigabytes per second that a transfer gets")] = 40.0
    latency: Annotated[Duration, Meta(description="of one transfer, whatever its size")] = duration(2_000)
    far_gb_per_s: Annotated[
        float | None, Meta(gt=0, description="the same to engines that stand elsewhere (`labels`); default: as near")
    ] = None


class Space(Settings, frozen=True, kw_only=True):
    """One tier of KV below the GPU."""

    gb: Annotated[float, Meta(gt=0, description="gigabytes of KV that it holds")]
    gb_per_s: Annotated[float, Meta(gt=0, description="gigabytes per second at which one engine loads from it")]


class SimulatedTiers(Settings, frozen=True, kw_only=True):
    """Where KV lies that HBM has no room for. What an engine computes is written through to all of them."""

    dram: Annotated[Space | None, Meta(description="of each engine")] = None
    disk: Annotated[Space | None, Meta(description="of each engine")] = None
    remote: Annotated[Space | None, Meta(description="one store for all engines of the pool")] = None


class Replicas(Settings, frozen=True, kw_only=True):
    """Equal engines of one pool."""

    name: Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$", description="name of the pool; engines are NAME-0 ...")] = (
        "pool"
    )
    replicas: Annotated[int, Meta(ge=1, le=1000, description="engines")] = 1
    model: Annotated[str, Meta(description="a model of the catalogue, e.g. qwen3-32b")] = "qwen3-32b"
    gpu: Annotated[str, Meta(description="a GPU of the catalogue, e.g. h100")] = "h100"
    tp: Annotated[int, Meta(ge=1, le=64, description="tensor-parallel degree: GPUs of one engine")] = 1
    precision: Annotated[str, Meta(description="of the weights: bf16, fp8, fp4, int4")] = "bf16"
    utilisation: Annotated[float, Meta(gt=0, le=1, description="share of GPU memory the engine may use")] = 0.9
    kv_blocks: Annotated[int | None, Meta(ge=1, description="KV blocks of one engine; default: what fits")] = None
    block_size: Annotated[
        int | None, Meta(ge=1, description="tokens of one KV block; default: the workload's, so that its keys fit")
    ] = None
    batched_tokens: Annotated[int, Meta(ge=1, description="most tokens of one step")] = 8192
    sequences: Annotated[int, Meta(ge=1, description="most sequences of one step")] = 1024
    admission: Annotated[
        str, Meta(pattern="^(whole_prompt|first_chunk)$", description="when a waiting request may start")
    ] = "whole_prompt"
    async_scheduling: Annotated[
        bool, Meta(description="a step is planned while the one before it runs: vLLM from 0.14 on, not on CPUs")
    ] = True
    prefix_cache: Annotated[bool, Meta(description="finished prompts stay cached")] = True
    kv_events: Annotated[bool, Meta(description="engines report their KV blocks; else the gateway assumes")] = True
    step_time: Annotated[
        str | None, Meta(description="file of `pilothouse calibrate`; default: measured or estimated coefficients")
    ] = None
    speculation: Annotated[Speculating | None, Meta(description="speculative decoding; default: none")] = None
    start_up: Annotated[Duration, Meta(description="from a start or restart until it serves")] = duration(60 * SECOND)
    role: RoleName = "both"
    link: Annotated[Link, Meta(description="of each engine of a prefill or decode pool")] = Link()
    labels: Annotated[dict[str, str], Meta(description="where the engines stand: rack, zone, ...")] = {}
    tiers: Annotated[SimulatedTiers, Meta(description="KV below the GPU; default: none")] = SimulatedTiers()


class Lateness(Settings, frozen=True, kw_only=True):
    """How late everything is."""

    client: Annotated[Duration, Meta(description="from the scheduled send time to the gateway")] = duration(0)
    tokenise: Annotated[Duration, Meta(description="per 1,000 prompt tokens, in the gateway")] = duration(200)
    network: Annotated[Duration, Meta(description="between gateway and engine, each way")] = duration(500)
    kv_events: Annotated[Duration, Meta(description="from the end of a step to the index")] = duration(5_000)
    scrape_every: Annotated[Duration, Meta(description="between load reports; 0s = none")] = duration(SECOND)
    scraped: Annotated[Duration, Meta(description="age of a load report when it arrives")] = duration(5_000)


class Fault(Settings, frozen=True, kw_only=True):
    """Something that goes wrong, by the clock of the run."""

    kind: Annotated[
        str,
        Meta(
            pattern="^(crash|slow|lost_kv_events|stale_metrics|partition)$",
            description="crash (restarts after start_up), slow (steps take `factor` times as long), lost_kv_events, "
            "stale_metrics (reports stop), partition (the gateway cannot reach it)",
        ),
    ]
    endpoint: Annotated[str, Meta(description="engine NAME-N, or NAME for the whole pool")]
    at: Annotated[Duration, Meta(description="after the beginning of the run")] = duration(0)
    lasts: Annotated[Duration | None, Meta(description="default: to the end; a crash ends by itself")] = None
    factor: Annotated[float, Meta(gt=0, description="of `slow`: step time is multiplied by it")] = 2.0


class Slo(Settings, frozen=True, kw_only=True):
    """What a request must meet to count as good."""

    ttft: Annotated[Duration | None, Meta(description="time to first token")] = None
    ttft_per_1k: Annotated[
        Duration, Meta(description="added to `ttft` for each 1,000 prompt tokens: a long prompt may take longer")
    ] = duration(0)
    tpot: Annotated[Duration | None, Meta(description="time per output token, mean over the request")] = None
    e2e: Annotated[Duration | None, Meta(description="whole request")] = None


class Scenario(Settings, frozen=True, kw_only=True):
    """A fleet, a workload, policies, and what goes wrong."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="title of tables and reports")] = "scenario"
    pools: Annotated[list[Replicas], Meta(min_length=1, description="the fleet")]
    gateways: Annotated[int, Meta(ge=1, le=64, description="gateways that each know only their own requests")] = 1
    delays: Annotated[Lateness, Meta(description="how late signals are")] = Lateness()
    workload: Annotated[Any, Meta(description="a workload, or the path of its file")]
    policies: Annotated[list[Any], Meta(min_length=1, description="names, or profiles as in pilothouse.yaml")] = listed(
        DEFAULT
    )
    loads: Annotated[list[float], Meta(min_length=1, description="factors on the workload's own rate")] = listed(1.0)
    seeds: Annotated[list[int], Meta(min_length=1, description="each run is repeated with each seed")] = listed(1)
    objectives: Annotated[Slo, Meta(description="service level of goodput")] = Slo()
    tenants: Annotated[dict[str, Slo], Meta(description="service levels of single tenants")] = {}
    faults: Annotated[list[Fault], Meta(description="what goes wrong")] = []
