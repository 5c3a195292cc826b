"""Deadlines of many connections on one loop timer: a wheel of slots, each a list of members to look at.

A member keeps its deadlines as plain attributes and may move them later at no cost: when its slot comes up it is asked what
is due, and says when to ask again. Only a deadline that comes nearer needs a new entry, so a stream of a thousand chunks
costs none. A timeout fires at most two ticks late, never early.
"""

import asyncio
from typing import Protocol

from pilothouse.live.clock import Clock

NEVER = 1 << 62  # a slot that does not come


class Timed(Protocol):
    """Anything with deadlines. `slot` belongs to the wheel; start it with NEVER."""

    slot: int

    def due(self, now_us: int) -> int:
        """Acts on what has expired; returns when to be asked again [microseconds], or 0 for never."""
        ...


class Timers:
    """The wheel. `start` and `stop` belong to whoever owns the event loop.

    `awake_us` is the turn before the last one: whatever is read now was not there to be read then, unless the loop has
    been stopped since.
    """

    def __init__(self, clock: Clock, tick_us: int = 100_000) -> None:
        self._now_us, self._tick_us = clock.now_us, tick_us
        self._slots: dict[int, list[Timed]] = {}
        self._done = self._now_us() // tick_us
        self.awake_us: int = self._now_us()
        self._turned_us: int = self.awake_us
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to tick on the running loop."""
        if self._handle is None:
            self._tick()

    def stop(self) -> None:
        """Ends the ticking; members stay where they are."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def watch(self, member: Timed, at_us: int) -> None:
        """Asks `member` what is due soon after `at_us`, unless it will be asked before that anyway."""
        slot = at_us // self._tick_us + 1
        if slot < member.slot:
            slot = max(slot, self._done + 1)
            member.slot = slot
            self._slots.setdefault(slot, []).append(member)

    def turn(self, now_us: int) -> None:
        """Looks at every member whose slot has come."""
        self.awake_us, self._turned_us = self._turned_us, now_us
        last = now_us // self._tick_us
        first, self._done = self._done + 1, max(self._done, last)
        if last - first < len(self._slots):
            slots = [s for s in range(first, last + 1) if s in self._slots]
        else:  # the loop was away for long: fewer entries than slots passed
            slots = sorted(s for s in self._slots if s <= last)
        for slot in slots:
            for member in self._slots.pop(slot):
                if member.slot == slot:  # otherwise it was asked earlier, by a nearer entry
                    member.slot = NEVER
                    if at_us := member.due(now_us):
                        self.watch(member, at_us)

    def _tick(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._tick_us / 1e6, self._tick)
        self.turn(self._now_us())
