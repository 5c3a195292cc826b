"""Those who ask, on virtual time: each request on a connection of its own, at its time or after another's end."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from pilothouse.core.random_stream import stream
from pilothouse.core.units import Micros, RequestId
from pilothouse.live.tokens.dialect import ID_BYTES, NO_SCOPE, pack
from pilothouse.wire.openai import session_key
from pilothouse.workload.requests import Planned
from rig.virtual.fleet import DOOR, Fleet, Model

SERVED = "tiny"
PREFIX_IDS = range(300, 900)  # plain tokens of any vocabulary
BEGIN_US = 1_000  # the first load report of a simulated run is there by then


@dataclass(frozen=True)
class Ask:
    """One request: what is said, and what will be answered. `leaves_us`: the client goes so long after it was sent."""

    name: str
    at_us: int  # after the beginning; with `after`, after the end of that request
    ids: tuple[int, ...]
    output: int
    session: str = ""
    after: str | None = None
    leaves_us: int | None = None
    stream: bool = True


@dataclass(frozen=True)
class Got:
    """What came of it. Times are microseconds after the beginning."""

    status: int
    sent_us: int
    first_us: int
    end_us: int
    whole: bool


def asks(kind: Model, count: int, seed: int, *, seconds: float, long: int = 2000, turns: float = 0.3) -> list[Ask]:
    """Prompts that share beginnings of several lengths, and conversations that go on from their own answers."""
    luck, made, said = stream(seed, "parity/asks"), list[Ask](), dict[str, tuple[int, ...]]()
    groups = [tuple(luck.choices(PREFIX_IDS, k=luck.randint(16, long))) for _ in range(6)]
    for i in range(count):
        name, output = f"r{i}", luck.choice([1, 2, 8, 25, 60])
        own = tuple(luck.choices(PREFIX_IDS, k=luck.randint(1, 900)))
        before = luck.choice(made) if made and luck.random() < turns else None
        if before is not None and len(said[before.name]) < 2 * long:
            ids, after, at_us = said[before.name] + own, before.name, luck.randint(1, 500_000)
            session = before.session
        else:
            ids, after, at_us = luck.choice(groups) + own, None, luck.randint(BEGIN_US, int(seconds * 1e6))
            session = f"s{i}" if luck.random() < 0.7 else ""
        made.append(Ask(name, at_us, ids, output, session, after))
        said[name] = ids + tuple(_answer(kind, ids, output))
    return made


def planned(kind: Model, ask: Ask) -> Planned:
    """The same request as the simulator plans it: with the engine's own block keys, the answer's included."""
    dialect, packed = kind.prompts.dialect, pack(ask.ids)
    digest, keys = dialect.extend(dialect.root(NO_SCOPE), packed, NO_SCOPE, True)
    step = dialect.block_size * ID_BYTES
    tail = packed[len(packed) - len(packed) % step :]
    _, added = dialect.extend(digest, tail + pack(_answer(kind, ask.ids, ask.output)[:-1]), NO_SCOPE, not keys)
    after = None if ask.after is None else RequestId(ask.after)
    session = session_key(ask.session) if ask.session else 0
    return Planned(
        RequestId(ask.name), Micros(ask.at_us), keys, len(ask.ids), ask.output, ask.output, session, added, after
    )  # type: ignore[arg-type]


def _answer(kind: Model, ids: Sequence[int], output: int) -> list[int]:
    """The tokens that an emulated engine will say."""
    dialect, packed = kind.prompts.dialect, pack(ids)
    digest, _ = dialect.extend(dialect.root(NO_SCOPE), packed, NO_SCOPE, True)
    seed = xxhash.xxh3_64_digest(digest + packed[-dialect.block_size * ID_BYTES :])
    return kind.words.plan(seed, output).ids(0, output)


async def send(running: Fleet, all_of_them: Sequence[Ask]) -> dict[str, Got]:
    """Sends them, from now on, through the doors in turn; returns when all have ended."""
    start_us, ends = running.loop.now_us, {ask.name: asyncio.Event() for ask in all_of_them}
    got: dict[str, Got] = {}

    async def one(number: int, ask: Ask) -> None:
        if ask.after is None:
            await asyncio.sleep((start_us + ask.at_us - running.loop.now_us) / 1e6)
        else:
            await ends[ask.after].wait()
            await asyncio.sleep(ask.at_us / 1e6)
        try:
            got[ask.name] = await _exchange(running, ask, f"{DOOR}-{number % len(running.doors)}", start_us)
        finally:
            ends[ask.name].set()

    async with asyncio.TaskGroup() as tasks:
        for number, ask in enumerate(all_of_them):
            tasks.create_task(one(number, ask), name=ask.name)
    return got


async def _exchange(running: Fleet, ask: Ask, host: str, start_us: int) -> Got:
    reader, writer = await asyncio.open_connection(host, 80)
    loop = running.loop
    sent_us, first_us = loop.now_us, 0
    writer.write(_raw(ask))
    if ask.leaves_us is not None:
        loop.call_later(ask.leaves_us / 1e6, writer.transport.abort)
    head, rest, status = b"", b"", 0
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        while part := await reader.read(1 << 20):
            first_us = first_us or loop.now_us
            rest += part
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()
    whole = rest.endswith(b"0\r\n\r\n") and b"data: [DONE]" in rest if ask.stream else status != 0
    return Got(status, sent_us - start_us, (first_us or loop.now_us) - start_us, loop.now_us - start_us, whole)


def _raw(ask: Ask) -> bytes:
    body = {"model": SERVED, "prompt": list(ask.ids), "max_tokens": ask.output, "stream": ask.stream}
    if ask.stream:
        body["stream_options"] = {"include_usage": True}  # as simulated answers are always counted by their engines
    data = json.dumps(body).encode()
    fields = f"host: door\r\nconnection: close\r\nx-request-id: {ask.name}\r\ncontent-type: application/json\r\n"
    if ask.session:
        fields += f"x-session-id: {ask.session}\r\n"
    return f"POST /v1/completions HTTP/1.1\r\n{fields}content-length: {len(data)}\r\n\r\n".encode() + data
