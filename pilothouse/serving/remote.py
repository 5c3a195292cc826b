"""The picker as a worker sees it: a `Steering` over the channel that outlives a picker that dies and comes back.

While the picker is away, streams that run go on, new requests wait for it up to their deadline, and an attempt that fails
is asked for anew. A new picker starts with an empty ledger; the engines' own reports tell it of the requests it did not
route.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pilothouse.core.commands import AnyCommand, Reject, RejectReason
from pilothouse.core.events import Arrived, Cancelled, Failed, Finished, FirstToken, PrefillDone
from pilothouse.core.units import SECOND, RequestId
from pilothouse.live.clock import Clock
from pilothouse.live.directory import Directory
from pilothouse.live.steering import Answer
from pilothouse.serving.channel import Channel, FromPicker, FromWorker, ModelsServed, Observed, Stored, TokensTold
from pilothouse.serving.record import Record

RECONNECT_S = 0.1
SWEEP_S = 0.5
TELL_TOKENS_S = 2.0
UNSENT_RECORDS_MAX = 65_536  # ends of requests kept while the picker is away; beyond it the oldest go


@dataclass(slots=True)
class Asked:
    """A request that has not ended."""

    arrived: Arrived
    answer: Answer
    incarnation: int  # of the picker that knows it; 0 = none does yet
    waits: bool = True  # for a command


class RemoteSteering:
    """One per worker. `run` keeps the connection; it ends by cancellation."""

    def __init__(self, path: str, directory: Directory, clock: Clock, wait_us: int) -> None:
        self._path, self._directory, self._clock, self._wait_us = path, directory, clock, wait_us
        self._asked: dict[RequestId, Asked] = {}
        self._channel: Channel | None = None
        self._incarnation = 0
        self._unsent: deque[Record] = deque(maxlen=UNSENT_RECORDS_MAX)
        self._lost = asyncio.Event()
        self.learnt: Callable[[str, str], None] = lambda response, endpoint: (
            None
        )  # by other workers: where a response is
        self.informed = asyncio.Event()  # the picker has said what the fleet serves

    def arrive(self, arrived: Arrived, answer: Answer) -> None:
        asked = self._asked[arrived.request] = Asked(arrived, answer, 0)
        self._ask(asked)

    def tell(self, event: PrefillDone | FirstToken | Finished | Failed | Cancelled) -> None:
        asked = self._asked.get(event.request)
        if asked is None:
            return
        known = asked.incarnation == self._incarnation and self._channel is not None
        if isinstance(event, Failed) and not event.sent:
            asked.waits = True
            if known:
                self._send(event)
            else:
                self._ask(asked)
            return
        if not isinstance(event, PrefillDone | FirstToken):
            del self._asked[event.request]
        if known:
            self._send(event)

    def made(self, response: str, endpoint: str) -> None:
        self._send(Stored(response, endpoint))

    def observed(self, record: Record) -> None:
        if self._channel is None:
            self._unsent.append(record)
        else:
            self._send(Observed(record))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._connect(), name="picker connection")
            tasks.create_task(self._sweep(), name="picker deadlines")
            tasks.create_task(self._tell_tokens(), name="token status")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            try:
                _, channel = await loop.create_unix_connection(self._open, self._path)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            self._channel, self._incarnation = channel, self._incarnation + 1
            for asked in list(self._asked.values()):
                if asked.waits:
                    self._ask(asked)
            while self._unsent:
                self._send(Observed(self._unsent.popleft()))
            try:
                await self._lost.wait()
            finally:
                self._channel = None
                channel.close()

    def _open(self) -> Channel:
        return Channel(FromPicker, lambda: None, self._received, self._lost.set)

    async def _sweep(self) -> None:
        """A picker that stays away must not make clients wait for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._channel is not None:
                continue
            limit_us = self._clock.now_us() - self._wait_us
            for asked in [a for a in self._asked.values() if a.waits and a.arrived.at_us < limit_us]:
                request = asked.arrived.request
                del self._asked[request]
                asked.answer(Reject(request, RejectReason.NO_ENDPOINT, SECOND))

    async def _tell_tokens(self) -> None:
        while True:
            await asyncio.sleep(TELL_TOKENS_S)
            self._send(TokensTold(self._directory.status()))

    def _ask(self, asked: Asked) -> None:
        if self._channel is not None:
            asked.incarnation = self._incarnation
            self._send(asked.arrived)

    def _send(self, message: FromWorker) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _received(self, message: AnyCommand | ModelsServed | Stored) -> None:
        if isinstance(message, Stored):
            self.learnt(message.response, message.endpoint)
            return
        if isinstance(message, ModelsServed):
            if (
                message.served or not self.informed.is_set()
            ):  # a new picker has not yet seen the engines: keep what we know
                self._directory.update(message.served)
            self.informed.set()
            return
        asked = self._asked.get(message.request)
        if asked is None:
            return
        asked.waits = False
        if isinstance(message, Reject):
            del self._asked[message.request]
        asked.answer(message)
