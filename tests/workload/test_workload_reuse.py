"""The hit curve is what LRU caches of every size really answer; and what they answer is always a prefix."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.core.units import BlockKey
from pilothouse.workload.requests import mixed
from pilothouse.workload.reuse import HitCurve, Reuse


class Took(msgspec.Struct, frozen=True):
    """One request."""

    chain: list[BlockKey]
    wanted: int
    unnamed: int


def cached(requests: Sequence[Took], capacity: int) -> int:
    """Hits of one real cache, block by block: looks up, then touches from the tail, then evicts."""
    held: dict[object, None] = {}  # least recently touched first
    hits = 0
    for number, request in enumerate(requests):
        found = [key in held for key in request.chain[: request.wanted]]
        assert found == sorted(found, reverse=True), "hits are no prefix"
        hits += sum(found)
        for key in [*((number, i) for i in range(request.unnamed)), *reversed(request.chain)]:
            held.pop(key, None)
            held[key] = None
        for key in list(held)[: max(0, len(held) - capacity)]:
            del held[key]
    return hits


@st.composite
def requests(draw: st.DrawFn) -> list[Took]:
    """Each goes on from somewhere within a chain there was before, by blocks of its own or somebody's."""
    chains: list[list[BlockKey]] = [[]]
    made = []
    for _ in range(draw(st.integers(0, 14))):
        base = draw(st.sampled_from(chains))
        chain = base[: draw(st.integers(0, len(base)))]
        for text in draw(st.lists(st.integers(0, 2), max_size=5)):
            before = chain[-1] if chain else 0
            chain = [*chain, BlockKey(mixed(3 * before + text + 1))]
        chains.append(chain)
        made.append(Took(chain, draw(st.integers(0, len(chain))), draw(st.integers(0, 2))))
    return made


def curve_of(took: Sequence[Took]) -> HitCurve:
    reuse = Reuse()
    for request in took:
        reuse.take(request.chain, request.wanted, request.unnamed)
    return reuse.curve()


@given(requests())
def test_every_capacity_hits_as_often_as_a_cache_of_that_size(took: list[Took]) -> None:
    curve = curve_of(took)
    for capacity in range(sum(len(t.chain) + t.unnamed for t in took) + 2):
        assert curve.hits(capacity) == cached(took, capacity)


@given(requests())
def test_the_curve_rises_to_its_ceiling_and_stays(took: list[Took]) -> None:
    curve = curve_of(took)
    hits = [curve.hits(capacity) for capacity in range(curve.blocks + 2)]
    assert hits[0] == 0 and hits == sorted(hits) and hits[-1] == curve.ceiling <= curve.lookups
    assert curve.hits(curve.enough) == curve.ceiling and (curve.enough == 0 or hits[curve.enough - 1] < curve.ceiling)
    distinct = {key for request in took for key in request.chain}
    assert curve.blocks == len(distinct) + sum(request.unnamed for request in took)
    for wanted in range(curve.ceiling + 1):
        least = curve.capacity(wanted)
        assert curve.hits(least) >= wanted and (least == 0 or curve.hits(least - 1) < wanted)


@pytest.mark.parametrize(
    ("chains", "hits"),
    [
        ([], [0, 0]),
        (["ab", "ab"], [0, 1, 2, 2]),
        (["ab", "ac", "ab"], [0, 2, 2, 3, 3]),  # b lies under a and c
        (["ab", "cd", "ab"], [0, 0, 0, 1, 2, 2]),  # the head outlives the tail
        (["abc", "a", "abc"], [0, 2, 3, 4, 4]),
    ],
)
def test_small_cases(chains: list[str], hits: list[int]) -> None:
    """Letters stand for blocks, each behind the same one always."""
    took = [Took([BlockKey(ord(letter)) for letter in chain], len(chain), 0) for chain in chains]
    curve = curve_of(took)
    assert [curve.hits(capacity) for capacity in range(len(hits))] == hits
