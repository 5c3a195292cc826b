"""Mooncake's traces: one JSON object a line, with ids of 512-token blocks.

An id stands for its block and all before it (every id has one predecessor in both published files), so it is a key
already; here it is only spread over 64 bits, apart for each file. The last id of a row may stand for a block that is not
full: no engine would cache that, so it is left out. Times come in batches of 3 s in the conversation trace.

A row continues an earlier one if it begins with all of that one's full blocks, more than the first, which all share.
source   kvcache-ai/Mooncake, FAST25-release/traces (Apache-2.0)
"""

from hashlib import blake2b

import msgspec

from pilothouse.core.units import BlockKey, Micros
from pilothouse.workload.requests import WORD, Workload, mixed
from pilothouse.workload.texts import held, text
from pilothouse.workload.traces.replay import Recorded, Replay, batch_us, replay, window

BLOCK = 512  # tokens


class Mooncake(Replay, frozen=True, tag="mooncake", tag_field="kind"):
    """A Mooncake trace."""

    answers: bool = False  # answers stay cached for the row that continues them; published hit rates count prompts only


class _Row(msgspec.Struct, frozen=True):
    timestamp: int  # milliseconds
    input_length: int
    output_length: int
    hash_ids: list[int]


def parse(data: bytes) -> list[Recorded]:
    """Raises msgspec.MsgspecError or ValueError where it is something else."""
    rows = msgspec.json.Decoder(_Row).decode_lines(data)
    salt = text(blake2b(data, digest_size=8).hexdigest())
    names = {id_: BlockKey(mixed(salt + id_ & WORD)) for row in rows for id_ in row.hash_ids}
    ends: dict[int, int] = {}  # last full block -> the latest row that ends with it
    sessions, answers = [0] * len(rows), [list[BlockKey]() for _ in rows]
    blocks = [[names[id_] for id_ in row.hash_ids[: row.input_length // BLOCK]] for row in rows]
    for i, keys in enumerate(blocks):
        sessions[i] = mixed(salt + i & WORD) | 1
        for count in range(len(keys), 1, -1):
            before = ends.get(keys[count - 1])
            if before is not None:
                sessions[i] = sessions[before]
                end = held(rows[before].input_length, rows[before].output_length, BLOCK)
                answers[before] = answers[before] or keys[count:end]
                break
        if len(keys) > 1:
            ends[keys[-1]] = i
    return [
        Recorded(
            Micros(row.timestamp * 1000), max(row.input_length, 1), max(row.output_length, 1), keys, answer, session
        )
        for row, keys, answer, session in zip(rows, blocks, answers, sessions, strict=True)
    ]


def generate(spec: Mooncake, rows: list[Recorded], seed: int, load: float = 1.0) -> Workload:
    """`load` divides the time between requests."""
    inside = window(spec, rows)
    if not spec.answers:
        inside = [msgspec.structs.replace(row, output_blocks=[]) for row in inside]
    return replay(spec, inside, seed, load, BLOCK, batch_us(rows))
