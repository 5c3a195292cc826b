"""Virtual time: one heap of things to come, in one order.

Entries are ordered by (time, rank, number), so that what happens at one moment happens the same way in every run.
"""

from collections.abc import Callable
from enum import IntEnum
from heapq import heappop, heappush
from typing import Any

from pilothouse.core.units import Micros


class Rank(IntEnum):
    """What comes first at one moment. Submissions precede steps: an engine schedules what has arrived by then."""

    FAULT = 0
    SUBMIT = 1
    STEP = 2
    TELL = 3
    SCRAPE = 4
    ARRIVE = 5
    WAKE = 6
    STAGE = 7
    SAMPLE = 8


Entry = tuple[int, int, int, Callable[[Any], None], Any]  # when, rank, number, what to do, with what


class Agenda:
    """Time never goes back."""

    def __init__(self) -> None:
        self.now_us = Micros(0)
        self._heap: list[Entry] = []
        self._number = 0

    def push(self, at_us: int, rank: Rank, act: Callable[[Any], None], what: object) -> None:
        self._number += 1
        heappush(self._heap, (at_us, rank, self._number, act, what))

    def advance(self) -> bool:
        """Does what comes next; False if there is nothing."""
        if not self._heap:
            return False
        at_us, _, _, act, what = heappop(self._heap)
        assert at_us >= self.now_us, f"time went back from {self.now_us} to {at_us}"
        self.now_us = Micros(at_us)
        act(what)
        return True

    def run(self) -> None:
        """Does all there is, without the cost of a call for each."""
        heap = self._heap
        while heap:
            at_us, _, _, act, what = heappop(heap)
            assert at_us >= self.now_us, f"time went back from {self.now_us} to {at_us}"
            self.now_us = at_us  # type: ignore[assignment]
            act(what)
