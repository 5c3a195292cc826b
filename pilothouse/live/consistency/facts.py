"""What an engine is, property by property, and which properties engines must have alike. Pure.

One table, `PROPERTIES`, serves the gateway, which pairs engines by it, and `fleet check`, which reports by it.
"""

from enum import StrEnum

import msgspec

from pilothouse.config.schema import Connector, Pool

STORES = ("files", "mooncake_store", "lmcache", "offloading")  # one store for all: engines of one pool share KV too
LEASING = (
    "nixl",
    "nixl_push",
    "mooncake",
    "multi",
)  # the prefill engine keeps KV until it is fetched, or its lease ends
DEV_MODE = "/server_info"  # only of engines started with VLLM_SERVER_DEV_MODE=1; SGLang always has it


class Breaks(StrEnum):
    """What a difference does, worst first."""

    EXCHANGE = "breaks KV exchange"  # wrong tokens are possible, or the engines refuse each other
    COMPARABILITY = "breaks comparability"  # what one replica measures does not hold for the other
    NOTE = "note"


class Facts(msgspec.Struct, frozen=True):
    """One engine. All text, since it is only compared and shown; None = not told, "" = told that there is none."""

    version: str | None = None
    model: str | None = None  # directory or hub name of the weights
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    block_size: str | None = None  # tokens
    cache_dtype: str | None = None
    hash_algorithm: str | None = None
    hash_seed: str | None = None
    connector: str | None = None  # in the words of `pools[].connector.type`; of several: "multi/nixl+files"
    lease: str | None = None  # seconds
    renewal: str | None = None  # the lease by which a decode engine paces its renewals, with connectors that renew
    draft: str | None = None  # method and model of speculation that keeps KV of its own
    role: str | None = None  # kv_producer, kv_consumer, kv_both, or SGLang's words
    speculation: str | None = None
    attention_backend: str | None = None  # as asked for: "auto" leaves it to the engine
    kernels: str | None = None  # of experts and linear layers, likewise
    eager: str | None = None  # true: neither compiled nor captured
    max_model_len: str | None = None  # tokens
    parallel: str | None = None
    prefix_caching: str | None = None
    max_num_seqs: str | None = None
    max_num_batched_tokens: str | None = None


class Property(msgspec.Struct, frozen=True):
    """One field of `Facts`: what a difference does between engines that hand KV to each other, and within a pool."""

    name: str
    words: str
    source: str  # where an engine tells it
    pin: str  # how a launch manifest says it
    between: Breaks | None  # None: may differ
    within: Breaks | None
    pairs: bool = False  # part of `exchange`: engines that differ are not paired at all


PROPERTIES = (
    Property("version", "version", "/version", "the image's tag", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("model", "model root", "/v1/models", "the model", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("revision", "model revision", DEV_MODE, "--revision", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("dtype", "model dtype", DEV_MODE, "--dtype", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("quantization", "quantization", DEV_MODE, "--quantization", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("block_size", "block size", "/metrics", "--block-size", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("cache_dtype", "cache dtype", "/metrics", "--kv-cache-dtype", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property(
        "hash_algorithm", "hash algorithm", "/metrics", "--prefix-caching-hash-algo", Breaks.EXCHANGE,
        Breaks.COMPARABILITY, True,
    ),
    Property("hash_seed", "hash seed", "", "PYTHONHASHSEED", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("connector", "connector", DEV_MODE, "--kv-transfer-config", Breaks.EXCHANGE, Breaks.COMPARABILITY, True),
    Property("lease", "KV lease", DEV_MODE, "--kv-transfer-config", None, Breaks.COMPARABILITY),
    # vLLM's decode engine renews a lease at the pace of its own setting: set longer than the prefill engine's, too late.
    Property("renewal", "KV lease", DEV_MODE, "--kv-transfer-config", Breaks.EXCHANGE, None, True),
    # Its layers are part of the KV that goes over. `speculation` says the same within a pool.
    Property("draft", "drafting on KV", DEV_MODE, "--speculative-config", Breaks.EXCHANGE, None, True),
    # Told as asked for, not as chosen: engines compare the chosen one when they meet, and refuse each other.
    Property("attention_backend", "attention backend", DEV_MODE, "--attention-backend", Breaks.EXCHANGE,
             Breaks.COMPARABILITY),
    Property("kernels", "kernel backends", DEV_MODE, "--moe-backend, --linear-backend", Breaks.NOTE,
             Breaks.COMPARABILITY),
    Property("eager", "enforce_eager", DEV_MODE, "--enforce-eager", Breaks.NOTE, Breaks.COMPARABILITY),
    Property("role", "connector's role", DEV_MODE, "--kv-transfer-config", None, Breaks.COMPARABILITY),
    Property("speculation", "speculation", DEV_MODE, "--speculative-config", Breaks.NOTE, Breaks.COMPARABILITY),
    Property("max_model_len", "max_model_len", "/v1/models", "--max-model-len", Breaks.NOTE, Breaks.COMPARABILITY),
    Property("parallel", "parallelism", DEV_MODE, "--tensor-parallel-size", Breaks.NOTE, Breaks.COMPARABILITY),
    Property("prefix_caching", "prefix caching", "/metrics", "--enable-prefix-caching", Breaks.NOTE,
             Breaks.COMPARABILITY),
    Property("max_num_seqs", "max_num_seqs", DEV_MODE, "--max-num-seqs", Breaks.NOTE, Breaks.COMPARABILITY),
    Property("max_num_batched_tokens", "max_num_batched_tokens", DEV_MODE, "--max-num-batched-tokens", Breaks.NOTE,
             Breaks.COMPARABILITY),
)  # fmt: skip


class Member(msgspec.Struct, frozen=True):
    """One engine as a member of its pool."""

    name: str
    pool: Pool
    facts: Facts
    models: tuple[str, ...] = ()  # served names; empty = not known
    doubts: tuple[str, ...] = ()  # why it is paired with nobody, whatever its properties


def connector_words(connector: Connector) -> str:
    """As `Facts.connector` has it."""
    return f"multi/{connector.carrier}" if connector.type == "multi" else connector.type


def member(name: str, pool: Pool, told: Facts, models: tuple[str, ...] = ()) -> Member:
    """What the engine tells, completed by what the configuration states of it, and where the two contradict."""
    facts = msgspec.structs.replace(
        told,
        hash_algorithm=told.hash_algorithm if told.hash_algorithm is not None else pool.hashing.algorithm,
        hash_seed=told.hash_seed if told.hash_seed is not None else pool.hashing.seed,
        connector=connector_words(pool.connector) if pool.connector else told.connector,
    )
    doubts = contradictions(told, pool)
    if pool.connector is not None and not facts.block_size:
        doubts += ("does not tell its block size",)
    return Member(name, pool, facts, models, doubts)


def contradictions(told: Facts, pool: Pool) -> tuple[str, ...]:
    """Where an engine was started otherwise than the configuration says, as far as KV exchange depends on it."""
    if pool.connector is None:
        return ()
    found = []
    kind, _, children = (told.connector or "").partition("/")
    carried = pool.connector.type != "multi" or pool.connector.carrier in children.split("+")
    if told.connector is not None and (kind != pool.connector.type or not carried):
        runs = f"connector {told.connector}" if told.connector else "no connector"
        found.append(f"runs {runs}, the configuration says {connector_words(pool.connector)}")
    wrong = {"prefill": ("kv_consumer", "decode"), "decode": ("kv_producer", "prefill")}.get(pool.role, ())
    if told.role in wrong:
        found.append(f"has role {told.role}, its pool {pool.role}")
    lease_s = pool.connector.lease.seconds
    if told.lease and pool.role == "prefill" and float(told.lease) < lease_s:
        found.append(f"keeps KV for {told.lease} s, the configuration says {lease_s:g} s")
    return tuple(found)


def exchange(engine: Member) -> str:
    """What both ends of a transfer must have alike, as one string; "" without a connector.

    What an engine does not tell is left out, so an end that tells is no partner of one that does not. An engine in
    doubt has its own name in it, so that it is nobody's partner.
    """
    if engine.pool.connector is None:
        return ""
    values = [(p.name, getattr(engine.facts, p.name)) for p in PROPERTIES if p.pairs]
    stated = {name: value for name, value in values if value}
    return msgspec.json.encode(stated | ({"only": engine.name} if engine.doubts else {})).decode()
