"""Answers under way: told by the engine how many tokens there are, they write what is new.

Most tokens of most streams differ in one word, so a stream keeps the bytes around it ready. A client that does not
read costs nothing: its answer remembers how far it was sent, and goes on from there when the socket has room.
"""

from collections.abc import Callable
from typing import Any, Protocol

from pilothouse.emulate.asked import Asked
from pilothouse.emulate.bodies import DONE, Counted, Named, role_chunk, token_chunk, usage_chunk, whole
from pilothouse.emulate.filler import Plan
from pilothouse.emulate.prompts import Prompt

GAP = "\x00"  # stands for the text in a prepared chunk; JSON escapes it, so nothing else looks like that
_ESCAPED = b"\\u0000"
CATCH_UP = 64  # tokens in one write, for a stream that lags
LAST_CHUNK = b"0\r\n\r\n"


class Line(Protocol):
    """The connection that an answer goes to."""

    is_write_paused: bool
    write: Callable[[bytes], None]

    def begin_stream(self) -> None: ...
    def reply(self, status: int, body: bytes) -> None: ...
    def end_stream(self) -> None: ...
    def abort(self) -> None: ...


class Answer:
    """One answer, in one piece."""

    def __init__(self, line: Line, named: Named, asked: Asked, prompt: Prompt, plan: Plan, finish: str) -> None:
        self.line, self.named, self.asked, self.prompt, self.plan, self.finish = (
            line,
            named,
            asked,
            prompt,
            plan,
            finish,
        )
        self.cut_after: int | None = None  # tokens, where a fault wants it to break
        self.cached = 0  # prompt tokens
        self.shown_cached: int | None = None  # of a prompt from another engine: what was cached over there
        self.transfer: dict[str, Any] | None = None

    def begin(self) -> None:
        """It was accepted."""

    def advance(self, tokens: int) -> None:
        """So many output tokens are there."""
        if self.cut_after is not None and tokens > self.cut_after:
            self.line.abort()

    def end(self) -> None:
        """All of them are."""
        ids, prompt_ids = self._ids()
        body = whole(self.named, self.plan.whole(), self.finish, self.counted(), ids, prompt_ids, self.transfer)
        self.line.reply(200, body)

    def resume(self) -> None:
        """The client reads again."""

    def counted(self) -> Counted:
        cached = self.cached if self.shown_cached is None else self.shown_cached
        return Counted(self.prompt.tokens, self.plan.tokens, cached, max(0, self.prompt.named_tokens - self.cached))

    def _ids(self) -> tuple[list[int] | None, list[int] | None]:
        if not self.asked.return_token_ids:
            return None, None
        return self.plan.ids(0, self.plan.tokens), self.prompt.list_ids()


class StreamedAnswer(Answer):
    """Token by token, as server-sent events."""

    def __init__(self, line: Line, named: Named, asked: Asked, prompt: Prompt, plan: Plan, finish: str) -> None:
        super().__init__(line, named, asked, prompt, plan, finish)
        self._sent = self._there = 0
        self._ended = False
        self._plain = not (asked.return_token_ids or asked.continuous_usage)
        common = token_chunk(named, GAP, None, None, None, None, False)
        self._before, _, self._after = common.partition(_ESCAPED)
        self._around = len(self._before) + len(self._after)

    def begin(self) -> None:
        self.line.begin_stream()

    def advance(self, tokens: int) -> None:
        self._there = tokens
        if self.cut_after is not None and tokens > self.cut_after:
            self.line.abort()
        elif not self.line.is_write_paused:
            sent = self._sent
            if sent and sent + 1 == tokens and self._plain and tokens < self.plan.tokens:
                text = self.plan.text(sent)
                self._sent = tokens
                self.line.write(b"%x\r\n%b%b%b\r\n" % (self._around + len(text), self._before, text, self._after))
            else:
                self._catch_up()

    def end(self) -> None:
        self._there, self._ended = self.plan.tokens, True
        self._catch_up()

    def resume(self) -> None:
        self._catch_up()

    def _catch_up(self) -> None:
        line = self.line
        while self._sent < self._there and not line.is_write_paused:
            start, end = self._sent, min(self._there, self._sent + CATCH_UP)
            self._sent = end
            line.write(b"".join(framed(chunk) for i in range(start, end) for chunk in self._chunks(i)))
        if self._ended and self._sent == self.plan.tokens and not line.is_write_paused:
            self._ended = False
            tail = [DONE]
            if self.asked.include_usage:
                tail.insert(0, usage_chunk(self.named, self.counted()))
            line.write(b"".join(map(framed, tail)) + LAST_CHUNK)
            line.end_stream()

    def _chunks(self, index: int) -> list[bytes]:
        """The events of one token."""
        asked, named, plan = self.asked, self.named, self.plan
        is_last, with_ids = index + 1 == plan.tokens, asked.return_token_ids
        if self._plain and index and not is_last:
            return [self._before + plan.text(index) + self._after]
        prompt_ids = self.prompt.list_ids() if with_ids and index == 0 else None
        chunks = [role_chunk(named, self._usage(0), prompt_ids)] if named.is_chat and index == 0 else []
        around = token_chunk(
            named,
            GAP,
            self.finish if is_last else None,
            self._usage(index + 1),
            plan.ids(index, index + 1) if with_ids else None,
            prompt_ids,
            is_last and not asked.include_usage,
        )
        chunks.append(around.replace(_ESCAPED, plan.text(index), 1))
        return chunks

    def _usage(self, output: int) -> dict[str, Any] | None:
        if not self.asked.continuous_usage:
            return None
        return Counted(self.prompt.tokens, output, 0).short(self.named.is_chat)


def framed(data: bytes) -> bytes:
    """One chunk of HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
