"""The labels of vLLM's `cache_config_info`: what can be said of an emulated cache, and None for the rest."""

from pilothouse.emulate.settings import Settings

UNSAID = (
    "cache_hit_alignment_tokens", "hash_block_size", "kv_cache_layout", "kv_cache_memory_bytes", "kv_offloading_size",
    "mamba_block_size", "mamba_page_size_padded", "num_cpu_blocks", "num_gpu_blocks_override", "prefix_match_unit",
    "sliding_window",
)  # fmt: skip
OFF = (
    "enable_mamba_shared_prefix_checkpoint", "is_attention_free", "kv_sharing_fast_prefill", "skip_page_size_padded",
    "use_kda_recoverssm", "use_replayssm",
)  # fmt: skip


def cache_config(settings: Settings) -> dict[str, str]:
    """Label -> value."""
    spec, wanted = settings.spec, settings.wanted
    said = {
        "_block_size_resolved": "True",
        "block_size": str(spec.block_size),
        "cache_dtype": "auto",
        "effective_attention_block_size": str(spec.block_size),
        "enable_prefix_caching": "True",
        "engine": "0",
        "gpu_memory_utilization": str(wanted.utilisation),
        "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_max_concurrency": f"{spec.kv_blocks * spec.block_size / wanted.max_model_len:.2f}",
        "kv_cache_size_tokens": str(spec.kv_blocks * spec.block_size),
        "kv_offloading_backend": "native",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_ssm_cache_dtype": "float32",
        "num_gpu_blocks": str(spec.kv_blocks + 1),  # the engine's first block is never used
        "prefix_cache_retention_interval": "0",
        "prefix_caching_hash_algo": settings.algorithm,
        "replayssm_buffer_len": "16",
        "swa_bounded_replay": "True",
        "user_specified_block_size": "True",
    }
    return dict(sorted((said | dict.fromkeys(UNSAID, "None") | dict.fromkeys(OFF, "False")).items()))
