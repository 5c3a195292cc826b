"""Token counts out of an answer's bytes, without parsing the answer.

An engine writes counts only under a key `"usage"`; inside a JSON string that key would be escaped, so the bytes `"usage"` are
rare and mean what they say. A stream is looked at one event at a time: only an event that holds those bytes is read.
"""

import re
from dataclasses import dataclass

USAGE_BYTES_MAX = 2048  # the counts lie within this after the key
CARRY_BYTES_MAX = 65_536  # of an event cut by a chunk boundary; a longer one is not looked at
_KEY = b'"usage"'
_COUNT = re.compile(
    rb'"(prompt_tokens|input_tokens|completion_tokens|output_tokens|cached_tokens|cache_read_input_tokens)"\s*:\s*(\d{1,15})\b'
)
_REFUSED = re.compile(rb'data: \{"error": ?\{')
_CODE = re.compile(rb'"code": ?(\d{3})\b')
_OPEN = re.compile(rb'"usage"\s*:\s*\{')
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_-]{1,128})"')


@dataclass(slots=True)
class Usage:
    """Counts so far; None where the engine said nothing."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None

    def read(self, data: bytes) -> None:
        """Takes the counts of the last usage object in `data`; one without a count leaves the earlier one."""
        at = data.rfind(_KEY)
        if at < 0 or not _OPEN.match(data, at):
            return
        seen = dict(reversed(_COUNT.findall(data, at, at + USAGE_BYTES_MAX)))  # of each name, the first
        count = seen.get(b"prompt_tokens") or seen.get(b"input_tokens")
        if count:
            self.prompt_tokens = int(count)
        count = seen.get(b"completion_tokens") or seen.get(b"output_tokens")
        if count:
            self.output_tokens = int(count)
        count = seen.get(b"cached_tokens") or seen.get(b"cache_read_input_tokens")
        if count:
            self.cached_tokens = int(count)


class StreamUsage:
    """The same for server-sent events arriving in pieces, cut anywhere. Counts events as well."""

    __slots__ = ("_carry", "events", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.events = 0
        self._carry = b""

    def feed(self, data: bytes) -> None:
        """Looks at the next piece of the stream."""
        if self._carry:
            data, self._carry = self._carry + data, b""
        if data[-2:] == b"\n\n":
            # One event of one line is the rule, and the first line end is found faster than all ends of events.
            self.events += 1 if data.find(b"\n") == len(data) - 2 else data.count(b"\n\n")
            if data.rfind(_KEY) >= 0:
                self.usage.read(data)
        else:
            self._feed_cut(data)

    def output_tokens(self) -> int | None:
        """As reported, else the number of events as an estimate: one token each, less `[DONE]`."""
        if self.usage.output_tokens is not None:
            return self.usage.output_tokens
        return max(0, self.events - 1) if self.events else None

    def ends_whole(self) -> bool:
        """Whether the last event is complete."""
        return not self._carry

    def _feed_cut(self, data: bytes) -> None:
        # Events may also end in CR LF CR LF: counted here, off the common path.
        plain, wide = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
        end = max(plain + 2 if plain >= 0 else 0, wide + 4 if wide >= 0 else 0)
        whole, rest = data[:end], data[end:]
        self.events += whole.count(b"\n\n") + whole.count(b"\r\n\r\n")
        if _KEY in whole:
            self.usage.read(whole)
        self._carry = rest if len(rest) <= CARRY_BYTES_MAX else b"\n"


def first_status(data: bytes) -> int:
    """The HTTP status that an engine means by an error as the first event of a stream; 200 if that is no error.

    vLLM has sent status 200 by then: its admission is checked once more when generation begins.
    """
    if not _REFUSED.match(data):
        return 200
    code = _CODE.search(data, 0, data.find(b"\n"))
    return int(code[1]) if code else 200


def response_id(data: bytes) -> str | None:
    """The id of a stored response, as its body or its first event gives it."""
    match = _RESPONSE_ID.search(data)
    return match[1].decode() if match else None
