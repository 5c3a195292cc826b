"""One request of our own to an engine, of whose answer all is wanted and nothing reaches the client as it comes."""

from typing import Protocol

from pilothouse.core.events import FailureKind
from pilothouse.live.upstream import AnswerHead, Carrier

ANSWER_BYTES_MAX = 8 << 20  # parameters name each block of a prompt: a million tokens take about half a megabyte


class Wanting(Protocol):
    """Hears how a step ended: exactly one of these, unless it was dropped."""

    def answered(self, purpose: str, head: AnswerHead, body: bytes, now_us: int) -> None: ...

    def refused(self, purpose: str, head: AnswerHead, body: bytes, now_us: int) -> None: ...

    def failed(self, purpose: str, kind: FailureKind, what: str) -> None: ...

    def crashed(self, error: Exception) -> None: ...


class Step:
    """The receiver of its answer."""

    def __init__(self, wanting: Wanting, purpose: str) -> None:
        self._wanting, self._purpose = wanting, purpose
        self._carrier: Carrier | None = None
        self._head: AnswerHead | None = None
        self._parts = bytearray()
        self._over = False

    def drop(self) -> None:
        """Nobody wants it any more: the engine sees the connection close."""
        self._over = True
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.abort(self)

    # -- as a receiver

    def carried_by(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def head(self, head: AnswerHead, length: int | None, now_us: int) -> bool:
        self._head = head
        return True

    def body(self, data: bytes, last: bool, now_us: int) -> None:
        self._parts += data
        if last:
            self._end(now_us)
        elif len(self._parts) > ANSWER_BYTES_MAX:
            self._too_large()

    def chunk(self, framed: bytes, start: int, now_us: int) -> None:
        self.body(framed[start:-2], False, now_us)

    def failed(self, kind: FailureKind, what: str) -> None:
        self._carrier = None
        if not self._over:
            self._over = True
            self._wanting.failed(self._purpose, kind, what)

    def crashed(self, error: Exception) -> None:
        self._wanting.crashed(error)

    # -- parts

    def _end(self, now_us: int) -> None:
        self._carrier = None
        if self._over:
            return
        self._over = True
        head = self._head
        assert head is not None
        tell = self._wanting.answered if 200 <= head.status < 300 else self._wanting.refused
        tell(self._purpose, head, bytes(self._parts), now_us)

    def _too_large(self) -> None:
        self.drop()
        self._wanting.failed(self._purpose, FailureKind.GARBAGE, f"an answer of more than {ANSWER_BYTES_MAX} bytes")
