"""Answers of engines, as they were recorded, become facts."""

from typing import Any

import pytest

from pilothouse.live.consistency.facts import Facts
from pilothouse.live.consistency.reading import backend_word, connector_word, launch_facts, method_of, told_facts
from pilothouse.live.inspect import Listed, Metrics, parse_metrics

TEXT = """vllm:num_requests_running{engine="0"} 0.0
vllm:cache_config_info{block_size="32",num_gpu_blocks="11",prefix_caching_hash_algo="sha256",cache_dtype="fp8"} 1.0
"""
SPECULATING = TEXT + "vllm:spec_decode_num_draft_tokens_total 9.0\nvllm:spec_decode_num_accepted_tokens_total 3.0\n"
MODELS = [Listed("adapter", "/lora", "m"), Listed("m", "/models/m", None, 8192)]
INFO: dict[str, Any] = {  # of vLLM 0.32, cut down
    "vllm_config": {
        "model_config": {"model": "/models/m", "dtype": "torch.bfloat16", "revision": None, "quantization": None,
                         "max_model_len": 8192, "enforce_eager": True},
        "cache_config": {"block_size": 32, "cache_dtype": "auto", "prefix_caching_hash_algo": "sha256_cbor"},
        "parallel_config": {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "data_parallel_size": 1},
        "scheduler_config": {"max_num_seqs": 16, "max_num_batched_tokens": 2048},
        "attention_config": {"backend": None},
        "kernel_config": {"moe_backend": "auto", "linear_backend": "auto"},
        "speculative_config": {"num_speculative_tokens": 3, "model": "ngram", "method": "ngram"},
        "kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": "kv_producer",
                               "kv_connector_extra_config": {"kv_lease_duration": 4}},
    },
    "vllm_env": {"VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": 480},
    "system_env": {"vllm_version": "0.32.0"},
}  # fmt: skip


def metrics(text: str = TEXT, engine: str = "vllm") -> Metrics:
    return parse_metrics(text, engine)


def test_an_engine_in_development_mode_tells_all() -> None:
    facts = told_facts("vllm", metrics(), MODELS, launch_facts("vllm", "0.32.0", INFO))
    assert facts == Facts(
        version="0.32.0", model="/models/m", dtype="bfloat16", quantization="", block_size="32", cache_dtype="fp8",
        hash_algorithm="sha256", connector="nixl", lease="4", renewal="4", draft="", role="kv_producer",
        speculation="ngram 3 tokens", attention_backend="auto", kernels="moe auto, linear auto", eager="true",
        max_model_len="8192", parallel="TP 1, PP 1, DP 1", prefix_caching="true", max_num_seqs="16",
        max_num_batched_tokens="2048",
    )  # fmt: skip


def test_any_other_tells_what_metrics_version_and_models_say() -> None:
    facts = told_facts("vllm", metrics(), MODELS, launch_facts("vllm", "0.32.0", {}))
    assert facts == Facts(
        version="0.32.0", model="/models/m", block_size="32", cache_dtype="fp8", hash_algorithm="sha256", draft="",
        speculation="", max_model_len="8192", prefix_caching="true",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "info", "method"),
    [(TEXT, {}, ""), (TEXT, INFO, "ngram"), (SPECULATING, {}, "unnamed"), (SPECULATING, INFO, "ngram")],
)
def test_speculation_is_named_or_at_least_noticed(text: str, info: dict[str, Any], method: str) -> None:
    facts = told_facts("vllm", metrics(text), MODELS, launch_facts("vllm", "", info))
    assert method_of(facts, metrics(text)) == method
    assert (facts.draft is None) == (method == "unnamed")


@pytest.mark.parametrize(
    ("transfer", "connector", "lease"),
    [
        (None, "", None),
        ({"kv_connector": "NixlPushConnector"}, "nixl_push", "30"),
        ({"kv_connector": "MooncakeConnectorCPU"}, "mooncake", "480"),
        ({"kv_connector": "MultiConnector", "kv_connector_extra_config": {"connectors": [
            {"kv_connector": "NixlConnector", "kv_connector_extra_config": {"kv_lease_duration": 6}},
            {"kv_connector": "ExampleConnector"}]}}, "multi/nixl+files", "6"),
        ({"kv_connector": "ExampleConnector"}, "files", None),
    ],
)  # fmt: skip
def test_connectors_and_their_leases(transfer: Any, connector: str, lease: str | None) -> None:
    info = {**INFO, "vllm_config": {**INFO["vllm_config"], "kv_transfer_config": transfer}}
    facts = launch_facts("vllm", "", info)
    assert (facts.connector, facts.lease) == (connector, lease)
    assert facts.renewal == (lease if "nixl" in connector else None)  # Mooncake does not renew


def test_words_of_classes() -> None:
    assert connector_word("NixlConnectorLazy") == "nixl" and connector_word("Strange") == "Strange"
    assert backend_word("vllm.v1.attention.backends.flash_attn.FlashAttentionBackend") == "FLASH_ATTN"
    assert backend_word(None) == backend_word("AUTO") == "auto"


def test_sglang_tells_its_launch_arguments() -> None:
    info = {
        "version": "0.6.0", "model_path": "m", "page_size": 64, "kv_cache_dtype": "auto", "disaggregation_mode": "decode",
        "speculative_algorithm": "EAGLE3", "speculative_draft_model_path": "e", "tp_size": 2, "context_length": 4096,
        "attention_backend": "fa3", "disable_radix_cache": False,
    }  # fmt: skip
    loads = metrics("sglang:num_running_reqs 0.0\n", "sglang")
    facts = told_facts("sglang", loads, [], launch_facts("sglang", "", info))
    assert (facts.version, facts.block_size, facts.connector, facts.role) == ("0.6.0", "64", "sglang", "decode")
    assert (facts.draft, facts.parallel, facts.prefix_caching) == ("EAGLE3 e", "TP 2", "true")
    assert launch_facts("sglang", "", {}) == Facts()
    assert launch_facts("sglang", "", info | {"disaggregation_mode": "null"}).connector == ""


ABSURD = {"kv_connector": 5, "kv_connector_extra_config": {"connectors": 5, "kv_lease_duration": "x"}}


@pytest.mark.parametrize(
    "config", [1, {"cache_config": []}, {"x": 1}, {"kv_transfer_config": ABSURD}, {"speculative_config": [1]}]
)
def test_nonsense_tells_nothing(config: Any) -> None:
    assert launch_facts("vllm", "", {"vllm_config": config}).block_size is None
