"""The OpenAI-compatible front door: listens, serves, drains."""

import asyncio

from pilothouse.live.clock import Clock
from pilothouse.live.steering import Steering
from pilothouse.serving.connection import ClientConnection
from pilothouse.serving.plane import Directory, Plane
from pilothouse.serving.record import Observe
from pilothouse.serving.settings import FrontSettings

BACKLOG = 2048
DRAIN_POLL_S = 0.02  # how often a drain looks whether all is done


class FrontDoor:
    """One listening socket and everything behind it. Belongs to the event loop that starts it."""

    def __init__(
        self, settings: FrontSettings, *, steering: Steering, directory: Directory, clock: Clock, observe: Observe
    ) -> None:
        self.plane = Plane(settings, steering, directory, clock, observe)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Listens; returns the port, which the system chooses if 0 was asked for."""
        loop = asyncio.get_running_loop()
        self.plane.timers.start()
        self._server = await loop.create_server(
            lambda: ClientConnection(self.plane), host, port, reuse_port=reuse_port or None, backlog=BACKLOG
        )
        port = self._server.sockets[0].getsockname()[1]
        return port

    async def drain(self, seconds: float, hurry: asyncio.Event | None = None) -> bool:
        """Stops listening, lets requests end for so long or until `hurry` is set, then ends the rest.

        Returns whether all ended by themselves.
        """
        plane = self.plane
        plane.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(plane.connections):
            connection.drain()
        deadline_us = plane.clock.now_us() + int(seconds * 1e6)
        while plane.connections and plane.clock.now_us() < deadline_us and not (hurry and hurry.is_set()):
            await asyncio.sleep(DRAIN_POLL_S)
        in_time = not plane.connections
        for connection in list(plane.connections):
            connection.abort()
        for task in list(plane.tasks):
            task.cancel()
        plane.upstream.close()
        while plane.connections:  # aborts take effect in the next turn of the loop
            await asyncio.sleep(0)
        plane.timers.stop()
        return in_time
