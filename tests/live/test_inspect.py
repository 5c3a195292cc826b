"""What engines say of themselves, honest or absurd."""

import pytest

from pilothouse.live.inspect import COUNT_MAX, parse_metrics

GOOD = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_running{engine="1"} 3.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:prefix_cache_queries_total{engine="0"} 100.0
vllm:prefix_cache_hits_total{engine="0"} 40.0
vllm:cache_config_info{block_size="32",num_gpu_blocks="101",prefix_caching_hash_algo="sha256_cbor"} 1.0
process_start_time_seconds 17.5
"""


def test_ranks_are_summed_and_the_cache_is_described() -> None:
    metrics = parse_metrics(GOOD, "vllm")
    assert (metrics.running, metrics.waiting, metrics.kv_used_ratio) == (5, 1, 0.5)
    assert (metrics.block_size, metrics.kv_blocks, metrics.hash_algorithm) == (32, 100, "sha256_cbor")
    assert (metrics.computed_tokens, metrics.started_s) == (60.0, 17.5)


def test_sglang_s_names_are_read_as_well() -> None:
    text = "sglang:num_running_reqs 4.0\nsglang:num_queue_reqs 2.0\nsglang:token_usage 0.5\n"
    metrics = parse_metrics(text, "sglang")
    assert (metrics.running, metrics.waiting, metrics.kv_used_ratio) == (4, 2, 0.5)


@pytest.mark.parametrize("value", ["1e30", "9" * 30, "-5"])
def test_absurd_counts_are_bounded(value: str) -> None:
    metrics = parse_metrics(GOOD.replace("2.0", value), "vllm")
    assert 0 <= metrics.running <= COUNT_MAX


def test_an_absurd_capacity_counts_as_untold() -> None:
    assert parse_metrics(GOOD.replace('"101"', '"' + "9" * 30 + '"'), "vllm").kv_blocks == 0


@pytest.mark.parametrize("text", ["", "x 1\n", GOOD.replace("2.0", "+Inf"), GOOD.replace("2.0", "NaN")])
def test_what_cannot_be_believed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"among its metrics|not finite"):
        parse_metrics(text, "vllm")
