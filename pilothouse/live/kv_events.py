"""The live feed of one engine's KV events: what it publishes becomes `BlocksStored`, `BlocksRemoved`, `BlocksCleared`.

Messages are numbered from 0 by the engine's process. The feed applies each number once and in order:

- a gap, the first number included, is filled from the engine's replay socket, a ring of its last messages;
- a replay starts with the last message applied. If that comes back unchanged, the process is the same. If it differs
  or is gone, either the engine was restarted or the ring is too short: all knowledge is cleared and rebuilt from what
  the ring holds;
- a number that falls back on the live socket is a restart; so is, after a reconnect, a replay that disowns us.

Knowledge that may be wrong is cleared, never kept: a false hit costs more than a miss.
One feed is one data-parallel rank. An engine with several needs one endpoint id per rank: a rank's clear is its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from pilothouse.core.events import BlocksCleared, BlocksRemoved, BlocksStored, Tier
from pilothouse.core.units import EndpointId, Micros
from pilothouse.live.block_names import BlockNames
from pilothouse.live.clock import Clock
from pilothouse.live.kv_status import DEFAULTS, Counts, FeedSettings, FeedStatus
from pilothouse.live.supervise import supervised
from pilothouse.wire.kv_events import (
    AllBlocksCleared,
    BatchDecoder,
    BlockRemoved,
    KvEvent,
    KvEventError,
    Message,
    Source,
    parse_message,
)

RETRY_S = 1.0  # ZeroMQ schedules its reconnect at once after a loss; after a protocol error it never does
KvReport = BlocksStored | BlocksRemoved | BlocksCleared


class KvFeed:
    """Follows one source; `run` lasts until its task is cancelled."""

    def __init__(
        self,
        endpoint: EndpointId,
        source: Source,
        names: BlockNames,
        emit: Callable[[KvReport], None],
        clock: Clock,
        context: zmq.asyncio.Context,
        settings: FeedSettings = DEFAULTS,
        *,
        writes_through: bool = False,
    ) -> None:
        """`writes_through`: what the engine computes is in its shared store as well, whatever it says of that."""
        self._writes_through = writes_through
        self.endpoint, self.source, self.names, self.settings = endpoint, source, names, settings
        self._emit, self._clock, self._context = emit, clock, context
        self._decoder = BatchDecoder()
        self._counts = Counts()
        self._applied = -1  # number of the last message applied
        self._last = b""  # its payload
        self._heard = -1  # number of the last message on the live socket
        self._epoch = 0  # grows with every restart, so that a replay under way notices
        self._dirty = False  # something was emitted since the last clear
        self._connected = False
        self._last_event_us: Micros | None = None
        self._note = ""
        self._turn = asyncio.Lock()  # one at a time: a message, or the check after a reconnect

    async def run(self) -> None:
        """Subscribes and follows; begins again after failures."""
        await supervised(f"kv_events/{self.endpoint}", self._follow)

    def restarted(self) -> None:
        """The engine's process is another one, or must be taken for one."""
        self._restart("reported as restarted")

    async def settled(self) -> None:
        """Returns when the check that follows a connection, if one is under way, has been made."""
        async with self._turn:
            pass

    def status(self) -> FeedStatus:
        counts, wrong = self._counts, self.names.wrong_size
        note = f"engine's block size is {wrong}, the pool's {self.names.dialect.block_size}" if wrong else self._note
        return FeedStatus(
            self.endpoint,
            self.names.mode if counts.events else "silent",
            self._connected,
            counts.events,
            counts.blocks,
            counts.gaps,
            counts.repaired,
            counts.resets,
            counts.malformed,
            counts.skipped,
            self.names.unnamed,
            self._last_event_us,
            note,
        )

    # Sockets

    async def _follow(self) -> None:
        with self._socket(zmq.SUB) as live:
            live.subscribe(self.source.topic)
            with _monitored(live) as monitor:
                live.connect(self.source.endpoint)
                self._heard = -1
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._watch(monitor), name=f"kv_events/{self.endpoint}/watch")
                    tasks.create_task(self._listen(live), name=f"kv_events/{self.endpoint}/listen")

    async def _listen(self, live: zmq.asyncio.Socket) -> None:
        while True:
            frames = await live.recv_multipart()
            async with self._turn:
                await self._take(frames)
            await asyncio.sleep(0)  # a received message suspends nobody: a flood must not hold the loop

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """A connection, the first one too, may lead to a process that knows nothing of what we know."""
        ended = False
        while True:
            try:
                async with asyncio.timeout(RETRY_S if ended else None):
                    event = parse_monitor_message(await monitor.recv_multipart())["event"]
            except TimeoutError:
                self._note = "the subscription was broken off: a frame too large, or not ZeroMQ"
                raise ConnectionError(self._note) from None
            ended = event == zmq.EVENT_DISCONNECTED
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected and self.source.replay_endpoint is not None:
                async with self._turn:
                    await self._catch_up()

    @contextmanager
    def _socket(self, kind: int) -> Iterator[zmq.asyncio.Socket]:
        socket = self._context.socket(kind)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, self.settings.messages_max)
            socket.setsockopt(zmq.MAXMSGSIZE, self.settings.message_bytes_max)
            socket.setsockopt(zmq.RECONNECT_IVL, self.settings.reconnect_ms)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, self.settings.reconnect_ms_max)
            yield socket
        finally:
            socket.close(linger=0)

    # Order

    async def _take(self, frames: list[bytes]) -> None:
        """One message of the live socket."""
        try:
            message = parse_message(frames)
        except KvEventError as error:
            message = None
            self._note = str(error)
        if message is None:
            self._counts.malformed += 1
            return
        if message.sequence <= self._heard:
            self._restart(f"sequence fell from {self._heard} to {message.sequence}")
        self._heard = message.sequence
        if message.sequence > self._applied + 1:
            await self._repair(message)
        if message.sequence == self._applied + 1:
            self._apply(message)

    async def _repair(self, message: Message) -> None:
        """Fills the gap before a message, or gives up what is known. The message is next then, unless it is not from
        the process that runs now."""
        self._counts.gaps += 1
        resets, epoch = self._counts.resets, self._epoch
        answered = self.source.replay_endpoint is not None and await self._catch_up()
        if self._applied >= message.sequence:
            self._counts.repaired += resets == self._counts.resets
        elif epoch != self._epoch or (answered and self._applied >= 0):
            self._heard = -1  # the ring always holds what was published, so this came from a process now gone
        else:
            self._clear(f"what came before message {message.sequence} is lost")
            self._applied = message.sequence - 1

    async def _catch_up(self) -> bool:
        """Applies what the ring holds beyond what was applied. False if it did not answer to the end."""
        checked = self._applied < 0
        while True:
            before, epoch = self._applied, self._epoch
            async with aclosing(self._replay(max(before, 0))) as replies:
                async for message in replies:
                    if epoch != self._epoch:
                        return True  # `restarted` was called meanwhile
                    if not checked and (message is None or not self._is_last(message)):
                        checked = True
                        self._restart(f"the replay does not know message {before}")
                        break  # and ask again, from the beginning
                    checked = True
                    if message is None:
                        return True
                    if not self._replayed(message):
                        break
            if epoch == self._epoch and self._applied == before:
                return False

    def _is_last(self, message: Message) -> bool:
        return message.sequence == self._applied and message.payload == self._last

    def _replayed(self, message: Message) -> bool:
        """Takes one reply; False if replies are missing before it: an engine drops those that do not fit its queue."""
        if self._applied < 0 < message.sequence:
            self._clear(f"the replay begins at {message.sequence}: what came before is unknown")
            self._applied = message.sequence - 1
        if message.sequence == self._applied + 1:
            self._apply(message)
        return message.sequence <= self._applied

    async def _replay(self, start: int) -> AsyncGenerator[Message | None, None]:
        """Replies from number `start` on; None marks the end. Ends without it when nothing answers in time."""
        assert self.source.replay_endpoint is not None
        with self._socket(zmq.DEALER) as dealer:
            dealer.connect(self.source.replay_endpoint)
            await dealer.send_multipart([b"", start.to_bytes(8, "big")])
            while True:
                try:
                    async with asyncio.timeout(self.settings.replay_timeout_s):  # wait_for can swallow a cancellation
                        frames = await dealer.recv_multipart()
                    message = parse_message(frames)
                except TimeoutError:
                    self._note = "the replay socket did not answer in time"
                    return
                except KvEventError as error:
                    self._counts.malformed += 1
                    self._note = str(error)
                    return
                yield message
                if message is None:
                    return
                await asyncio.sleep(0)

    # Content

    def _restart(self, why: str) -> None:
        self._epoch += 1
        self._clear(why)
        self.names.reset()
        self._applied = self._heard = -1
        self._last = b""

    def _clear(self, why: str) -> None:
        """Gives up all knowledge of this engine's blocks."""
        self._counts.resets += 1
        self._note = why
        self.names.forget()
        if self._dirty:
            self._emit(BlocksCleared(self._clock.now_us(), self.endpoint))
        self._dirty = False

    def _apply(self, message: Message) -> None:
        self._applied, self._last = message.sequence, message.payload
        try:
            batch = self._decoder.decode(message.payload)
            reports = self._reports(batch.events)
        except KvEventError as error:
            self._counts.malformed += 1
            self._clear(f"message {message.sequence} cannot be read: {error}")
            return
        self._counts.events += len(batch.events)
        self._counts.skipped += batch.skipped
        self._last_event_us = self._clock.now_us()
        for report in reports:
            self._dirty = True
            self._emit(report)

    def _reports(self, events: list[KvEvent]) -> list[KvReport]:
        """Events of one message, consecutive ones of a kind and tier joined: engines remove block by block."""
        now_us, reports = self._clock.now_us(), list[KvReport]()
        for event in events:
            if isinstance(event, AllBlocksCleared):
                self.names.forget()
                reports.append(BlocksCleared(now_us, self.endpoint))
                continue
            if self._writes_through and self.names.tier(event) is not Tier.HBM:
                continue
            mode = self.names.mode
            removed = isinstance(event, BlockRemoved)
            blocks = self.names.removed(event) if isinstance(event, BlockRemoved) else self.names.stored(event)
            if self.names.mode == "mapped" != mode:
                self._note = "hashes are not those of the pool's dialect: mapped"
                reports.append(BlocksCleared(now_us, self.endpoint))  # what was taken for direct is worthless
            self._counts.blocks += len(blocks)
            kind, tier = BlocksRemoved if removed else BlocksStored, self.names.tier(event)
            last = reports[-1] if reports else None
            if isinstance(last, kind) and last.tier is tier:
                last.blocks.extend(blocks)
            elif blocks:
                reports.append(kind(now_us, self.endpoint, blocks, tier))
        if self._writes_through:
            put = [r.blocks for r in reports if isinstance(r, BlocksStored)]
            reports += [BlocksStored(now_us, self.endpoint, blocks, Tier.REMOTE) for blocks in put]
        return reports


@contextmanager
def _monitored(socket: zmq.asyncio.Socket) -> Iterator[zmq.asyncio.Socket]:
    """A socket that tells when the other one connects and disconnects."""
    events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
    monitor = socket.get_monitor_socket(events)
    try:
        yield monitor
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)
