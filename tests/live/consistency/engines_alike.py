"""Engines to compare, whole or in part, for tests of consistency."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from pilothouse.config.schema import Connector, Pool
from pilothouse.config.values import Duration
from pilothouse.live.consistency.facts import PROPERTIES, Facts, Member, member

NAMES = [p.name for p in PROPERTIES]
WHOLE = Facts(
    version="0.32.0", model="/models/m", revision="", dtype="bfloat16", quantization="", block_size="32",
    cache_dtype="auto", hash_algorithm="sha256_cbor", hash_seed="0", connector="nixl", lease="30", renewal="30", draft="",
    role="kv_both", speculation="", attention_backend="auto", kernels="moe auto", eager="false", max_model_len="8192",
    parallel="TP 1", prefix_caching="true", max_num_seqs="256", max_num_batched_tokens="2048",
)  # fmt: skip
PARTIAL = st.fixed_dictionaries({name: st.sampled_from([None, "", "1", "2"]) for name in NAMES}).map(
    lambda values: Facts(**values)
)


def pool(role: str = "both", kind: str | None = "nixl", name: str = "", lease_s: int = 30) -> Pool:
    connector = Connector(type=kind, lease=Duration(lease_s * 1_000_000)) if kind else None
    return Pool(name=name or role, role=role, connector=connector)


def engine(name: str, of: Pool, facts: Facts = WHOLE, **changed: Any) -> Member:
    """Serving model m; `changed` are properties that are not those of `facts`."""
    return member(name, of, msgspec.structs.replace(facts, **changed), ("m",))
