"""Mooncake's traces: one JSON object a line, with ids of 512-token blocks.

An id stands for its block and all before it (every id has one predecessor in both published files), so it is a key
already; here it is only spread over 64 bits, apart for each file. The last id of a row may stand for a block that is not
full: no engine would cache that, so it is left out. Times come in batches of 3 s in the conversation trace.

A row belongs to the conversation of the row with which it shares most, if that is more than the first block, which all
share (38.7 % of the conversation trace). If it has all of that row's full blocks, the answer to that row comes next.
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
    blocks = [[names[id_] for id_ in row.hash_ids[: row.input_length // BLOCK]] for row in rows]
    sessions, answers = [mixed(salt + i & WORD) | 1 for i in range(len(rows))], [list[BlockKey]() for _ in rows]
    holders: dict[BlockKey, int] = {}  # block -> the latest row that has it
    ends: dict[BlockKey, int] = {}  # block -> the latest row of which it is the last full one
    for i, keys in enumerate(blocks):
        shared = next((n for n in range(len(keys), 1, -1) if keys[n - 1] in holders), 0)
        if shared:
            sessions[i] = sessions[holders[keys[shared - 1]]]
            before = ends.get(keys[shared - 1])
            if before is not None and not answers[before]:
                end = held(rows[before].input_length, rows[before].output_length, BLOCK)
                answers[before] = keys[shared:end]
        holders.update(dict.fromkeys(keys, i))
        if keys:
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
