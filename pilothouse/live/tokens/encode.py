"""Text to packed token ids, with a bounded memory of the stretches of text between special tokens."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pilothouse.live.tokens.dialect import ID_BYTES, pack
from pilothouse.live.tokens.tokenizer import Loaded

CHUNK_TOKENS = 1024  # a longer stretch is hashed in parts, so that texts that begin alike share them
_ENTRY_BYTES = 250  # table entry, key and tuple of a stretch, without text and ids; measured, rounded up

Key = str | tuple[str]  # the text of a stretch; in a tuple when being first in the prompt changes its ids


@dataclass(slots=True)
class Cut:
    """A prompt as chunks of packed ids; None marks a stretch that has to be encoded first."""

    keys: list[Key]
    chunks: list[tuple[bytes, ...] | None]
    unknown_chars: int

    @property
    def flat(self) -> list[bytes]:
        return [chunk for part in self.chunks if part is not None for chunk in part]


class Encoder:
    """A tokenizer with memory. `cut` and `fill` belong to one event loop; `encode` is pure and may run in a thread."""

    def __init__(self, loaded: Loaded, bytes_max: int) -> None:
        self.loaded, self.bytes_max, self.bytes_used = loaded, bytes_max, 0
        self._known: OrderedDict[Key, tuple[bytes, ...]] = OrderedDict()
        self._special = {text: (pack([token_id]),) for text, token_id in loaded.special_ids.items()}
        first = {text[:1] for text in loaded.special_ids}
        self._mark = first.pop() if len(first) == 1 else ""  # what special tokens begin with; "" is in every text
        self._prefix, self._suffix = (pack(ids) for ids in (loaded.prefix, loaded.suffix))

    def cut(self, text: str, add_special_tokens: bool) -> Cut:
        """Cuts a prompt at its special tokens and looks up each stretch."""
        if not add_special_tokens:
            return self._look_up(text, Cut([], [], 0))
        found = Cut([], [], 0)
        if self._prefix:
            found.keys.append("")
            found.chunks.append((self._prefix,))
        self._look_up(text, found)
        if self._suffix:
            found.keys.append("")
            found.chunks.append((self._suffix,))
        return found

    def _look_up(self, text: str, found: Cut) -> Cut:
        # Most texts lack the character that all special tokens begin with; to look for it costs a tenth of the pattern.
        pattern = self.loaded.cut if self._mark in text else None
        pieces = [text] if pattern is None else pattern.split(text)
        keys, chunks, known = found.keys, found.chunks, self._known
        for index, piece in enumerate(pieces):
            if not piece:
                continue
            if index % 2:  # what the pattern matched
                keys.append(piece)
                chunks.append(self._special[piece])
                continue
            key: Key = (piece,) if index == 0 and self.loaded.marker else piece
            packed = known.get(key)
            if packed is None:
                found.unknown_chars += len(piece)
            else:
                known.move_to_end(key)
            keys.append(key)
            chunks.append(packed)
        return found

    def unknown(self, found: Cut) -> list[Key]:
        """The stretches that `encode` has to be called for, each once."""
        return list(dict.fromkeys(key for key, chunk in zip(found.keys, found.chunks, strict=True) if chunk is None))

    def encode(self, keys: Sequence[Key]) -> list[bytes]:
        """The packed ids of stretches. Touches no memory."""
        marker = self.loaded.marker
        texts = [
            marker + key if marker and isinstance(key, str) else key if isinstance(key, str) else key[0] for key in keys
        ]
        encoded = self.loaded.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        skipped = [int(bool(marker) and isinstance(key, str)) for key in keys]
        return [pack(each.ids[skip:]) for each, skip in zip(encoded, skipped, strict=True)]

    def fill(self, found: Cut, keys: Sequence[Key], packed: Sequence[bytes]) -> None:
        """Puts encoded stretches into the prompt and into memory."""
        chunked = {key: in_chunks(ids) for key, ids in zip(keys, packed, strict=True)}
        for index, chunk in enumerate(found.chunks):
            if chunk is None:
                found.chunks[index] = chunked[found.keys[index]]
        found.unknown_chars = 0
        for key, chunks in chunked.items():
            if key not in self._known:
                self._known[key] = chunks
                self.bytes_used += _cost(key, chunks)
        while self.bytes_used > self.bytes_max and self._known:
            self.bytes_used -= _cost(*self._known.popitem(last=False))


def in_chunks(packed: bytes) -> tuple[bytes, ...]:
    """Packed ids in parts of at most CHUNK_TOKENS, as the prefix memo takes them."""
    step = CHUNK_TOKENS * ID_BYTES
    return tuple(packed[start : start + step] for start in range(0, len(packed), step))


def _cost(key: Key, chunks: tuple[bytes, ...]) -> int:
    text = key if isinstance(key, str) else key[0]
    # A str takes 1, 2 or 4 bytes per character; 2 is the middle, and ASCII is over-counted rather than under-counted.
    return _ENTRY_BYTES + 2 * len(text) + sum(map(len, chunks))
