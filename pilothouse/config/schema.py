"""Every setting there is, with its meaning, unit and default. `pilothouse config explain` prints this file."""

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from pilothouse.config.values import Duration, Size
from pilothouse.policies.profiles import DEFAULT

MILLISECOND, SECOND, MINUTE = 1_000, 1_000_000, 60_000_000


def duration(us: int) -> Any:
    return field(default_factory=lambda: Duration(us))


def size(count: int) -> Any:
    return field(default_factory=lambda: Size(count))


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every section."""


class Engine(Settings, frozen=True, kw_only=True):
    """One engine that runs already."""

    url: Annotated[str, Meta(description="where it listens, http://host:port")]
    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._:\[\]-]{0,128}$",
            description="its name in headers, logs, metrics; default: host:port",
        ),
    ] = ""
    kv_events: Annotated[
        str | None,
        Meta(description="ZMQ address where it publishes KV events (the engine must bind); default: ask the engine"),
    ] = None
    kv_replay: Annotated[str | None, Meta(description="ZMQ address of its replay socket; default: ask the engine")] = (
        None
    )


class Dns(Settings, frozen=True, kw_only=True):
    """Engines behind one DNS name: each address it resolves to is an endpoint."""

    name: Annotated[str, Meta(description="host name to resolve, e.g. a headless Service")]
    port: Annotated[int, Meta(ge=1, le=65535, description="the engines' HTTP port")]
    every: Annotated[Duration, Meta(description="how often to resolve")] = duration(10 * SECOND)


class Hashing(Settings, frozen=True, kw_only=True):
    """How the engines hash KV blocks; read from the engine's metrics unless given."""

    algorithm: Annotated[
        str | None, Meta(description="sha256, sha256_cbor, xxhash or xxhash_cbor; default: what the engine reports")
    ] = None
    seed: Annotated[str | None, Meta(description="PYTHONHASHSEED of the engines, if they set one")] = None


RoleName = Annotated[
    str,
    Meta(
        pattern="^(both|prefill|decode)$",
        description="prefill: computes prompts for others; decode: serves, with KV from a prefill pool where that "
        "pays; both: serves alone",
    ),
]


class Connector(Settings, frozen=True, kw_only=True):
    """How engines hand KV to each other: as they were started."""

    type: Annotated[
        str,
        Meta(
            pattern="^(nixl|nixl_push|files|mooncake|mooncake_store|lmcache|offloading|multi|sglang)$",
            description="nixl, nixl_push, files, mooncake, mooncake_store, lmcache, offloading, multi, sglang",
        ),
    ]
    carrier: Annotated[str, Meta(description="of `multi`: which of its connectors hands prompts over, e.g. nixl")] = (
        "nixl"
    )
    lease: Annotated[
        Duration,
        Meta(description="how long a prefill engine keeps KV that nobody has fetched (vLLM: kv_lease_duration)"),
    ] = duration(30 * SECOND)
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(description="of the bootstrap server (mooncake, sglang: 8998) or peers (offloading: 7777)"),
    ] = None


class Tiers(Settings, frozen=True, kw_only=True):
    """KV below the GPU: how fast engines fetch it from where, and which store they share."""

    dram_gb_per_s: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="gigabytes per second from DRAM; default: 32")
    ] = None
    disk_gb_per_s: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="gigabytes per second from disk; default: 5")
    ] = None
    remote_gb_per_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="gigabytes per second from a shared store or another machine; default: 5"),
    ] = None
    store: Annotated[
        str | None,
        Meta(
            description="name of the store that these engines share with all pools of the same name: what one puts there, "
            "all can fetch; '' = none; default: one for all pools with connector mooncake_store, one for lmcache"
        ),
    ] = None
    store_size: Annotated[Size | None, Meta(description="what that store holds; default: unknown, taken as plenty")] = (
        None
    )


class Pool(Settings, frozen=True, kw_only=True):
    """Engines that are interchangeable."""

    name: Annotated[str, Meta(min_length=1, description="name of the pool")] = "default"
    engine: Annotated[str, Meta(pattern="^(vllm|sglang)$", description="vllm or sglang: whose metric names")] = "vllm"
    endpoints: Annotated[list[Engine], Meta(description="engines with a fixed address")] = []
    dns: Annotated[Dns | None, Meta(description="engines found by DNS, in place of `endpoints`")] = None
    models: Annotated[
        list[str],
        Meta(description="names that requests may use before any engine was reached; default: what the engines list"),
    ] = []
    tokenizer: Annotated[
        str | None,
        Meta(description="directory or hub name with tokenizer and chat template; default: the engine's model root"),
    ] = None
    hashing: Annotated[Hashing, Meta(description="KV block hashing")] = Hashing()
    api_key_env: Annotated[str | None, Meta(description="environment variable that holds the engines' own API key")] = (
        None
    )
    role: RoleName = "both"
    connector: Annotated[
        Connector | None, Meta(description="how KV comes from a prefill pool, or goes to a decode pool")
    ] = None
    labels: Annotated[dict[str, str], Meta(description="where the engines stand: rack, zone, ...")] = {}
    tiers: Annotated[Tiers, Meta(description="KV below the GPU")] = Tiers()


class Clients(Settings, frozen=True, kw_only=True):
    """What clients may do."""

    api_keys_env: Annotated[
        str | None,
        Meta(description="environment variable with accepted API keys, comma separated; default: no key asked"),
    ] = None
    grants: Annotated[
        list[str],
        Meta(description="engine-control fields of a body, or paths, that clients may use, e.g. cache_salt, /metrics"),
    ] = []
    session_header: Annotated[
        str, Meta(pattern="^[A-Za-z0-9-]{1,64}$", description="request header that names a conversation")
    ] = "x-session-id"


class Limits(Settings, frozen=True, kw_only=True):
    """The most there may be of each thing."""

    connections: Annotated[int, Meta(ge=1, description="client connections per worker")] = 4096
    head: Annotated[Size, Meta(description="request line and headers")] = size(64 << 10)
    body: Annotated[Size, Meta(description="request body")] = size(32 << 20)
    pool_connections: Annotated[int, Meta(ge=1, description="connections per worker to one engine")] = 2048
    waiting: Annotated[int, Meta(ge=0, description="requests that may wait at the gateway")] = 4096
    attempts: Annotated[int, Meta(ge=1, description="attempts per request, the first included")] = 4
    retry_ratio: Annotated[float, Meta(ge=0, description="retries earned per request")] = 0.2
    retries_per_second: Annotated[float, Meta(ge=0, description="retries earned by time")] = 10.0
    retries_burst: Annotated[float, Meta(ge=1, description="most retries saved up")] = 200.0
    sessions: Annotated[int, Meta(ge=1, description="conversations remembered")] = 100_000
    index_blocks: Annotated[int, Meta(ge=1024, description="KV blocks remembered, over all engines")] = 20_000_000
    token_cache: Annotated[Size, Meta(description="tokenised text kept per worker and model")] = size(256 << 20)


class Timeouts(Settings, frozen=True, kw_only=True):
    """How long to wait for each thing."""

    head: Annotated[Duration, Meta(description="a client's request head")] = duration(10 * SECOND)
    body: Annotated[Duration, Meta(description="between two parts of a client's body")] = duration(30 * SECOND)
    keep_alive: Annotated[Duration, Meta(description="an idle client connection")] = duration(75 * SECOND)
    connect: Annotated[Duration, Meta(description="a connection to an engine")] = duration(2 * SECOND)
    first_byte: Annotated[Duration, Meta(description="an engine's first byte: queue and prefill")] = duration(
        10 * MINUTE
    )
    idle: Annotated[Duration, Meta(description="between two parts of an engine's answer")] = duration(2 * MINUTE)
    total: Annotated[Duration, Meta(description="a whole request")] = duration(60 * MINUTE)
    waiting: Annotated[Duration, Meta(description="a request that no engine can take")] = duration(30 * SECOND)
    held: Annotated[
        Duration, Meta(description="a request that waits at the gateway for an engine with little to do")
    ] = duration(10 * MINUTE)
    drain: Annotated[Duration, Meta(description="requests in flight when the gateway stops")] = duration(30 * SECOND)


class Health(Settings, frozen=True, kw_only=True):
    """When an engine is left out, and when it comes back."""

    every: Annotated[Duration, Meta(description="between active checks of one engine")] = duration(SECOND)
    timeout: Annotated[Duration, Meta(description="of one active check")] = duration(3 * SECOND)
    failures: Annotated[int, Meta(ge=1, description="failed requests in a row before ejection")] = 3
    probe_failures: Annotated[int, Meta(ge=1, description="failed checks in a row before ejection")] = 2
    backoff: Annotated[Duration, Meta(description="shortest ejection, doubled each time")] = duration(SECOND)
    backoff_max: Annotated[Duration, Meta(description="longest ejection")] = duration(30 * SECOND)


class Signals(Settings, frozen=True, kw_only=True):
    """What engines say of themselves."""

    scrape_every: Annotated[Duration, Meta(description="between scrapes of one engine's metrics")] = duration(
        2 * SECOND
    )
    stale_after: Annotated[Duration, Meta(description="age at which a report is no longer trusted")] = duration(
        10 * SECOND
    )


class Journal(Settings, frozen=True, kw_only=True):
    """The record of events and commands: token counts and block keys, never text."""

    directory: Annotated[str | None, Meta(description="where to write it; default: no journal")] = None
    bytes_max: Annotated[Size, Meta(description="the oldest segments go beyond this")] = size(1 << 30)
    segment: Annotated[Size, Meta(description="bytes of one segment; each can be replayed by itself")] = size(64 << 20)


class Tracing(Settings, frozen=True, kw_only=True):
    """OpenTelemetry spans (extra `tracing`). The W3C trace context is passed on in any case."""

    otlp: Annotated[str | None, Meta(description="OTLP/HTTP endpoint of a collector; default: no spans")] = None
    sample_ratio: Annotated[float, Meta(ge=0, le=1, description="share of requests traced without a parent")] = 0.05


class Config(Settings, frozen=True, kw_only=True):
    """The gateway."""

    listen: Annotated[str, Meta(description="address of the OpenAI-compatible API, host:port")] = "127.0.0.1:8080"
    control: Annotated[str, Meta(description="address of metrics, status and explain, host:port; do not expose it")] = (
        "127.0.0.1:9090"
    )
    workers: Annotated[int, Meta(ge=1, le=64, description="processes that carry traffic; all share one picker")] = 1
    policy: Annotated[
        Any,
        Meta(description="a shipped policy by name, or a profile: {like, filters, scorers, picker, queue, decider}"),
    ] = DEFAULT
    seed: Annotated[int, Meta(description="of all random draws")] = 0
    pools: Annotated[list[Pool], Meta(min_length=1, description="the engines")]
    clients: Annotated[Clients, Meta(description="what clients may do")] = Clients()
    limits: Annotated[Limits, Meta(description="maxima")] = Limits()
    timeouts: Annotated[Timeouts, Meta(description="times")] = Timeouts()
    health: Annotated[Health, Meta(description="ejection and return")] = Health()
    signals: Annotated[Signals, Meta(description="load reports")] = Signals()
    journal: Annotated[Journal, Meta(description="the record")] = Journal()
    tracing: Annotated[Tracing, Meta(description="spans")] = Tracing()
