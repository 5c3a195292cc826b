"""Reads what an engine is out of its answers. Pure: bytes and parsed answers in, `Facts` out.

source     vLLM 0.32's /server_info?config_format=json, tried; SGLang's /server_info as documented, not run here
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from pilothouse.live.consistency.facts import Facts
from pilothouse.live.inspect import Listed, Metrics

DRAFTING_ON_KV = ("eagle", "eagle3", "mtp", "dflash", "dspark")  # methods that keep KV of their own layers
LEASE_S = 30  # vLLM's default of kv_lease_duration
CONNECTORS = {  # beginning of a class name -> our word; longer beginnings first
    "NixlPush": "nixl_push",
    "Nixl": "nixl",
    "MooncakeStore": "mooncake_store",
    "Mooncake": "mooncake",
    "LMCache": "lmcache",
    "Offloading": "offloading",
    "Example": "files",
    "Multi": "multi",
}


def launch_facts(engine: str, version: str, info: Mapping[str, Any]) -> Facts:
    """What stays the same while the engine's process lives; `version` "" and `info` empty where it does not answer."""
    facts = sglang_facts(info) if engine == "sglang" else vllm_facts(info)
    return msgspec.structs.replace(facts, version=version or facts.version)


def told_facts(engine: str, metrics: Metrics, models: list[Listed], launch: Facts) -> Facts:
    """All that an engine says of itself."""
    base = next((model for model in models if model.parent is None), Listed(""))
    facts = launch
    if engine == "vllm":
        facts = msgspec.structs.replace(facts, prefix_caching=str(metrics.prefix_caching).lower())
        if facts.speculation is None and not metrics.speculates:  # its counters exist only with speculation
            facts = msgspec.structs.replace(facts, speculation="", draft="")
    return msgspec.structs.replace(
        facts,
        model=base.root or facts.model,
        max_model_len=_text(base.max_model_len) or facts.max_model_len,
        block_size=_text(metrics.block_size or None) or facts.block_size,
        cache_dtype=metrics.cache_dtype or facts.cache_dtype,
        hash_algorithm=metrics.hash_algorithm or facts.hash_algorithm,
    )


def method_of(facts: Facts, metrics: Metrics) -> str:
    """The method of speculative decoding, for events and status; "" = none, "unnamed" = only its counters are seen."""
    told = (facts.speculation or "").partition(" ")[0]
    return told or ("unnamed" if metrics.speculates else "")


def vllm_facts(info: Mapping[str, Any]) -> Facts:
    """Out of /server_info?config_format=json, or of the same structure made from a command line."""
    config = _map(info.get("vllm_config"))
    if not config:
        return Facts()
    model, cache, parallel = (_map(config.get(f"{part}_config")) for part in ("model", "cache", "parallel"))
    scheduler, kernels = _map(config.get("scheduler_config")), _map(config.get("kernel_config"))
    transfer = config.get("kv_transfer_config")
    connector, role, lease = transfer_facts(_map(transfer), _map(info.get("vllm_env")))
    speculation, draft = speculation_facts(_map(config.get("speculative_config")))
    return Facts(
        version=_text(_map(info.get("system_env")).get("vllm_version")),
        model=_text(model.get("model")),
        revision=_text(model.get("revision")),
        dtype=_text(model.get("dtype"), "torch."),
        quantization=_text(model.get("quantization")) or "",
        block_size=_text(cache.get("block_size")),
        cache_dtype=_text(cache.get("cache_dtype")),
        hash_algorithm=_text(cache.get("prefix_caching_hash_algo")),
        connector=connector,
        lease=lease,
        renewal=lease if "nixl" in connector else None,
        draft=draft,
        role=role,
        speculation=speculation,
        attention_backend=backend_word(_text(_map(config.get("attention_config")).get("backend"))),
        kernels=_listed(moe=kernels.get("moe_backend"), linear=kernels.get("linear_backend")),
        eager=_flag(model.get("enforce_eager")),
        max_model_len=_text(model.get("max_model_len")),
        parallel=_listed(
            TP=parallel.get("tensor_parallel_size"),
            PP=parallel.get("pipeline_parallel_size"),
            DP=parallel.get("data_parallel_size"),
        ),
        max_num_seqs=_text(scheduler.get("max_num_seqs")),
        max_num_batched_tokens=_text(scheduler.get("max_num_batched_tokens")),
    )


def transfer_facts(transfer: Mapping[str, Any], environment: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Connector, role and lease [s] of a --kv-transfer-config."""
    if not transfer:
        return "", "", None
    extra = _map(transfer.get("kv_connector_extra_config"))
    connector = connector_word(str(transfer.get("kv_connector") or ""))
    several = extra.get("connectors")
    children = [child for child in several if isinstance(child, dict)] if isinstance(several, list) else []
    if children:
        connector += "/" + "+".join(connector_word(str(child.get("kv_connector") or "")) for child in children)
    lease = None
    if "nixl" in connector:
        given = [_map(child.get("kv_connector_extra_config")).get("kv_lease_duration") for child in children]
        stated = [value for value in (extra.get("kv_lease_duration"), *given) if isinstance(value, int | float)]
        lease = str(stated[0] if stated else LEASE_S)
    elif connector == "mooncake":
        lease = _number(environment.get("VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT"))
    return connector, str(transfer.get("kv_role") or ""), lease


def connector_word(name: str) -> str:
    """Our word for a connector of vLLM, also for classes derived from it; an unknown one keeps its name."""
    return next((word for beginning, word in CONNECTORS.items() if name.startswith(beginning)), name)


def speculation_facts(config: Mapping[str, Any]) -> tuple[str, str]:
    """Method with its settings, and what of it concerns the KV that is handed over."""
    if not config:
        return "", ""
    method, model = str(config.get("method") or "unnamed"), str(config.get("model") or "")
    drafter = "" if model == method else model
    words = [method, drafter, f"{config.get('num_speculative_tokens')} tokens"]
    speculation = " ".join(word for word in words if word)
    return speculation, f"{method} {drafter}".strip() if method in DRAFTING_ON_KV else ""


def backend_word(told: str | None) -> str:
    """As --attention-backend has it; /server_info tells the class with its modules."""
    if told is None or told.lower() == "auto":
        return "auto"
    return told.split(".")[-2].upper() if "." in told else told.upper()


def sglang_facts(info: Mapping[str, Any]) -> Facts:
    """Out of SGLang's /server_info: its launch arguments by name."""
    if not info:
        return Facts()
    mode = _text(info.get("disaggregation_mode"))
    algorithm = _text(info.get("speculative_algorithm")) or ""
    drafter = _text(info.get("speculative_draft_model_path")) or ""
    return Facts(
        version=_text(info.get("version")),
        model=_text(info.get("model_path")),
        revision=_text(info.get("revision")),
        dtype=_text(info.get("dtype")),
        quantization=_text(info.get("quantization")) or "",
        block_size=_text(info.get("page_size")),
        cache_dtype=_text(info.get("kv_cache_dtype")),
        connector="" if mode in (None, "null") else "sglang",
        draft=f"{algorithm} {drafter}".strip() if algorithm.upper() not in ("", "NGRAM") else "",
        role="" if mode in (None, "null") else mode,
        speculation=f"{algorithm} {drafter}".strip(),
        attention_backend=_text(info.get("attention_backend")),
        max_model_len=_text(info.get("context_length")),
        parallel=_listed(TP=info.get("tp_size"), PP=info.get("pp_size"), DP=info.get("dp_size")),
        prefix_caching=_flag(info.get("disable_radix_cache"), unless=True),
        max_num_seqs=_text(info.get("max_running_requests")),
        max_num_batched_tokens=_text(info.get("chunked_prefill_size")),
    )


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object, prefix: str = "") -> str | None:
    if value is None or value == "" or isinstance(value, dict | list):
        return None
    return str(value).removeprefix(prefix)


def _flag(value: object, *, unless: bool = False) -> str | None:
    return str(value is not unless).lower() if isinstance(value, bool) else None


def _number(value: object) -> str | None:
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return None


def _listed(**values: object) -> str | None:
    told = [f"{name} {value}" for name, value in values.items() if value is not None]
    return ", ".join(told) or None
