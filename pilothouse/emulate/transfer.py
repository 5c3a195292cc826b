"""Prefill here, decode there: the parameters that vLLM's NIXL connector hands from one engine to the other, and the KV.

What the engine itself does about it is simulated (`sim/handed.py`): it makes room, waits, and keeps what others fetch. Here
is the time in between. An engine fetches one prompt after the other. One in the same process is told when that is done;
what others keep stays there until the end of its lease, as if their notice had been lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil
from typing import Any
from uuid import UUID

from pilothouse.core.random_stream import stream

LEASE_US = 30_000_000  # vLLM 0.32: kv_lease_duration
Let = Callable[[str], None]  # what an engine does when KV that it keeps under a name was fetched
Then = Callable[[int], None]  # at a time of the engine's


@dataclass(slots=True)
class Link:
    """An engine's network interface, and what it waits for."""

    engine: str  # its name for others
    bytes_per_us: float
    token_bytes: float
    others: dict[str, Let]  # engines of this process, by name
    free_us: float = 0.0  # when what was asked for so far is here
    _due: list[tuple[int, int, Then]] = field(default_factory=list)  # heap: (when, tie, what then)
    _ties: int = 0

    def fetch(self, tokens: int, now_us: int, then: Then) -> None:
        """`then` follows when the KV of so many tokens is here."""
        self.free_us = max(now_us, self.free_us) + tokens * self.token_bytes / self.bytes_per_us
        self.at(ceil(self.free_us), then)

    def at(self, at_us: int, then: Then) -> None:
        self._ties += 1
        heappush(self._due, (at_us, self._ties, then))

    def due_us(self) -> int | None:
        return self._due[0][0] if self._due else None

    def do_next(self) -> None:
        at_us, _, then = heappop(self._due)
        then(at_us)


def engine_id(seed: int, name: str) -> str:
    """A name like those that engines draw, the same for the same seed."""
    return str(UUID(int=stream(seed, f"engine/{name}").getrandbits(128), version=4))


def engines_name(request: str, is_chat: bool, number: int) -> str:
    """What the engine itself calls the request of an answer: each prompt of it has a number, and all are made unique."""
    return f"{request}{'' if is_chat else '-0'}-{number & 0xFFFFFFFF:08x}"


def handed_over(
    request: str, tokens: int, block_size: int, tp: int, engine: str, host: str, port: int
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
        "remote_prefill_cached_tokens": 0,  # until the engine has looked into its cache
    }
