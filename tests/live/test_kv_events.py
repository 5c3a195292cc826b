"""The feed against a small publisher that misbehaves on purpose, and against real engines."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import pytest
import zmq
import zmq.asyncio

from pilothouse.core.events import BlocksCleared, BlocksRemoved, BlocksStored, Tier
from pilothouse.core.units import EndpointId
from pilothouse.live.block_names import BlockNames
from pilothouse.live.clock import Clock
from pilothouse.live.kv_events import KvFeed, KvReport
from pilothouse.live.kv_status import FeedSettings
from pilothouse.live.tokens.dialect import Dialect, Own
from pilothouse.wire.kv_events import BlockRemoved, BlockStored, Source, parse_sources
from rig.engines import Engine, Rig

E = EndpointId("e")
SIZE = 32  # tokens per block of the real engines
IMPATIENT = FeedSettings(reconnect_ms=10, reconnect_ms_max=20, replay_timeout_s=0.2, message_bytes_max=100_000)


class Heard:
    """Collects what a feed emits, and waits for it."""

    def __init__(self) -> None:
        self.reports: list[KvReport] = []
        self._more = asyncio.Event()

    def emit(self, report: KvReport) -> None:
        self.reports.append(report)
        self._more.set()

    async def until(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._more.clear()
                await self._more.wait()

    def held(self) -> list[int]:
        """What an index would hold now."""
        blocks: dict[int, None] = {}
        for report in self.reports:
            match report:
                case BlocksStored():
                    blocks |= dict.fromkeys(report.blocks)
                case BlocksRemoved():
                    for key in report.blocks:
                        blocks.pop(key, None)
                case BlocksCleared():
                    blocks.clear()
        return list(blocks)

    @property
    def clears(self) -> int:
        return sum(isinstance(report, BlocksCleared) for report in self.reports)


class Publisher:
    """An engine's side of the wire: numbers messages, keeps a ring, answers replays. Its faults are parameters."""

    def __init__(
        self, context: zmq.asyncio.Context, folder: Path, ring: int = 1000, replies_queued: int = 1000
    ) -> None:
        self.context, self.queued, self.ring_max, self.replies = context, replies_queued, ring, 0
        self.source = Source(f"ipc://{folder}/kv", f"ipc://{folder}/replay")
        self.start()

    def start(self) -> None:
        """A new process: numbers from 0, an empty ring."""
        self.next, self.ring = 0, list[tuple[int, bytes]]()
        self.live, self.replay = self.context.socket(zmq.XPUB), self.context.socket(zmq.ROUTER)
        for socket, address in ((self.live, self.source.endpoint), (self.replay, self.source.replay_endpoint)):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, self.queued)
            assert address is not None
            socket.bind(address)
        self.answering = asyncio.create_task(self._answer(self.replay))

    async def stop(self) -> None:
        self.answering.cancel()
        await asyncio.gather(self.answering, return_exceptions=True)
        self.live.close()
        self.replay.close()

    async def subscribed(self) -> None:
        """Someone listens: what is sent now arrives."""
        async with asyncio.timeout(10):
            while not (await self.live.recv()).startswith(b"\x01"):
                pass

    async def send(self, *events: object, quietly: bool = False) -> None:
        """Publishes a batch; `quietly`: it gets lost on the way, but lies in the ring."""
        await self.send_payload(msgspec.msgpack.encode([1.0, events, 0]), quietly)

    async def send_payload(self, payload: bytes, quietly: bool = False) -> None:
        sequence, self.next = self.next, self.next + 1
        if not quietly:
            await self.live.send_multipart([b"", sequence.to_bytes(8, "big"), payload])
        self.ring = [*self.ring, (sequence, payload)][-self.ring_max :]

    async def _answer(self, replay: zmq.asyncio.Socket) -> None:
        while True:
            peer, _, start = await replay.recv_multipart()
            for sequence, payload in self.ring:
                if sequence >= int.from_bytes(start, "big"):
                    await self._reply(replay, [peer, b"", b"", sequence.to_bytes(8, "big"), payload])
            await self._reply(replay, [peer, b"", b"", b"\xff" * 8, b""])

    async def _reply(self, replay: zmq.asyncio.Socket, frames: list[bytes]) -> None:
        await replay.send_multipart(frames)


def stored(*keys: int, parent: int | None = None, size: int = 2, **fields: object) -> dict[str, object]:
    tokens = [key % 1000 for key in keys for _ in range(size)]
    block = {"type": "BlockStored", "block_hashes": keys, "parent_block_hash": parent, "token_ids": tokens}
    return block | {"block_size": size, "lora_id": None, "medium": "GPU", "lora_name": None} | fields


def removed(*keys: int, medium: str = "GPU") -> dict[str, object]:
    return {"type": "BlockRemoved", "block_hashes": keys, "medium": medium}


@asynccontextmanager
async def following(feed: KvFeed) -> AsyncIterator[KvFeed]:
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def zmq_context() -> Iterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    try:
        yield context
    finally:
        context.term()  # waits for ever if a socket is left open


class Scene:
    """A publisher, a feed on it, and what the feed said."""

    def __init__(self, publisher: Publisher, feed: KvFeed, heard: Heard) -> None:
        self.publisher, self.feed, self.heard = publisher, feed, heard
        self.send = publisher.send

    async def holds(self, *keys: int) -> None:
        await self.heard.until(lambda: sorted(self.heard.held()) == sorted(keys))


def play(
    tmp_path: Path,
    story: Callable[[Scene], Awaitable[None]],
    before: int = 0,
    ring: int = 1000,
    replay: bool = True,
    replies_queued: int = 1000,
    names: BlockNames | None = None,
    writes_through: bool = False,
) -> None:
    """Runs a story; `before` messages are sent before the feed begins, storing blocks 0, 1, ..."""

    async def run() -> None:
        with zmq_context() as context:
            publisher = Publisher(context, tmp_path, ring, replies_queued)
            for i in range(before):
                await publisher.send(stored(i, parent=99))
            source = publisher.source if replay else msgspec.structs.replace(publisher.source, replay_endpoint=None)
            heard = Heard()
            names_ = names or BlockNames(Dialect("sha256_cbor", 2))
            through = {"writes_through": writes_through}
            feed = KvFeed(E, source, names_, heard.emit, Clock(), context, IMPATIENT, **through)
            try:
                async with following(feed):
                    await publisher.subscribed()
                    await story(Scene(publisher, feed, heard))
            finally:
                await publisher.stop()

    asyncio.run(run())


# Order


def test_consecutive_events_are_joined(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, 2, parent=9), stored(3, parent=2), removed(1), removed(2), stored(4, parent=9))
        await scene.holds(3, 4)
        kinds = [(type(r).__name__, getattr(r, "blocks", None)) for r in scene.heard.reports]
        assert kinds == [("BlocksStored", [1, 2, 3]), ("BlocksRemoved", [1, 2]), ("BlocksStored", [4])]
        status = scene.feed.status()
        assert (status.events, status.blocks, status.gaps, status.resets, status.note) == (5, 6, 0, 0, "")
        assert status.last_event_us is not None and status.connected

    play(tmp_path, story)


def test_tiers_and_a_reset(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9), stored(2, parent=9, medium="cpu"), {"type": "AllBlocksCleared"})
        await scene.send(stored(5, parent=9))
        await scene.holds(5)
        tiers = [r.tier for r in scene.heard.reports if isinstance(r, BlocksStored)]
        assert tiers == [Tier.HBM, Tier.DRAM, Tier.HBM]
        assert scene.heard.clears == 1

    play(tmp_path, story)


def put_into_mooncake(key: int, parent: int | None) -> dict[str, object]:
    """As vLLM 0.32 was heard to say it: one event per block, after the GPU's own, and never one of removal."""
    return stored(key, parent=parent, medium="cpu", group_idx=0)


def test_what_a_store_connector_puts_elsewhere_is_the_stores(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        gpu = {"group_idx": 0, "kv_cache_spec_kind": "full_attention", "extra_keys": [None, None], "medium": "GPU"}
        await scene.send(stored(1, 2, parent=9, **gpu))
        await scene.send(put_into_mooncake(1, 9), put_into_mooncake(2, 1))
        await scene.send(removed(2), removed(1), stored(7, parent=9, **gpu | {"extra_keys": [None]}))
        await scene.holds(7)
        told = [
            (type(r).__name__, list(r.blocks), r.tier) for r in scene.heard.reports if not isinstance(r, BlocksCleared)
        ]
        assert told == [
            ("BlocksStored", [1, 2], Tier.HBM),
            ("BlocksStored", [1, 2], Tier.REMOTE),
            ("BlocksRemoved", [2, 1], Tier.HBM),
            ("BlocksStored", [7], Tier.HBM),
        ]

    play(tmp_path, story, names=BlockNames(Dialect("sha256_cbor", 2), shares=True))


def test_a_store_that_writes_through_has_what_was_computed(tmp_path: Path) -> None:
    """LMCache 0.5 names chunks of its own, by hashes of its own: nobody can use these."""

    async def story(scene: Scene) -> None:
        chunk = {"block_size": 4, "medium": "CPU"}
        await scene.send(stored(1, 2, parent=9), removed(5), stored(1000, size=4, **chunk), removed(1000, medium="CPU"))
        await scene.send(stored(3, parent=2))
        await scene.holds(1, 2, 3)
        told = [(list(r.blocks), r.tier) for r in scene.heard.reports if isinstance(r, BlocksStored)]
        assert told == [([1, 2], Tier.HBM), ([1, 2], Tier.REMOTE), ([3], Tier.HBM), ([3], Tier.REMOTE)]
        status = scene.feed.status()
        assert (status.note, status.unnamed) == ("", 0)

    play(tmp_path, story, names=BlockNames(Dialect("sha256_cbor", 2), shares=True), writes_through=True)


def test_a_feed_that_begins_late_reads_the_ring(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.holds(0, 1, 2)
        assert scene.feed.status().resets == 0

    play(tmp_path, story, before=3)


def test_a_first_number_above_zero_is_a_gap(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(7, parent=9))
        await scene.holds(7)
        status = scene.feed.status()
        assert (status.gaps, status.repaired, scene.heard.clears) == (1, 0, 0)
        assert status.note == "what came before message 3 is lost"

    play(tmp_path, story, before=3, replay=False)


def test_a_gap_is_filled_from_the_ring(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.send(stored(2, parent=9), quietly=True)
        await scene.send(removed(1), quietly=True)
        await scene.send(stored(3, parent=9))
        await scene.holds(2, 3)
        await scene.send(stored(4, parent=9))
        await scene.holds(2, 3, 4)
        status = scene.feed.status()
        assert (status.gaps, status.repaired, status.resets) == (1, 1, 0)

    play(tmp_path, story)


def test_a_gap_longer_than_the_ring_clears(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        for key in range(10, 15):
            await scene.send(stored(key, parent=9), quietly=True)
        await scene.send(stored(2, parent=9))
        await scene.holds(13, 14, 2)
        status = scene.feed.status()
        assert (status.gaps, status.repaired, scene.heard.clears) == (1, 0, 1)

    play(tmp_path, story, ring=3)


def test_a_gap_without_replay_clears(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.send(quietly=True)
        await scene.send(stored(2, parent=9))
        await scene.holds(2)
        assert scene.heard.clears == 1

    play(tmp_path, story, replay=False)


def test_a_replay_that_loses_replies_is_asked_again(tmp_path: Path) -> None:
    """A ROUTER drops what does not fit its queue, the end marker included."""

    async def story(scene: Scene) -> None:
        await scene.holds(*range(400))
        assert scene.feed.status().resets == 0

    async def lossy(self: Publisher, replay: zmq.asyncio.Socket, frames: list[bytes]) -> None:
        self.replies += 1
        if self.replies % 90:
            await replay.send_multipart(frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publisher, "_reply", lossy)
        play(tmp_path, story, before=400)


def test_a_replay_that_never_answers_gives_up(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.send(quietly=True)
        await scene.send(stored(2, parent=9))
        await scene.holds(2)
        assert (scene.heard.clears, scene.feed.status().repaired) == (1, 0)

    async def dumb(self: Publisher, replay: zmq.asyncio.Socket, frames: list[bytes]) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Publisher, "_reply", dumb)
        play(tmp_path, story)


# Restarts


def test_a_number_that_falls_back_is_a_restart(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        for key in (1, 2, 3):
            await scene.send(stored(key, parent=9))
        await scene.holds(1, 2, 3)
        scene.publisher.next, scene.publisher.ring = 0, []
        await scene.send(stored(4, parent=9))
        await scene.holds(4)
        assert "sequence fell" in scene.feed.status().note

    play(tmp_path, story, replay=False)


def test_an_engine_that_restarts_idle_is_cleared_before_it_says_a_word(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.publisher.stop()
        scene.publisher.start()
        await scene.holds()
        await scene.publisher.subscribed()
        await scene.send(stored(2, parent=9))
        await scene.holds(2)
        assert scene.heard.clears == 1

    play(tmp_path, story)


def test_a_restarted_engine_that_is_ahead_already_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.publisher.stop()
        scene.publisher.start()
        for key in (5, 6, 7):
            await scene.send(stored(key, parent=9), quietly=True)
        await scene.holds(5, 6, 7)
        assert scene.heard.clears == 1

    play(tmp_path, story)


def test_a_lost_connection_to_the_same_process_keeps_what_is_known(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        kept = scene.publisher.next, scene.publisher.ring
        await scene.publisher.stop()
        scene.publisher.start()
        scene.publisher.next, scene.publisher.ring = kept
        await scene.publisher.subscribed()
        await scene.send(stored(2, parent=9))
        await scene.holds(1, 2)
        assert scene.heard.clears == 0

    play(tmp_path, story)


def test_a_restart_reported_from_outside(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        scene.feed.restarted()
        assert scene.heard.held() == []
        await scene.publisher.stop()
        scene.publisher.start()
        await scene.publisher.subscribed()
        await scene.send(stored(2, parent=9))
        await scene.holds(2)

    play(tmp_path, story)


# Hostile or broken


def test_garbage_is_counted_and_survived(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        for frames in ([b""], [b"", b"short", b"x"], [b""] * 9):
            await scene.publisher.live.send_multipart(frames)
        await scene.publisher.send_payload(b"\xc1garbage")
        await scene.holds()  # what it said is lost, so nothing is certain
        await scene.send(stored(2, parent=9))
        await scene.holds(2)
        assert scene.feed.status().malformed == 4

    play(tmp_path, story)


def test_a_huge_frame_ends_the_connection_not_the_gateway(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.publisher.live.send_multipart([b"", bytes(8), bytes(IMPATIENT.message_bytes_max + 1)])
        await scene.publisher.subscribed()  # again: it has reconnected
        await scene.send(stored(2, parent=9))
        await scene.holds(1, 2)

    play(tmp_path, story)


def test_a_flood_leaves_the_loop_to_others(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        task = asyncio.create_task(other())
        for key in range(200):
            await scene.send(stored(key, parent=9_999))
        await scene.holds(*range(200))
        task.cancel()
        assert turns >= 200

    play(tmp_path, story)


# Names

PROMPT = list(range(10, 18))  # four blocks of two tokens


def block_event(engine_keys: list[int], tokens: list[int], parent: int | None = None, **fields: Any) -> BlockStored:
    encoded = msgspec.msgpack.encode(
        {"type": "BlockStored", "block_hashes": engine_keys, "parent_block_hash": parent, "token_ids": tokens}
        | {"block_size": 2}
        | fields
    )
    return msgspec.msgpack.decode(encoded, type=BlockStored)


def test_hashes_of_the_pools_dialect_are_taken_as_they_are() -> None:
    dialect = Dialect("sha256_cbor", 2)
    names = BlockNames(dialect)
    keys = dialect.chain(PROMPT)
    assert names.stored(block_event([5], [1, 2], parent=4)) == [5]  # not the first of a prompt: believed
    modes = [names.mode]
    assert names.stored(block_event(list(keys), PROMPT)) == keys
    assert [*modes, names.mode] == ["unchecked", "direct"]


@pytest.mark.parametrize("dialect", [Own(block_size=2), Dialect("sha256_cbor", 2), Dialect("xxhash_cbor", 2, "7")])
def test_strange_hashes_are_mapped_through_token_ids(dialect: Dialect) -> None:
    names = BlockNames(dialect)
    keys = dialect.chain(PROMPT)
    assert names.stored(block_event([100, 101], PROMPT[:4])) == keys[:2]
    assert names.mode == "mapped"
    assert names.stored(block_event([102, 103], PROMPT[4:], parent=101)) == keys[2:]
    assert names.removed(BlockRemoved([103, 102])) == [keys[3], keys[2]]
    assert names.removed(BlockRemoved([103])) == []
    assert names.stored(block_event([105], [1, 2], parent=103)) == []
    assert names.unnamed == 1


def test_salt_and_adapter_are_part_of_mapped_names() -> None:
    own = Own(block_size=2)
    names = BlockNames(own, {"ad1": "/adapters/1"})
    salted = names.stored(block_event([1, 2], PROMPT[:4], extra_keys=[["tenant"], None]))
    assert salted == own.chain(PROMPT[:4], cache_salt="tenant")
    assert names.stored(block_event([3], PROMPT[4:6], parent=2)) == own.chain(PROMPT[:6], cache_salt="tenant")[2:]
    both = names.stored(block_event([4, 5], PROMPT[:4], lora_name="ad1", extra_keys=[["ad1", "tenant"], ["ad1"]]))
    assert both == own.chain(PROMPT[:4], lora=("ad1", "/adapters/1"), cache_salt="tenant")
    assert not set(salted) & set(own.chain(PROMPT[:4]))


def test_media_cannot_be_named_nor_what_follows_them() -> None:
    names = BlockNames(Own(block_size=2))
    event = block_event([1, 2, 3], PROMPT[:6], extra_keys=[None, [["image", 0]], None])
    assert names.stored(event) == Own(block_size=2).chain(PROMPT[:2])
    assert names.unnamed == 2


def test_a_mapped_name_lives_as_long_as_its_last_tier() -> None:
    names = BlockNames(Own(block_size=2))
    (key,) = names.stored(block_event([1], PROMPT[:2]))
    assert names.stored(block_event([1], [], medium="cpu")) == [key]
    assert names.removed(BlockRemoved([1], medium="GPU")) == [key]
    assert names.removed(BlockRemoved([1], medium="CPU")) == [key]
    assert names.removed(BlockRemoved([1], medium="CPU")) == []


def test_a_store_keeps_no_mapped_name_alive() -> None:
    """Nobody says when it drops a block."""
    names = BlockNames(Own(block_size=2), shares=True)
    (key,) = names.stored(block_event([1], PROMPT[:2]))
    assert names.stored(block_event([1], PROMPT[:2], medium="cpu")) == [key]
    assert names.removed(BlockRemoved([1], medium="GPU")) == [key]
    assert names.removed(BlockRemoved([1], medium="GPU")) == []


def test_events_from_below_the_gpu_name_nothing_new() -> None:
    """They leave out the salt: with it the same tokens are another block."""
    names = BlockNames(Own(block_size=2))
    assert names.stored(block_event([1], PROMPT[:2], medium="cpu")) == [] and names.unnamed == 1
    direct = BlockNames(Dialect("sha256_cbor", 2))
    assert direct.stored(block_event([1], PROMPT[:2], medium="cpu")) == [1] and direct.mode == "unchecked"


def test_the_short_events_of_native_offloading_are_understood() -> None:
    """vLLM 0.32 names an offloaded block by its hash alone, unless `self_describing_kv_events` is set."""
    short = {"medium": "CPU", "group_idx": 0, "locality": "LOCAL", "block_size": 0, "lora_id": None, "lora_name": None}
    names = BlockNames(Dialect("sha256_cbor", 2))
    event = block_event([1], [], **short)
    assert (names.stored(event), names.tier(event), names.mode, names.wrong_size) == ([1], Tier.DRAM, "unchecked", 0)
    gone = BlockRemoved([1], medium="STORAGE", group_idx=0, locality="REMOTE")
    assert (names.removed(gone), names.tier(gone)) == ([1], Tier.REMOTE)


def test_mapped_names_are_bounded() -> None:
    names = BlockNames(Own(block_size=2), blocks_max=3)
    assert len(names.stored(block_event([1, 2, 3, 4], PROMPT))) == 3
    assert names.unnamed == 1


def test_only_the_full_attention_group_counts() -> None:
    names = BlockNames(Own(block_size=2))
    assert names.stored(block_event([1], [1, 2], group_idx=0, kv_cache_spec_kind="sliding_window")) == []
    (key,) = names.stored(block_event([1], [1, 2], group_idx=1, kv_cache_spec_kind="full_attention"))
    assert names.removed(BlockRemoved([1], group_idx=0)) == []
    assert names.removed(BlockRemoved([1], group_idx=1)) == [key]


def test_another_block_size_is_loud(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, size=4), {"type": "AllBlocksCleared"})
        await scene.heard.until(lambda: scene.heard.clears == 1)
        assert scene.feed.status().note == "engine's block size is 4, the pool's 2"
        assert scene.feed.status().unnamed == 1

    play(tmp_path, story)


def test_a_wrong_belief_in_direct_names_is_taken_back(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.send(stored(1, parent=9))
        await scene.holds(1)
        await scene.send(stored(500))
        await scene.holds(*Dialect("sha256_cbor", 2).chain([500, 500]))
        assert scene.feed.status().mode == "mapped"

    play(tmp_path, story)


# Real engines


def ids(seed: int, blocks: int) -> list[int]:
    """A prompt of so many blocks and a few tokens more."""
    return [100 + (seed * 7919 + i * 31) % 1500 for i in range(blocks * SIZE + 5)]


def ask(engine: Engine, prompt: list[int], **fields: object) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "temperature": 0, **fields}
    request = Request(f"{engine.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def follow_engine(engine: Engine, dialect: Dialect, story: Callable[[KvFeed, Heard], Awaitable[None]]) -> None:
    with urlopen(f"{engine.url}/kv_event_sources", timeout=5) as answer:
        (source,) = parse_sources(answer.read(), "127.0.0.1")

    async def run() -> None:
        with zmq_context() as context:
            heard = Heard()
            feed = KvFeed(E, source, BlockNames(dialect), heard.emit, Clock(), context)
            async with following(feed):
                await story(feed, heard)

    asyncio.run(run())


@pytest.mark.engine
def test_real_events_evictions_and_a_restart(rig: Rig, tiny: Path) -> None:
    dialect = Dialect("sha256_cbor", SIZE)
    engine = rig.start(tiny, args=["--num-gpu-blocks-override", "24", "--max-model-len", "640"])
    with engine:

        async def story(feed: KvFeed, heard: Heard) -> None:
            chains = [dialect.chain(ids(n, 8)) for n in range(4)]
            await asyncio.to_thread(ask, engine, ids(0, 8))
            await heard.until(lambda: heard.held() == chains[0])
            assert feed.status().mode == "direct"
            salted = dialect.chain(ids(0, 2), cache_salt="tenant")
            await asyncio.to_thread(ask, engine, ids(0, 2), cache_salt="tenant")
            await heard.until(lambda: set(salted) <= set(heard.held()))

            for n in (1, 2, 3):  # more than 24 blocks in all: the oldest go
                await asyncio.to_thread(ask, engine, ids(n, 8))
            await heard.until(lambda: set(chains[3]) <= set(heard.held()))
            held = set(heard.held())
            assert len(held) <= 24
            for n, chain in enumerate(chains):  # what we believe is what the engine reuses
                believed = next((i for i, key in enumerate(chain) if key not in held), len(chain))
                if n in (3, 0):
                    usage = (await asyncio.to_thread(ask, engine, ids(n, 8)))["usage"]
                    assert (usage["prompt_tokens_details"] or {"cached_tokens": 0})["cached_tokens"] == believed * SIZE

            engine.kill()
            rig.restart(engine)
            await asyncio.to_thread(engine.wait_ready)
            await heard.until(lambda: heard.held() == [], timeout=30)
            await asyncio.to_thread(ask, engine, ids(9, 3))
            await heard.until(lambda: heard.held() == dialect.chain(ids(9, 3)))
            assert feed.status().mode == "direct"

        follow_engine(engine, dialect, story)


@pytest.mark.engine
def test_a_real_engine_with_a_random_seed_is_mapped(rig: Rig, tiny: Path) -> None:
    own = Own(block_size=SIZE)
    with rig.start(tiny, args=["--prefix-caching-hash-algo", "xxhash"]) as engine:

        async def story(feed: KvFeed, heard: Heard) -> None:
            await asyncio.to_thread(ask, engine, ids(0, 4))
            await asyncio.to_thread(ask, engine, ids(0, 4)[: 3 * SIZE] + ids(1, 2))
            await asyncio.to_thread(ask, engine, ids(0, 4), cache_salt="tenant")
            want = own.chain(ids(0, 4)) + own.chain(ids(0, 4)[: 3 * SIZE] + ids(1, 2))
            want += own.chain(ids(0, 4), cache_salt="tenant")
            await heard.until(lambda: set(heard.held()) == set(want))
            assert (feed.status().mode, feed.status().unnamed) == ("mapped", 0)

        follow_engine(engine, own, story)
        # A feed that begins now learns the same from the ring
        follow_engine(engine, own, lambda feed, heard: heard.until(lambda: len(heard.held()) >= 4))
