"""Remembers the block keys of prompts seen, so that a shared prefix is hashed once.

A prompt is a sequence of chunks (bytes of packed token ids). Each place after a chunk is a node that holds the keys
of the blocks completed there, the digest to go on from, and the ids that do not yet fill a block. Nodes hang in one
flat table keyed by (parent, chunk). A walk costs one lookup per chunk; ids of a known prefix are never touched again.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from pilothouse.live.tokens.dialect import ID_BYTES, Dialect, Scope

_NODE_BYTES = 400  # a node, its table entry and key, without blocks and chunk; measured with sys.getsizeof, rounded up
_KEY_BYTES = 40  # one 64-bit integer and its slot in a list


@dataclass(slots=True, frozen=True)
class Node:
    """A place in a prompt: everything before it is known."""

    name: int
    tokens: int
    digest: bytes
    tail: bytes  # packed ids after the last full block
    keys: list[int]  # of the blocks completed by the last chunk
    place: tuple[int, bytes | Scope] = (-1, b"")  # its key in the table


class PrefixMemo:
    """The bounded memory of one dialect. Not thread-safe: `walk` and `keep` belong to one event loop."""

    def __init__(self, dialect: Dialect, bytes_max: int) -> None:
        self.dialect, self.bytes_max, self.bytes_used = dialect, bytes_max, 0
        self._nodes: OrderedDict[tuple[int, bytes | Scope], Node] = OrderedDict()
        self._next_name = 0
        self._last: Node | None = None  # where the prompt used last ends, unless the table has changed since

    def root(self, scope: Scope) -> Node:
        """The empty prompt of one adapter and salt."""
        node = self._nodes.get((-1, scope))
        if node is None:
            node = self._put((-1, scope), Node(-1, 0, self.dialect.root(scope), b"", []), 0)
        return node

    def walk(self, node: Node, chunks: Sequence[bytes]) -> list[Node]:
        """The known places of a prompt, `node` first."""
        path, find = [node], self._nodes.get
        for chunk in chunks:
            found = find((node.name, chunk))
            if found is None:
                break
            node = found
            path.append(node)
        return path

    def keep(self, path: list[Node], chunks: Sequence[bytes], computed: list[Node]) -> None:
        """Adds the places computed after `path`, which `walk` returned for `chunks`, and marks all of it as used."""
        if path[-1] is self._last and not computed:
            return  # the same prompt as before
        parent = path[-1]
        for chunk, node in zip(chunks[len(path) - 1 :], computed, strict=True):
            parent = self._put((parent.name, chunk), node, len(chunk))
            path.append(parent)
        # Later places first: eviction takes the least recently used, so a place goes before the places it follows.
        # A loop at the speed of C; a place may have been evicted while others were computed.
        places = [node.place for node in reversed(path)]
        deque(map(self._nodes.move_to_end, filter(self._nodes.__contains__, places)), 0)
        self._last = path[-1]
        self._evict()

    def _put(self, key: tuple[int, bytes | Scope], node: Node, chunk_bytes: int) -> Node:
        known = self._nodes.get(key)
        if known is not None:  # another request computed the same place meanwhile
            return known
        named = self._nodes[key] = Node(self._fresh(), node.tokens, node.digest, node.tail, node.keys, key)
        self._last = None
        self.bytes_used += _cost(named, chunk_bytes)
        return named

    def _evict(self) -> None:
        while self.bytes_used > self.bytes_max and self._nodes:
            self._last = None
            (_, chunk), node = self._nodes.popitem(last=False)
            self.bytes_used -= _cost(node, len(chunk) if isinstance(chunk, bytes) else 0)

    def _fresh(self) -> int:
        self._next_name += 1
        return self._next_name


def compute(dialect: Dialect, scope: Scope, after: Node, chunks: Sequence[bytes]) -> list[Node]:
    """The places after `after`, one for each chunk. Pure: may run in a thread; the names are set by `keep`."""
    nodes, node, step = [], after, dialect.block_size * ID_BYTES
    for chunk in chunks:
        packed = node.tail + chunk
        whole = len(packed) - len(packed) % step
        digest, keys = node.digest, list[int]()
        if whole:
            digest, keys = dialect.extend(node.digest, packed, scope, node.tokens * ID_BYTES < step)
        node = Node(-1, node.tokens + len(chunk) // ID_BYTES, digest, packed[whole:], keys)
        nodes.append(node)
    return nodes


def keys_of(path: Sequence[Node]) -> list[int]:
    """All block keys along a path. Perhaps a list of the memory itself, which nobody may change."""
    parts = [node.keys for node in path if node.keys]
    if len(parts) == 1:
        return parts[0]
    keys: list[int] = []
    for part in parts:
        keys += part
    return keys


def _cost(node: Node, chunk_bytes: int) -> int:
    return _NODE_BYTES + chunk_bytes + len(node.tail) + _KEY_BYTES * len(node.keys)
