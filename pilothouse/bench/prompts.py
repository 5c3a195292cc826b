"""Block keys to prompts: a key alone decides the content of its block, so prompts that begin alike are alike.

A fragment is a piece of a request's body: token ids with commas between them, or words, each behind a blank. Both are
plain ASCII and need no escapes. Fragments of blocks are remembered, in two generations, so that sending costs a join.

Lengths. Token ids are exact. Words are exact where each is one token; elsewhere their number follows the tokens per word
that a probe has measured, by the position of the block, and block edges of the engine do not fall on edges of words.
"""

from collections.abc import Sequence

import msgspec

from pilothouse.core.random_stream import stream
from pilothouse.core.units import BlockKey
from pilothouse.workload.requests import Planned

# Common words, which most vocabularies hold as one token each with the blank before them.
WORDS = tuple(
    (
        "the of and to in is for on that by this with you it not or be are from at as your all have new more an was we "
        "will home can us about if page my has search free but our one other do no information time they site he up may "
        "what which their news out use any there see only so his when contact here business who web also now help get "
        "view online first am been would how were services some these click its like service than find price date back "
        "top people had list name just over state year day into email two health world next used go work last most "
        "products music buy data make them should product system post her city add policy number such please available "
        "support message after best software then good video well where info rights public books high school through "
        "each links she review years order very privacy book items company read group need many user said does set under "
        "general research university mail full map reviews program life know games way days management part could great "
        "united hotel real item international center must store travel comments made development report off member "
        "details line terms before hotels did send right type because local those using results office education "
        "national car design take posted internet address community within states area want phone shipping reserved "
        "subject between forum family long based code show even black check special prices website index being women "
        "much sign file link open today technology south case project same pages version section own found sports house "
        "related security both county photo game members power while care network down computer systems three total "
        "place end following download him without per access think north resources current posts big media law control "
        "water history pictures size art personal since including guide shop directory board location change white text "
        "small rating rate government children during return students"
    ).split()
)
STEP_BLOCKS = 32  # made in one go: a fraction of a millisecond


class Drawer:
    """Content of a name, as a fragment of `count` tokens or words."""

    separator = b""
    per_token = 1.0  # units (ids or words) of one token

    def draw(self, name: str, count: int) -> bytes:
        raise NotImplementedError

    def cut(self, fragment: bytes, count: int) -> bytes:
        """Its first `count` units."""
        raise NotImplementedError


class IdDrawer(Drawer):
    """Token ids of a range without special tokens."""

    separator = b","

    def __init__(self, seed: int, first: int, last: int) -> None:
        self._seed, self._first, self._span = seed, first, last - first + 1

    def draw(self, name: str, count: int) -> bytes:
        first, span = self._first, self._span
        return b",".join([b"%d" % (first + (n * span >> 32)) for n in _numbers(self._seed, name, count)])

    def cut(self, fragment: bytes, count: int) -> bytes:
        return b",".join(fragment.split(b",")[:count])


class WordDrawer(Drawer):
    """Words of a list."""

    def __init__(self, seed: int, words: Sequence[str], tokens_per_word: float) -> None:
        self._seed, self._words = seed, [b" " + word.encode() for word in words]
        self.per_token = 1 / tokens_per_word

    def draw(self, name: str, count: int) -> bytes:
        words, span = self._words, len(self._words)
        return b"".join([words[n * span >> 32] for n in _numbers(self._seed, name, count)])

    def cut(self, fragment: bytes, count: int) -> bytes:
        return b"".join([b" " + word for word in fragment.split()[:count]])


class Fragments:
    """The beginnings of prompts, block by block, remembered within limits."""

    def __init__(self, drawer: Drawer, block_size: int, bytes_max: int) -> None:
        self.drawer, self._size, self._half = drawer, block_size, bytes_max // 2
        self._known: dict[BlockKey, bytes] = {}
        self._older: dict[BlockKey, bytes] = {}
        self._bytes = 0

    def prepare(self, keys: Sequence[BlockKey], start: int) -> int:
        """Makes a few of the missing blocks from `start` on; returns where to go on, len(keys) when all are there."""
        made = 0
        for i in range(start, len(keys)):
            if keys[i] not in self._known:
                if made == STEP_BLOCKS:
                    return i
                made += keys[i] not in self._older
                self._block(keys[i], i)
        return len(keys)

    def prompt(self, planned: Planned, less: int = 0) -> bytes:
        """The whole prompt, shortened by as many tokens as a template will add."""
        wanted = max(1, planned.prompt_tokens - less)
        keys = planned.blocks[: -(-wanted // self._size)]
        known = self._known
        try:
            parts = [known[key] for key in keys]
        except KeyError:
            parts = [self._block(key, i) for i, key in enumerate(keys)]
        edge, there = max(1, self._units(wanted)), self._units(len(keys) * self._size)
        if there > edge and keys:
            kept = edge - self._units((len(keys) - 1) * self._size)
            parts[-1] = self.drawer.cut(parts[-1], max(0, kept))
        elif edge > there:
            parts.append(self.drawer.draw(f"end/{planned.request}", edge - there))
        return self.drawer.separator.join(filter(None, parts))

    def more(self, planned: Planned, tokens: int) -> bytes:
        """What a later turn adds to the conversation. Turns with the same blocks add the same."""
        name = f"turn/{planned.blocks[-1]}" if planned.blocks else f"turn/{planned.request}"
        return self.drawer.draw(name, max(1, self._units(tokens)))

    def _units(self, tokens: int) -> int:
        return round(tokens * self.drawer.per_token)

    def _block(self, key: BlockKey, index: int) -> bytes:
        fragment = self._known.get(key)
        if fragment is not None:
            return fragment
        fragment = self._older.get(key)
        if fragment is None:
            count = self._units((index + 1) * self._size) - self._units(index * self._size)
            fragment = self.drawer.draw(f"block/{key}", count)
        self._known[key] = fragment
        self._bytes += len(fragment) + 200  # the entry itself: key, bytes object and slot of the table
        if self._bytes > self._half:
            self._older, self._known, self._bytes = self._known, {}, 0
        return fragment


def text_json(fragment: bytes) -> bytes:
    """Words as a JSON string."""
    return b'"%b"' % fragment


def quoted(text: str) -> bytes:
    """Any text as a JSON string."""
    return msgspec.json.encode(text)


def _numbers(seed: int, name: str, count: int) -> memoryview:
    """Evenly spread 32-bit numbers."""
    if count <= 0:
        return memoryview(b"")
    return memoryview(stream(seed, name).getrandbits(32 * count).to_bytes(4 * count, "little")).cast("I")
