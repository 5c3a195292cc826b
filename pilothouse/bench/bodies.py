"""Planned requests to HTTP requests: the first turn from its blocks, a later one from what was said before it."""

from dataclasses import dataclass

import msgspec

from pilothouse.bench.conversations import Told, keeps_answer
from pilothouse.bench.prompts import Fragments, quoted, text_json
from pilothouse.bench.settings import PATHS, Api, Prompts, Server, Settings
from pilothouse.workload.requests import Planned

SESSION_HEADER = b"x-session-id"  # as the gateway reads it unless told otherwise


@dataclass(slots=True)
class Request:
    """Ready to be written."""

    planned: Planned
    head: bytes
    body: bytes
    content: bytes  # messages, or the prompt, as they stand in the body
    keeps: bool  # the answer is wanted, to be sent back


class Bodies:
    """Makes requests. `keeps`: the answer goes into another one."""

    def __init__(self, settings: Settings, server: Server, fragments: Fragments | None, authority: bytes) -> None:
        self._fragments = fragments  # None for probes, which bring their content
        self._server, self._chat = server, settings.api is Api.CHAT
        self.sends_ids = settings.prompts is Prompts.TOKENS
        lines = [
            b"POST %b HTTP/1.1" % PATHS[settings.api].encode(),
            b"host: " + authority,
            b"content-type: application/json",
        ]
        if settings.key:
            lines.append(b"authorization: Bearer " + settings.key.encode())
        self._head = b"\r\n".join(lines) + b"\r\n"
        self._start = b'{"model":%b,' % quoted(server.model)

    @property
    def fragments(self) -> Fragments:
        assert self._fragments is not None
        return self._fragments

    def first(self, planned: Planned, keeps: bool) -> Request:
        """A request that stands for itself."""
        fragment = self.fragments.prompt(planned, self._server.template_tokens)
        if self._chat:
            content = b'{"role":"user","content":%b}' % text_json(fragment)
        else:
            content = fragment
        return self.made(planned, content, keeps)

    def next(self, planned: Planned, told: Told, keeps: bool) -> Request:
        """A request that goes on from what was said: the answer as it came, as much of it as fits, and new content."""
        added = planned.prompt_tokens - told.prompt_tokens - (self._server.turn_tokens if self._chat else 0)
        if planned.prompt_tokens <= told.planned.prompt_tokens:  # the same prompt once more
            return self.made(planned, told.content, keeps)
        kept = min(told.output_tokens, added - 1) if keeps_answer(told.planned, planned) else 0
        whole = kept >= told.output_tokens
        more = self.fragments.more(planned, added - max(0, kept))
        if self.sends_ids:
            answer = b",".join([b"%d" % token for token in told.ids[: max(0, kept)]])
            content = b",".join(part for part in (told.content, answer, more) if part)
        else:
            text = told.text if whole else told.text[: len(told.text) * max(0, kept) // max(1, told.output_tokens)]
            if self._chat:
                content = b'%b,{"role":"assistant","content":%b},{"role":"user","content":%b}' % (
                    told.content,
                    quoted(text),
                    text_json(more),
                )
            else:
                content = told.content + quoted(text)[1:-1] + more
        return self.made(planned, content, keeps)

    def made(self, planned: Planned, content: bytes, keeps: bool) -> Request:
        """Content and options as one request."""
        if self._chat:
            prompt = b'"messages":[%b]' % content
        elif self.sends_ids:
            prompt = b'"prompt":[%b]' % content
        else:
            prompt = b'"prompt":"%b"' % content
        count = planned.output_tokens
        options = b',"max_tokens":%d,"temperature":0,"stream":true,"stream_options":{"include_usage":true}' % count
        if self._server.fixed_length:
            options += b',"ignore_eos":true,"min_tokens":%d' % count
        if keeps and self.sends_ids and self._server.token_ids:
            options += b',"return_token_ids":true'
        body = b"%b%b%b}" % (self._start, prompt, options)
        session = b"%b: %016x\r\n" % (SESSION_HEADER, planned.session) if planned.session else b""
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self._head, session, len(body))
        return Request(planned, head, body, content, keeps)


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    token_ids: list[int] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []


_decoder = msgspec.json.Decoder(_Event)


def read_answer(stream: bytes) -> tuple[str, list[int]]:
    """Text and token ids of a whole stream of events; what is not an event of an answer is skipped."""
    text: list[str] = []
    ids: list[int] = []
    for line in stream.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        try:
            choices = _decoder.decode(line[6:]).choices
        except msgspec.DecodeError:
            continue
        for choice in choices[:1]:
            text.append((choice.delta.content if choice.delta else choice.text) or "")
            ids += choice.token_ids or ()
    return "".join(text), ids
