"""Runs a coroutine in a world of its own: every clock, connection and context of the package is the loop's."""

import random
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest.mock import patch

import aiohttp
import zmq
from aiohttp.client_proto import ResponseHandler

from rig.virtual.loop import VirtualLoop
from rig.virtual.zeromq import Hub

T = TypeVar("T")
EPOCH_S = 1_800_000_000.0  # when the world begins, for logs and `created` fields


class Connector(aiohttp.BaseConnector):
    """aiohttp over the loop's own connections: its TCP connector opens sockets itself."""

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        try:
            _, handler = await self._loop.create_connection(self._factory, req.url.host, req.url.port)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        assert isinstance(handler, ResponseHandler)
        return handler


def run(main: Callable[[VirtualLoop, Hub], Coroutine[Any, Any, T]], *, network_us: int, kv_event_us: int) -> T:
    """`main` gets the loop and the messages' hub. Its tasks must be over when it returns."""
    loop = VirtualLoop()
    hub = Hub(loop, kv_event_us, network_us)
    luck = random.getstate()
    with ExitStack() as stack:
        for name, value in (
            ("pilothouse.live.clock.monotonic_ns", lambda: loop.now_us * 1000),
            ("pilothouse.live.clock.process_time_ns", lambda: 0),
            ("pilothouse.live.clock.time", lambda: EPOCH_S + loop.now_us / 1e6),
            ("aiohttp.TCPConnector", Connector),
            ("pilothouse.live.supervise._backoff", lambda state: 0.2),  # what ships waits for a random time
        ):
            stack.enter_context(patch(name, value))
        stack.enter_context(patch.object(zmq.Context, "instance", lambda: hub))
        try:
            return loop.run_until_complete(main(loop, hub))
        finally:
            random.setstate(luck)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
