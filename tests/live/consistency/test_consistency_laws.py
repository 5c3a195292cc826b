"""Laws of comparing engines: the order does not matter, what differs is named, what is alike or unknown is not."""

from collections.abc import Sequence

import msgspec
import pytest
from engines_alike import NAMES, PARTIAL, WHOLE, engine, pool
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.live.consistency import pairing
from pilothouse.live.consistency.comparing import differences
from pilothouse.live.consistency.facts import PROPERTIES, STORES, Breaks, Facts, Member, exchange, member

PREFILL, DECODE, BOTH = pool("prefill"), pool("decode"), pool("both", None)
BY_NAME = {p.name: p for p in PROPERTIES}
STATED = ("connector",)  # the configuration says it of a pool with a connector


def named(members: Sequence[Member], breaks: Breaks) -> set[str]:
    return {d.about for d in differences(members) if d.breaks is breaks}


def test_the_table_has_every_property_once() -> None:
    assert sorted(NAMES) == sorted(Facts.__struct_fields__)


@given(st.lists(PARTIAL, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_engines_does_not_matter(facts: list[Facts], luck: object) -> None:
    pools = [PREFILL, DECODE, BOTH]
    members = [engine(f"e{i}", pools[i % 3], each) for i, each in enumerate(facts)]
    shuffled = sorted(members, key=lambda m: luck.random())  # type: ignore[attr-defined]
    assert differences(members) == differences(shuffled)


@given(PARTIAL, PARTIAL)
def test_what_differs_differs_either_way(a: Facts, b: Facts) -> None:
    for one, other in ((BOTH, BOTH), (PREFILL, DECODE)):
        there = [engine("x", one, a), engine("y", other, b)]
        back = [engine("x", one, b), engine("y", other, a)]
        for breaks in (Breaks.EXCHANGE, Breaks.COMPARABILITY):
            assert named(there, breaks) - {""} == named(back, breaks) - {""}


@pytest.mark.parametrize("p", PROPERTIES, ids=NAMES)
def test_whatever_breaks_exchange_is_named_between_pools_and_keeps_engines_from_being_paired(p: object) -> None:
    assert isinstance(p, type(PROPERTIES[0]))
    if p.name in STATED:
        return
    alike, other = engine("a", PREFILL), engine("b", DECODE, **{p.name: "7"})
    assert named([alike, other], p.between) == {p.name} if p.between else not differences([alike, other])
    assert (exchange(alike) != exchange(other)) == p.pairs == bool(pairing.differing(alike, other))
    assert not p.pairs or p.between is Breaks.EXCHANGE


@pytest.mark.parametrize("p", PROPERTIES, ids=NAMES)
def test_replicas_that_differ_are_not_comparable(p: object) -> None:
    assert isinstance(p, type(PROPERTIES[0]))
    pair = [engine("a", BOTH), engine("b", BOTH, **{p.name: "7"})]
    assert named(pair, Breaks.COMPARABILITY) == ({p.name} if p.within else set())


@pytest.mark.parametrize("kind", STORES)
def test_replicas_that_share_a_store_exchange_kv(kind: str) -> None:
    shared = pool("both", kind)
    pair = [engine("a", shared, connector=kind), engine("b", shared, connector=kind, block_size="64")]
    assert named(pair, Breaks.EXCHANGE) == {"block_size"}


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from(["both", "pairs"]))
def test_a_fleet_of_equals_is_silent(prefill: int, decode: int, kind: str) -> None:
    pools = (BOTH, BOTH) if kind == "both" else (PREFILL, DECODE)
    members = [engine(f"p{i}", pools[0]) for i in range(prefill)] + [engine(f"d{i}", pools[1]) for i in range(decode)]
    assert differences(members) == [] and pairing.sentences(members) == []


@given(st.sets(st.sampled_from([name for name in NAMES if name != "block_size"])))
def test_what_is_not_told_is_a_note_and_no_difference(untold: set[str]) -> None:
    silent = msgspec.structs.replace(WHOLE, **dict.fromkeys(sorted(untold)))
    found = differences([engine("a", PREFILL), engine("b", DECODE, silent)])
    assert all(d.breaks is Breaks.NOTE for d in found)
    for name in untold - {"connector", "revision", "renewal"}:  # configured; a directory has none; told with the lease
        assert BY_NAME[name].words in found[0].sentence and BY_NAME[name].pin in found[0].sentence


@given(PARTIAL, PARTIAL)
def test_engines_are_partners_if_all_that_pairs_is_alike(a: Facts, b: Facts) -> None:
    one, other = engine("a", PREFILL, a), engine("b", DECODE, b)
    alike = not one.doubts and not other.doubts and not pairing.differing(one, other)
    assert (exchange(one) == exchange(other)) == alike
    assert bool(pairing.sentences([one, other])) != alike


@pytest.mark.parametrize("block_size", [None, ""])
def test_an_unknown_block_size_pairs_with_nobody(block_size: str | None) -> None:
    unknown = [engine(name, of, block_size=block_size) for name, of in (("a", PREFILL), ("b", DECODE), ("c", DECODE))]
    assert len({exchange(m) for m in unknown}) == 3
    assert pairing.sentences(unknown)[0] == "endpoint a does not tell its block size: it is paired with nobody"


def test_engines_without_connector_have_nothing_to_exchange() -> None:
    assert exchange(engine("a", BOTH)) == "" and member("a", BOTH, Facts()).doubts == ()
