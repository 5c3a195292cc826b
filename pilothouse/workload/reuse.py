"""How often prompts would find their beginning in a prefix cache, for every size of that cache at once, exactly.

The cache is one that a request reads and writes as a whole, one request after the other. It holds the blocks that were
touched most recently. A request looks for its leading blocks, and finds those of them that are held. Then it touches its
whole chain, prompt and answer, last block first and first block last: an engine frees the tail of a request before its
head, so that a prefix outlives all that goes on from it (vLLM, `free` of its KV cache manager). A block was found, then,
if less than `capacity` blocks had been touched after it: its *depth*, that number plus one, is at most `capacity`. That
does not depend on the capacity (Mattson et al., IBM Systems Journal 9(2), 1970: stack inclusion), so counting how many
lookups went to which depth answers for all sizes. As keys are chained, whoever touches a block touches all before it, and
later: depth grows along a prompt, and what is found is a prefix.

How it is counted: of each request those blocks matter that nobody has touched since. They are the end of its chain, one
run, and a request that finds some of them finds the first ones, at consecutive depths. So a request goes along its chain
from run to run, cuts off what it touches, and is one run itself in the end. A Fenwick tree over requests says how many blocks
were touched after a given one. Time per request is O(runs x log requests), whatever the number of blocks; chains are
referred to, not copied.
accuracy   exact, `benchmarks/tiers.py`
ignores    requests at the same time; copies of one block on several replicas
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from pilothouse.core.units import BlockKey


@dataclass(slots=True)
class _Run:
    """Blocks of a request's chain, from `start` to its end, that nobody has touched since."""

    chain: Sequence[BlockKey]
    start: int
    number: int  # of the request, from 1


@dataclass(slots=True, eq=False)
class Reuse:
    """Takes requests one after the other, and counts at which depth their blocks are found."""

    lookups: int = 0  # blocks that were looked for
    blocks: int = 0  # distinct ones there have been, those without a key included
    _steps: dict[int, int] = field(default_factory=dict)  # depth -> how many more lookups than at the depth before
    _runs: dict[BlockKey, _Run] = field(default_factory=dict)  # by the key of the first block
    _tree: list[int] = field(default_factory=lambda: [0])  # Fenwick tree: blocks by the request that touched them last

    def take(self, chain: Sequence[BlockKey], wanted: int, unnamed: int = 0) -> None:
        """The next request.

        chain     keys of the blocks it touches, prompt and answer; must not change afterwards
        wanted    how many leading blocks of it are looked for; 0 = it only fills the cache
        unnamed   further blocks that it fills and nobody will ask for
        """
        tree, runs, steps = self._tree, self._runs, self._steps
        size, length, place = len(tree), len(chain), 0
        while place < length:
            run = runs.pop(chain[place], None)
            if run is None:
                self.blocks += length - place
                break
            end = _leaves(run, chain, place)
            depth, at = self.blocks + 1, run.number
            while at:
                depth -= tree[at]
                at &= at - 1
            if wanted > place:
                after = depth + min(end, wanted) - place
                steps[depth] = steps.get(depth, 0) + 1
                steps[after] = steps.get(after, 0) - 1
            at, taken = run.number, end - place
            while at < size:
                tree[at] -= taken
                at += at & -at
            if end < len(run.chain):
                run.start = end
                runs[run.chain[end]] = run
            place = end
        if length:
            runs[chain[0]] = _Run(chain, 0, size)
        self._append(length + unnamed)
        self.blocks += unnamed
        self.lookups += wanted

    def _append(self, blocks: int) -> None:
        """The next request's place in the tree."""
        tree, number = self._tree, len(self._tree)
        at, least = number - 1, number & number - 1
        while at > least:
            blocks += tree[at]
            at &= at - 1
        tree.append(blocks)

    def curve(self) -> "HitCurve":
        depths = sorted(depth for depth, step in self._steps.items() if step)
        slopes = list(accumulate(self._steps[depth] for depth in depths))
        hits, found = 0, list[int]()
        for i, depth in enumerate(depths):
            hits += slopes[i - 1] * (depth - depths[i - 1]) if i else 0
            found.append(hits)
        return HitCurve(self.lookups, self.blocks, depths, slopes, found)


def _leaves(run: _Run, chain: Sequence[BlockKey], place: int) -> int:
    """Where a chain that has the run's first block at `place` goes on otherwise, or ends."""
    own, end = run.chain, min(len(run.chain), len(chain))
    if chain[end - 1] == own[end - 1]:  # a key stands for all before it
        return end
    while end - place > 1:
        middle = (place + end) // 2
        if chain[middle] == own[middle]:
            place = middle
        else:
            end = middle
    return end


@dataclass(slots=True, frozen=True)
class HitCurve:
    """Lookups that found their block, for every capacity: straight lines between the depths at which the slope changes."""

    lookups: int
    blocks: int  # that were ever touched: what a cache without limit holds at the end
    _depths: list[int]
    _slopes: list[int]  # lookups per depth, from that depth on
    _hits: list[int]  # at less than that depth

    def hits(self, capacity: int) -> int:
        """How many lookups a cache of so many blocks answers."""
        place = bisect_right(self._depths, capacity) - 1
        return self._hits[place] + self._slopes[place] * (capacity - self._depths[place] + 1) if place >= 0 else 0

    @property
    def ceiling(self) -> int:
        """The same without limit."""
        return self._hits[-1] if self._hits else 0

    @property
    def enough(self) -> int:
        """The smallest capacity that answers all that any could [blocks]."""
        return self._depths[-1] - 1 if self._depths else 0

    def capacity(self, hits: float) -> int:
        """The smallest one with at least so many hits [blocks]; `enough` if none has."""
        low, high = 0, self.enough
        while low < high:
            middle = (low + high) // 2
            if self.hits(middle) >= hits:
                high = middle
            else:
                low = middle + 1
        return low
