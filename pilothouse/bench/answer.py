"""One answer as it arrives: when its first output came, every gap after that, its token counts, how it ended.

The connection gives each read with the time it was received. A read is looked at for output once, by a pattern, and is
not decoded. Several events in one read have one time: their gaps are zero, as they were for the client.
"""

import re
from collections.abc import Callable

from pilothouse.bench.bodies import Request
from pilothouse.core.events import FailureKind
from pilothouse.core.units import Micros
from pilothouse.live.answer_head import AnswerHead
from pilothouse.live.engine_connection import Carrier
from pilothouse.wire.usage import Usage
from pilothouse.workload.outcomes import Histogram

# Text, reasoning or arguments that are not empty, or token ids. Inside a JSON string these quotes would be escaped.
_OUTPUT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|arguments)"\s*:\s*"(?!")|"token_ids"\s*:\s*\[\s*\d'
)
_MESSAGE = re.compile(rb'"message"\s*:\s*"((?:[^"\\]|\\.){1,120})')
_ERROR = re.compile(rb'^data:\s*\{\s*"error"', re.MULTILINE)
_DONE = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)  # a line's beginning: within a JSON string it would be escaped
REASON_BYTES_MAX = 4096  # of a refusal's body
EVENT_BYTES_MAX = 16 << 20  # the first one may hold the ids of the whole prompt


class Answer:
    """The receiver of one request's answer. `ended` is called exactly once."""

    __slots__ = (
        "_bytes_max", "_carrier", "_carry", "_ended", "_gaps", "_kept", "_last_us", "_now_us", "_size", "_status",
        "chunks", "done", "emulated", "end_us", "endpoint", "error", "first_us", "request", "scheduled_us", "sent_us", "usage",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        scheduled_us: int,
        gaps: Histogram,
        ended: Callable[["Answer"], None],
        now_us: Callable[[], Micros],
        bytes_max: int,
    ) -> None:
        self.request, self.scheduled_us = request, scheduled_us
        self.sent_us = self.first_us = self.end_us = 0  # 0 = not yet
        self.chunks = 0  # events with output
        self.usage = Usage()
        self.endpoint = self.error = ""
        self.done = False  # the stream said that it is whole
        self.emulated = False  # whoever answered says that it is no engine
        self._gaps, self._ended, self._now_us, self._bytes_max = gaps, ended, now_us, bytes_max
        self._carrier: Carrier | None = None
        self._status = self._last_us = self._size = 0
        self._carry = b""
        self._kept: list[bytes] = []

    @property
    def stream(self) -> bytes:
        """All of it, if the request wanted it kept."""
        return b"".join(self._kept)

    def cancel(self, why: str) -> None:
        """Ends it here."""
        if not self.end_us:
            if self._carrier is not None:
                self._carrier.abort(self)
            self._end(self._now_us(), why)

    # -- from the connection

    def carried_by(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def head(self, head: AnswerHead, length: int | None, now_us: int) -> bool:
        """Notes status and engine; the body of a refusal says why."""
        self._status = head.status
        for name, value in head.fields:
            if name.lower() == b"x-pilothouse-endpoint":
                self.endpoint = value.decode("latin-1")
            elif name.lower() == b"x-emulated":
                self.emulated = True
        if head.status == 200 and not head.media.startswith(b"text/event-stream"):
            self._end(now_us, "the answer is not a stream of events")
            return False
        return True

    def chunk(self, framed: bytes, start: int, now_us: int) -> None:
        self.body(framed[start:-2], False, now_us)

    def body(self, data: bytes, last: bool, now_us: int) -> None:
        """One read. What comes after its end is not wanted."""
        if self.end_us:
            return
        self._size += len(data)
        if self._size > self._bytes_max:
            self.cancel("the answer is longer than allowed")
        elif self._status != 200:
            if self._size <= REASON_BYTES_MAX:
                self._carry += data
            if last:
                self._end(now_us, _reason(self._status, self._carry))
        else:
            if data:
                self._events(data, now_us)
            if last and not self.end_us:
                self._end(now_us, "" if self.done else "the stream ended without [DONE]")

    def failed(self, kind: FailureKind, what: str) -> None:
        if not self.end_us:
            self._end(self._now_us(), f"{kind}: {what}")

    def crashed(self, error: Exception) -> None:
        if not self.end_us:
            self._end(self._now_us(), f"a bug of the client: {error!r}")

    # -- parts

    def _events(self, data: bytes, now_us: int) -> None:
        if self.request.keeps:
            self._kept.append(data)
        if self._carry:
            data, self._carry = self._carry + data, b""
        if data[-2:] != b"\n\n":
            if data[-4:] == b"\r\n\r\n":
                data = data.replace(b"\r\n", b"\n")
            else:
                end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
                end = end if end >= 4 else 0
                data, self._carry = data[:end], data[end:]
                if len(self._carry) > EVENT_BYTES_MAX:
                    self.cancel("an event of the stream is longer than allowed")
                    return
        if data.find(b"\n\n") == len(data) - 2:  # one event is the rule
            count = 1 if _OUTPUT.search(data) else 0
        else:
            count = sum(_OUTPUT.search(part) is not None for part in data.replace(b"\r\n", b"\n").split(b"\n\n"))
        if count:
            self._output(count, now_us)
        if b'"usage"' in data:
            self.usage.read(data)
        if b"[DONE]" in data and _DONE.search(data):
            self.done = True
        if b'"error"' in data and _ERROR.search(data):
            found = _MESSAGE.search(data)
            self.cancel(f"error in the stream: {_said(found[1]) if found else 'without a message'}")

    def _output(self, count: int, now_us: int) -> None:
        if self.first_us:
            self._gaps.add(now_us - self._last_us)
        else:
            self.first_us = now_us
        if count > 1:
            self._gaps.add(0, count - 1)
        self._last_us = now_us
        self.chunks += count

    def _end(self, now_us: int, error: str) -> None:
        self.end_us, self.error = now_us, error
        if not error:
            self.end_us = self._last_us or now_us  # the last output; counts and [DONE] come behind it
            if not self.chunks:
                self.error = "the answer has no output"
        self._ended(self)


def _reason(status: int, body: bytes) -> str:
    found = _MESSAGE.search(body)
    return f"HTTP {status}" + (f": {_said(found[1])}" if found else "")


def _said(message: bytes) -> str:
    """Printable, whatever the server sent."""
    text = message.decode(errors="replace").replace("\\n", " ").replace('\\"', '"')
    return "".join(c if c.isprintable() else " " for c in text).strip()
