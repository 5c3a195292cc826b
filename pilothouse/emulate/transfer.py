"""Prefill here, decode there: the parameters that vLLM's NIXL connector hands from one engine to the other."""

from typing import Any
from uuid import UUID

from pilothouse.core.random_stream import stream


def engine_id(seed: int, name: str) -> str:
    """A name like those that engines draw, the same for the same seed."""
    return str(UUID(int=stream(seed, f"engine/{name}").getrandbits(128), version=4))


def engines_name(request: str, is_chat: bool, number: int) -> str:
    """What the engine itself calls the request of an answer: each prompt of it has a number, and all are made unique."""
    return f"{request}{'' if is_chat else '-0'}-{number & 0xFFFFFFFF:08x}"


def handed_over(
    request: str, tokens: int, cached: int, block_size: int, tp: int, engine: str, host: str, port: int
) -> dict[str, Any]:
    """What a prefill engine answers to `do_remote_decode`: where the prompt's KV lies."""
    blocks = -(-tokens // block_size)
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [list(range(1, blocks + 1))],
        "remote_engine_id": engine,
        "remote_request_id": request,
        "remote_host": host,
        "remote_port": port,
        "tp_size": tp,
        "dcp_size": 1,
        "pp_size": 1,
        "remote_num_tokens": tokens,
        "remote_blocks_expiry_time": None,
        "transfer_mode": "pull",
        "remote_prefill_cached_tokens": cached,
    }


def fetch_us(tokens: int, bytes_per_token: float, gb_per_s: float) -> int:
    """How long KV takes from there to here [microseconds]."""
    return int(tokens * bytes_per_token / (gb_per_s * 1e3))
