"""One engine's paged KV: who references which blocks, and what stays cached until the space is needed.

Behaves block for block like a free list in order of release (a freed sequence gives back its tail first, so its tail is
evicted first), but handles runs: blocks lie in a tree whose nodes are stretches that nobody has needed to cut yet.
A key stands for its tokens and all before them, so one comparison tells whether two stretches are the same.

Each block is one of: named and referenced (`referenced`), private to a running sequence (`private`), unreferenced but
cached (`cached`), or `free`. The four always add up to the capacity.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pilothouse.core.units import BlockKey


@dataclass(slots=True, eq=False)
class Node:
    """Blocks `start` to `end` of a chain of keys. `refs` running sequences hold all of them."""

    parent: "Node | None"
    keys: Sequence[BlockKey]
    start: int
    end: int
    refs: int = 0
    children: dict[BlockKey, "Node"] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Unnamed:
    """Blocks that no prompt can ask for: generated text, and blocks not filled."""

    count: int


class BlockStore:
    """Counts and contents. Nothing here knows about time or scheduling."""

    def __init__(self, capacity: int, *, reporting: bool = False) -> None:
        self.capacity, self.reporting = capacity, reporting
        self.referenced = self.private = self.cached = 0
        self.stored: list[BlockKey] = []  # since they were last collected; kept only if reporting
        self.removed: list[BlockKey] = []
        self._root = Node(None, (), 0, 0, 1)
        self._idle: OrderedDict[Node | Unnamed, None] = OrderedDict()  # next to be evicted first

    @property
    def free(self) -> int:
        return self.capacity - self.referenced - self.private - self.cached

    @property
    def available(self) -> int:
        """Blocks that can be taken: free ones and cached ones."""
        return self.capacity - self.referenced - self.private

    def match(self, keys: Sequence[BlockKey], limit: int) -> tuple[int, int]:
        """(leading blocks of the chain that are here, those of them that nobody references), at most `limit` blocks."""
        node, found, idle = self._root, 0, 0
        while found < limit:
            child = node.children.get(keys[found])
            if child is None:
                break
            end = _common(child, keys, limit)
            idle += 0 if child.refs else end - found
            found, node = end, child
            if end < child.end:
                break
        return found, idle

    def hold(self, keys: Sequence[BlockKey], count: int) -> Node:
        """References the first `count` blocks of the chain, which are here; returns where they end."""
        node, at = self._root, 0
        while at < count:
            child = node.children[keys[at]]
            if child.end > count:
                child = self._cut(child, count)
            self._reference(child)
            node, at = child, child.end
        return node

    def take(self, count: int) -> None:
        """`count` private blocks, from what is free or by evicting."""
        short = count - self.free
        if short > 0:
            self._evict(short)
        self.private += count

    def name(self, node: Node, keys: Sequence[BlockKey], end: int) -> Node:
        """The private blocks after `node` up to `end` are computed: others may use them. Those that another sequence
        has named meanwhile are given back and its ones referenced. Returns where the chain now ends."""
        while node.end < end:
            child = node.children.get(keys[node.end])
            if child is None:
                child = node.children[keys[node.end]] = Node(node, keys, node.end, end)
                self.cached += end - node.end  # for the moment: referenced below
                if self.reporting:
                    self.stored += keys[node.end : end]
                self._idle[child] = None
            else:
                common = _common(child, keys, end)
                if common < child.end:
                    child = self._cut(child, common)
            self.private -= child.end - child.start
            self._reference(child)
            node = child
        return node

    def release(self, node: Node, private: int) -> None:
        """A sequence ends: its private blocks and then, tail first, its named ones become cached unless others hold
        them too."""
        if private:
            self._idle[Unnamed(private)] = None
            self.private -= private
            self.cached += private
        while node.parent is not None:
            node.refs -= 1
            if not node.refs:
                self._idle[node] = None
                self.referenced -= node.end - node.start
                self.cached += node.end - node.start
            node = node.parent

    def quiet(self) -> int:
        """Blocks that can be taken before a named one must go."""
        count = self.free
        for segment in self._idle:
            if isinstance(segment, Node):
                break
            count += segment.count
        return count

    def collect(self) -> tuple[list[BlockKey], list[BlockKey]]:
        """(stored, removed) since the last call."""
        changes = self.stored, self.removed
        self.stored, self.removed = [], []
        return changes

    def check(self) -> None:
        """The laws, for tests: counts agree with contents, nothing is evicted before what depends on it."""
        idle = sum(s.end - s.start if isinstance(s, Node) else s.count for s in self._idle)
        assert idle == self.cached and self.free >= 0 and self.private >= 0
        held, stack = 0, list(self._root.children.values())
        while stack:
            node = stack.pop()
            assert node.start < node.end and node.parent is not None and node.parent.end == node.start
            assert node.refs >= sum(child.refs for child in node.children.values())
            assert (node in self._idle) == (node.refs == 0)
            held += node.end - node.start if node.refs else 0
            stack += node.children.values()
        assert held == self.referenced

    def _reference(self, node: Node) -> None:
        if not node.refs:
            del self._idle[node]
            self.cached -= node.end - node.start
            self.referenced += node.end - node.start
        node.refs += 1

    def _cut(self, node: Node, at: int) -> Node:
        """Splits a node; the tail keeps its place in the order of eviction, the head goes behind it."""
        assert node.parent is not None and node.start < at < node.end
        head = Node(node.parent, node.keys, node.start, at, node.refs)
        node.parent.children[node.keys[node.start]] = head
        node.parent, node.start = head, at
        head.children[node.keys[at]] = node
        if not node.refs:
            self._idle[head] = None  # whoever cuts an idle node is about to reference its head
        return head

    def _evict(self, count: int) -> None:
        assert count <= self.cached, "more blocks wanted than can be evicted"
        self.cached -= count
        while count:
            segment = next(iter(self._idle))
            if isinstance(segment, Unnamed):
                gone = min(count, segment.count)
                segment.count -= gone
                if not segment.count:
                    del self._idle[segment]
            else:
                assert not segment.children, "a block would go before the blocks that follow it"
                gone = min(count, segment.end - segment.start)
                segment.end -= gone
                if self.reporting:
                    self.removed += segment.keys[segment.end : segment.end + gone]
                if segment.end == segment.start:
                    del self._idle[segment]
                    assert segment.parent is not None
                    del segment.parent.children[segment.keys[segment.start]]
            count -= gone


def _common(node: Node, keys: Sequence[BlockKey], limit: int) -> int:
    """Where the chain stops agreeing with the node, whose first block it shares."""
    low, high = node.start + 1, min(node.end, limit, len(keys))
    if node.keys[high - 1] == keys[high - 1]:
        return high
    while low < high:  # agreement up to `low`, none at `high`: all keys after a difference differ
        middle = (low + high) // 2
        if node.keys[middle] == keys[middle]:
            low = middle + 1
        else:
            high = middle
    return low
