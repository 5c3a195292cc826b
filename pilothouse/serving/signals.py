"""How a gateway process is asked to stop: once for a drain, twice for at once."""

import asyncio
import logging
import os
import signal
import sys

from pilothouse.serving.worker import Worker

log = logging.getLogger(__name__)

CHILD = "PILOTHOUSE_CHILD"  # set in the environment of the supervisor's children


class StopSignals:
    """SIGINT and SIGTERM: the first one asks for a drain, the second one ends it. A child also ends with its supervisor."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._heard)
        if os.environ.get(CHILD):
            loop.add_reader(sys.stdin.fileno(), self._read_supervisor)

    async def wait_for_one_or(self, work: asyncio.Task[None]) -> None:
        """Until the first signal, or until `work` fails, whose exception is then raised."""
        stop = asyncio.create_task(self.first.wait())
        await asyncio.wait([stop, work], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            await work

    async def drain(self, worker: Worker) -> None:
        """Lets requests in flight end, at most as long as configured, or until the second signal."""
        if worker.busy:
            log.info("stopping, in up to %.0f s; once more to stop at once", worker.config.timeouts.drain.seconds)
        await worker.stop(self.second)

    def _heard(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _read_supervisor(self) -> None:
        if not os.read(sys.stdin.fileno(), 1):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.first.set()
