"""Requests with their token ids, as LLMServingSim keeps ShareGPT: what they share is found by hashing, as an engine does.

source   casys-kaist/LLMServingSim (MIT)
"""

from hashlib import blake2b

import msgspec

from pilothouse.core.units import BlockKey, Micros
from pilothouse.workload.requests import Workload
from pilothouse.workload.texts import held
from pilothouse.workload.traces.replay import Recorded, Replay, replay, window


class ShareGpt(Replay, frozen=True, tag="sharegpt", tag_field="kind"):
    """A trace with token ids."""

    block_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 1:
            raise ValueError("block_size must be at least 1")


class _Row(msgspec.Struct, frozen=True):
    arrival_time_ns: int
    input_tok_ids: list[int]
    output_tok_ids: list[int]


def parse(data: bytes, size: int) -> list[Recorded]:
    """Raises msgspec.MsgspecError or ValueError where it is something else."""
    made = []
    for row in sorted(msgspec.json.Decoder(_Row).decode_lines(data), key=lambda row: row.arrival_time_ns):
        prompt, output = len(row.input_tok_ids), len(row.output_tok_ids)
        if not prompt or not output:
            raise ValueError("a request without tokens")
        keys = hashed(row.input_tok_ids + row.output_tok_ids, size, held(prompt, output, size))
        full = prompt // size
        made.append(Recorded(Micros(row.arrival_time_ns // 1000), prompt, output, keys[:full], keys[full:]))
    return made


def hashed(ids: list[int], size: int, blocks: int) -> list[BlockKey]:
    """Keys of the first blocks of a text: the hash of a block's ids and of the key before it."""
    made, before = [], b""
    for start in range(0, blocks * size, size):
        own = b"".join(id_.to_bytes(4, "little") for id_ in ids[start : start + size])
        before = blake2b(before + own, digest_size=8).digest()
        made.append(BlockKey(int.from_bytes(before)))
    return made


def generate(spec: ShareGpt, rows: list[Recorded], seed: int, load: float = 1.0) -> Workload:
    """`load` divides the time between requests."""
    return replay(spec, window(spec, rows), seed, load, spec.block_size, 0)
