"""What engines say of themselves, honest or absurd."""

import pytest

from pilothouse.live.inspect import COUNT_MAX, Metrics, drafts_since, parse_metrics

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


def drafting(drafted: float, accepted: float, started_s: float = 1.0) -> Metrics:
    counters = (
        f"vllm:spec_decode_num_draft_tokens_total {drafted}\nvllm:spec_decode_num_accepted_tokens_total {accepted}"
    )
    return parse_metrics(f"{GOOD.replace('17.5', str(started_s))}{counters}\n", "vllm")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, drafting(30, 10), (0, 0)),  # what came before we looked is not since the last look
        (drafting(30, 10), drafting(36, 12), (6, 2)),
        (drafting(30, 10), drafting(30, 10), (0, 0)),
        (drafting(30, 10), drafting(6, 2, started_s=2.0), (6, 2)),
        (drafting(30, 10), drafting(60, 20, started_s=2.0), (60, 20)),
        (drafting(30, 10, started_s=0.0), drafting(6, 2, started_s=0.0), (6, 2)),
        (drafting(30, 10), drafting(6, 2), (0, 0)),  # an older scrape that came later
        (parse_metrics(GOOD, "vllm"), parse_metrics(GOOD, "vllm"), (0, 0)),
    ],
)
def test_drafts_are_counted_between_two_scrapes(
    before: Metrics | None, now: Metrics, expected: tuple[int, int]
) -> None:
    assert drafts_since(before, now) == expected


def test_an_engine_that_speculates_counts_drafts_and_others_do_not() -> None:
    assert drafting(0, 0).speculates and not parse_metrics(GOOD, "vllm").speculates
    assert not parse_metrics("sglang:num_running_reqs 4.0\n", "sglang").speculates
