"""The head of an engine's answer, and how the next one with the same head is recognised by its bytes."""

from dataclasses import dataclass

LENGTH_DIGITS_MAX = 15
Fields = list[tuple[bytes, bytes]]  # header names as the engine spells them


@dataclass(slots=True)
class AnswerHead:
    """The head of an answer, its framing aside."""

    status: int
    fields: Fields
    media: bytes  # the content type
    copied: bytes | None = None  # what clients get of it, written once for all answers with this head


class RepeatedHead:
    """The last head of a whole answer from one engine, and the bytes around the digits of its content-length."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, head: AnswerHead, data: bytes, length: int) -> None:
        start = data.lower().index(b"\r\ncontent-length:") + 17
        start = data.index(b"%d" % length, start)
        end = start + len(b"%d" % length)
        self.head, self._before = head, data[:start]
        self._after = data[end : data.index(b"\r\n\r\n") + 4]

    def body_of(self, data: bytes) -> bytes | None:
        """The body, if `data` is exactly one answer with this head."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        end = data.find(after, len(before), len(before) + len(after) + LENGTH_DIGITS_MAX)
        digits, start = data[len(before) : end], end + len(after)
        return data[start:] if digits.isdigit() and end > 0 and int(digits) == len(data) - start else None
