"""The live driver: stamps events, journals them with the commands they lead to, performs the commands, keeps the timer."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from pilothouse.core.commands import Abort, AnyCommand
from pilothouse.core.dispatcher import Dispatcher
from pilothouse.core.events import AnyEvent, Arrived, Cancelled, Failed, Finished, FirstToken, PrefillDone, Tick
from pilothouse.core.units import Micros, RequestId
from pilothouse.journal.log import Writer
from pilothouse.live.clock import Clock
from pilothouse.live.steering import Answer

log = logging.getLogger(__name__)

Watcher = Callable[[AnyEvent, list[AnyCommand], int], None]  # event, commands, decision time [microseconds]


class Driver:
    """One dispatcher in this process, as a `Steering` for front doors and a sink for the engines' signals.

    A failure of the dispatcher itself is not survived: `broken` is called once with the exception, and every later
    event is refused, so that nothing runs on a state that cannot be trusted.
    """

    def __init__(
        self, dispatcher: Dispatcher, clock: Clock, journal: Writer | None, broken: Callable[[BaseException], None]
    ) -> None:
        self.dispatcher, self.clock, self.journal = dispatcher, clock, journal
        self.journal_error = ""
        self.watchers: list[Watcher] = []
        self._answers: dict[RequestId, Answer] = {}
        self._broken, self._is_broken = broken, False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_us = Micros(0)

    def arrive(self, arrived: Arrived, answer: Answer) -> None:
        self._answers[arrived.request] = answer
        self.post(arrived)

    def tell(self, event: PrefillDone | FirstToken | Finished | Failed | Cancelled) -> None:
        kind = type(event)
        if kind is Finished or kind is Cancelled or (kind is Failed and event.sent):  # type: ignore[union-attr]
            self._answers.pop(event.request, None)
        self.post(event)

    def post(self, event: AnyEvent) -> None:
        """Any event, from anywhere in this process. An event stamped earlier than the last one is moved up to it."""
        if self._is_broken:
            return
        dispatcher, now_us = self.dispatcher, self.clock.now_us
        started_us = now_us()
        if event.at_us < dispatcher.now_us:
            event = msgspec.structs.replace(event, at_us=dispatcher.now_us)
        try:
            if self.journal is not None:
                self._keep_journal(self._begin_segment)
            commands = dispatcher.handle(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the state cannot be trusted after it
            self._is_broken = True
            self._broken(error)
            return
        took_us = now_us() - started_us
        if self.journal is not None:
            self._keep_journal(lambda journal: journal.append(event, commands))
        for watcher in self.watchers:
            watcher(event, commands, took_us)
        for command in commands:
            self._perform(command)
        wake_us = dispatcher.next_wake_us()
        if wake_us is not None:
            self._arm(wake_us)

    def flush(self) -> None:
        """Brings the journal to the disk."""
        self._keep_journal(Writer.flush)

    def close(self) -> None:
        """Stops the timer and closes the journal."""
        self._is_broken = True
        if self._timer is not None:
            self._timer.cancel()
        self._keep_journal(Writer.close)

    def _begin_segment(self, journal: Writer) -> None:
        """A segment begins with the state before its first event; the first one of a run begins with nothing."""
        if journal.full:
            journal.rotate(self.dispatcher.snapshot() if journal.begun else b"")

    def _keep_journal(self, act: Callable[[Writer], object]) -> None:
        """A disk that is full, or a value that cannot be written, ends the journal, loudly, and not the traffic."""
        if self.journal is None:
            return
        try:
            act(self.journal)
        except (OSError, OverflowError, TypeError, ValueError) as error:
            self.journal = None
            self.journal_error = f"the journal has stopped: {error}"
            log.error(self.journal_error)

    def _perform(self, command: AnyCommand) -> None:
        answer = self._answers.get(command.request)
        if answer is None:  # the client went away in the meantime
            return
        if command.request not in self.dispatcher.requests and not isinstance(command, Abort):
            del self._answers[command.request]  # refused: nothing follows
        answer(command)

    def _arm(self, wake_us: Micros) -> None:
        """One timer for the dispatcher's next wake-up; an earlier wish replaces it, a later one waits for it."""
        if self._timer is not None:
            if self._timer_at_us <= wake_us:
                return
            self._timer.cancel()
        self._timer_at_us = wake_us
        delay_us = max(1_000, wake_us - self.clock.now_us())
        self._timer = asyncio.get_running_loop().call_later(delay_us / 1e6, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(Tick(Micros(self.clock.now_us())))
