"""The block index against a naive one of sets and lists, its laws, and its snapshot."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from pilothouse.core.assumed import BLOCKS_UNKNOWN, Lru
from pilothouse.core.events import Tier
from pilothouse.core.holders import Holders, prefix_lengths, slots_of
from pilothouse.core.kvindex import KvIndex
from pilothouse.core.kvstate import IndexState
from pilothouse.core.units import BlockKey, EndpointId, Micros, RequestId

EXACT, ASSUMED = [EndpointId("e0"), EndpointId("e1"), EndpointId("e2")], [EndpointId("a0"), EndpointId("a1")]
CAPACITY = 6  # of the assumed endpoints in the model test [blocks]
LASTS_US = 50
SHARING, STORE_BLOCKS = EXACT[1:], 5  # who fetches from the shared store of the model test, and its capacity


@dataclass
class At:
    """The least a candidate can be."""

    id: EndpointId


def key(i: int) -> BlockKey:
    return BlockKey(i * 0x9E3779B97F4A7C15 % 2**64)


def keys(*numbers: int) -> list[BlockKey]:
    return [key(i) for i in numbers]


def held(index: KvIndex, blocks: list[BlockKey], *endpoints: str) -> list[int]:
    return index.lookup(blocks, [At(EndpointId(e)) for e in endpoints])


def fleet(*exact: str, assumed: int | None = None, **settings: int) -> KvIndex:
    index = KvIndex(**{"blocks_max": 10_000, **settings})  # type: ignore[arg-type]
    for name in exact:
        index.add(EndpointId(name), exact=True, kv_blocks=0, block_size=16)
    if assumed is not None:
        index.add(EndpointId("assumed"), exact=False, kv_blocks=assumed, block_size=16)
    return index


def route(index: KvIndex, request: str, endpoint: str, blocks: list[BlockKey], at: int = 0) -> None:
    index.routed(RequestId(request), EndpointId(endpoint), blocks, Micros(at))


def end(index: KvIndex, request: str, at: int, computed: bool) -> None:
    index.ended(RequestId(request), Micros(at), computed)


# The naive index


@dataclass
class Naive:
    """One endpoint: sets, a list for the order of use, and who claims what."""

    exact: bool
    hbm: set[int] = field(default_factory=set)  # claimed ones included
    lower: dict[Tier, set[int]] = field(default_factory=dict)
    claims: dict[int, set[str]] = field(default_factory=dict)
    used: list[int] = field(default_factory=list)  # assumed: least recent first

    def use(self, blocks: list[BlockKey]) -> None:
        for block in reversed(blocks):
            if block in self.used:
                self.used.remove(block)
            self.used.append(block)
        while len(self.used) > CAPACITY:
            self.claims.pop(self.used.pop(0), None)
        self.hbm = set(self.used)

    def withdraw(self, claimant: str) -> None:
        for block in [b for b, marks in self.claims.items() if claimant in marks]:
            self.claims[block].discard(claimant)
            if not self.claims[block]:
                del self.claims[block]
                self.hbm.discard(block)
                if block in self.used:
                    self.used.remove(block)


def naive_prefix(blocks: list[BlockKey], hold: set[int]) -> int:
    return next((n for n, block in enumerate(blocks) if block not in hold), len(blocks))


PROMPTS = st.lists(st.integers(0, 11).map(key), unique=True, max_size=8)
NAMES = st.sampled_from(EXACT + ASSUMED)


class Model(RuleBasedStateMachine):
    """The index and the naive one hear the same story."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.index = KvIndex(10_000, Micros(LASTS_US))
        self.now = 0
        self.serial = 0
        self.naive = {e: Naive(e in EXACT) for e in EXACT + ASSUMED}
        self.open: dict[str, tuple[EndpointId, list[BlockKey]]] = {}
        self.due: dict[str, tuple[int, EndpointId]] = {}  # claim -> when it is withdrawn
        self.store: list[int] = []  # least recent first
        for e in EXACT + ASSUMED:
            self.join(e)

    def join(self, endpoint: EndpointId) -> None:
        store = {"store": "s", "store_blocks": STORE_BLOCKS} if endpoint in SHARING else {}
        exact = endpoint in EXACT
        self.index.add(endpoint, exact=exact, kv_blocks=CAPACITY, block_size=16, **store)  # type: ignore[arg-type]

    def use_store(self, blocks: list[BlockKey]) -> None:
        for block in reversed(blocks):
            if block in self.store:
                self.store.remove(block)
            self.store.append(block)
        del self.store[: max(0, len(self.store) - STORE_BLOCKS)]

    @rule(endpoint=st.sampled_from(EXACT), blocks=PROMPTS, tier=st.sampled_from(Tier))
    def stored(self, endpoint: EndpointId, blocks: list[BlockKey], tier: Tier) -> None:
        self.index.stored(endpoint, blocks, tier)
        naive = self.naive[endpoint]
        if tier is Tier.REMOTE and endpoint in SHARING:
            self.use_store(blocks)
            return
        if tier is not Tier.HBM:
            naive.lower.setdefault(tier, set()).update(blocks)
            return
        naive.hbm.update(blocks)
        for block in blocks:
            naive.claims.pop(block, None)

    @rule(endpoint=st.sampled_from(EXACT), blocks=PROMPTS, tier=st.sampled_from(Tier))
    def removed(self, endpoint: EndpointId, blocks: list[BlockKey], tier: Tier) -> None:
        self.index.removed(endpoint, blocks, tier)
        naive = self.naive[endpoint]
        if tier is Tier.REMOTE and endpoint in SHARING:
            self.store = [block for block in self.store if block not in blocks]
            return
        if tier is not Tier.HBM:
            naive.lower.setdefault(tier, set()).difference_update(blocks)
            return
        naive.hbm.difference_update(blocks)
        for block in blocks:
            naive.claims.pop(block, None)

    @rule(endpoint=NAMES)
    def cleared(self, endpoint: EndpointId) -> None:
        self.index.cleared(endpoint)
        self.naive[endpoint] = Naive(endpoint in EXACT)

    @rule(endpoint=NAMES)
    def leaves_and_comes_back(self, endpoint: EndpointId) -> None:
        self.index.remove(endpoint)
        self.join(endpoint)
        self.naive[endpoint] = Naive(endpoint in EXACT)
        self.open = {r: o for r, o in self.open.items() if o[0] != endpoint}
        self.due = {r: d for r, d in self.due.items() if d[1] != endpoint}

    @rule(target=requests, endpoint=NAMES, blocks=PROMPTS)
    def routed(self, endpoint: EndpointId, blocks: list[BlockKey]) -> str:
        self.serial += 1
        request = f"r{self.serial}"
        route(self.index, request, endpoint, blocks, self.now)
        naive = self.naive[endpoint]
        if endpoint in SHARING:
            self.use_store([block for block in blocks if block in self.store])
        unsure = [b for b in blocks if b not in naive.hbm or b in naive.claims]
        if naive.exact:
            naive.hbm.update(blocks)
        else:
            naive.use(blocks)
        for block in unsure:
            if block in naive.hbm:
                naive.claims.setdefault(block, set()).add(request)
        self.open[request] = (endpoint, blocks)
        return request

    @rule(request=requests)
    def prefilled(self, request: str) -> None:
        self.index.prefilled(RequestId(request), Micros(self.now))
        self._prefilled(request)

    def _prefilled(self, request: str) -> None:
        if request not in self.open:
            return
        naive = self.naive[self.open[request][0]]
        if naive.exact:
            self.due.setdefault(request, (self.now + LASTS_US, self.open[request][0]))
        else:
            for block in [b for b, marks in naive.claims.items() if request in marks]:
                del naive.claims[block]

    @rule(request=consumes(requests), computed=st.booleans())
    def ended(self, request: str, computed: bool) -> None:
        end(self.index, request, self.now, computed)
        if computed:
            self._prefilled(request)
        endpoint, blocks = self.open.pop(request, (None, []))
        if endpoint is None:
            return
        if not computed:
            self.naive[endpoint].withdraw(request)
        elif not self.naive[endpoint].exact:
            self.naive[endpoint].use(blocks)

    @rule(us=st.integers(1, LASTS_US * 2))
    def time_passes(self, us: int) -> None:
        self.now += us
        self.index.expire(Micros(self.now))
        for request, (due, endpoint) in list(self.due.items()):
            if due <= self.now:
                self.naive[endpoint].withdraw(request)
                del self.due[request]

    @precondition(lambda self: self.serial % 3 == 0)
    @rule()
    def saved_and_restored(self) -> None:
        packed = msgspec.msgpack.encode(self.index.snapshot())
        self.index = KvIndex(10_000, Micros(LASTS_US))
        self.index.restore(msgspec.msgpack.decode(packed, type=IndexState))
        again = msgspec.msgpack.encode(self.index.snapshot())
        assert sorted(again) == sorted(packed)

    @rule(blocks=PROMPTS)
    def same_answers(self, blocks: list[BlockKey]) -> None:
        everyone = EXACT + ASSUMED
        found = self.index.lookup_tiers(blocks, [At(e) for e in everyone])
        assert found.hbm == self.index.lookup(blocks, [At(e) for e in everyone])
        assert found.hbm == [naive_prefix(blocks, self.naive[e].hbm) for e in everyone]
        usable = [set(blocks[:n]) for n in found.hbm]  # what HBM holds behind a gap is not used
        for tier, lengths in found.lower:
            for e, use in zip(everyone, usable, strict=True):
                use |= self.naive[e].lower.get(tier, set())
                use |= set(self.store) if tier is Tier.REMOTE and e in SHARING else set()
            assert lengths == [naive_prefix(blocks, use) for use in usable]
        told = {tier for naive in self.naive.values() for tier, some in naive.lower.items() if some}
        assert told <= {tier for tier, _ in found.lower}

    @invariant()
    def same_counts(self) -> None:
        stats = self.index.stats()
        by_name = {e.endpoint: e for e in stats.endpoints}
        for name, naive in self.naive.items():
            assert by_name[name].hbm == len(naive.hbm)
            assert by_name[name].lower == sum(map(len, naive.lower.values()))
            assert by_name[name].speculative == len(naive.claims)
        assert stats.stores == {"s": len(self.store)}
        due = self.index.next_expiry_us()
        assert due is None or due > self.now or not self.due  # what is due has been withdrawn
        assert stats.refused == stats.ignored == 0


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# Laws


@given(st.lists(st.integers(0, 40).map(key), unique=True), st.data())
def test_only_contiguous_blocks_count(prompt: list[BlockKey], data: st.DataObject) -> None:
    index = fleet("a")
    stored = data.draw(st.sets(st.sampled_from(prompt)) if prompt else st.just(set()))
    index.stored(EndpointId("a"), [b for b in prompt if b in stored])
    assert held(index, prompt, "a") == [naive_prefix(prompt, set(stored))]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 200).map(key))), max_size=30))
def test_never_more_blocks_than_allowed(batches: list[tuple[str, list[BlockKey]]]) -> None:
    index = fleet("a", "b", assumed=50, blocks_max=64)
    for i, (name, blocks) in enumerate(batches):
        index.stored(EndpointId(name), blocks)
        route(index, f"r{i}", "assumed" if i % 2 else name, blocks)
        stats = index.stats()
        assert stats.blocks <= 64
        assert stats.holders == sum(e.hbm for e in stats.endpoints)
        assert stats.speculative <= stats.holders


@given(st.lists(st.tuples(st.lists(st.integers(0, 60).map(key), unique=True), st.booleans()), max_size=20))
def test_ended_requests_leave_no_speculation(routes: list[tuple[list[BlockKey], bool]]) -> None:
    index = fleet("a", assumed=30)
    for i, (blocks, computed) in enumerate(routes):
        name = "assumed" if i % 2 else "a"
        route(index, f"r{i}", name, blocks, at=i)
        end(index, f"r{i}", i, computed)
    index.expire(Micros(10_000_000))
    stats = index.stats()
    assert (stats.speculative, index.next_expiry_us()) == (0, None)
    assert stats.endpoints[0].hbm == 0  # the exact one never reported anything


@given(st.lists(st.lists(st.integers(0, 40), unique=True, max_size=15), max_size=40), st.integers(1, 20))
def test_lru_is_the_naive_lru(touches: list[list[int]], capacity: int) -> None:
    lru, order = Lru(capacity), list[int]()
    for blocks in touches:
        out = lru.touch(blocks)
        order = [b for b in order if b not in blocks] + blocks[::-1]
        surplus = max(len(order) - capacity, 0)
        assert out == order[:surplus]
        order = order[surplus:]
        assert lru.keys() == order


@given(st.lists(st.integers(0, 2**70 - 1), max_size=12), st.integers(0, 2**70 - 1))
def test_prefix_lengths_of_masks(masks: list[int], live: int) -> None:
    lengths = prefix_lengths(((mask, 1) for mask in masks), live, 70)
    for slot in range(70):
        run = next((n for n, mask in enumerate(masks) if not mask >> slot & 1), len(masks))
        assert lengths[slot] == (run if live >> slot & 1 else 0)


PIECES = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 60), st.integers(1, 70), st.booleans())
STEPS = st.tuples(
    st.sampled_from(["store", "store", "store", "remove", "kill", "sweep", "sweep"]), PIECES, st.integers(0, 3)
)


def piece_of(family: int, fork: int, start: int, end: int, backwards: bool) -> list[BlockKey]:
    """Part of a chain of 70 blocks, the first 30 of which its family shares; the last ones come twice."""
    chain = [
        *range(family * 1000, family * 1000 + 30),
        *range(family * 1000 + fork * 100 + 30, family * 1000 + fork * 100 + 70),
    ]
    return keys(*(chain + chain[-3:])[start:end][:: -1 if backwards else 1])


@given(st.lists(STEPS, max_size=30), st.integers(30, 400))
@settings(max_examples=60, deadline=None)
def test_runs_say_what_single_blocks_would(
    script: list[tuple[str, tuple[int, int, int, int, bool], int]], most: int
) -> None:
    """Pieces of forking chains, forwards and backwards, while dead slots are swept out a few shards at a time."""
    holders, naive = Holders(1000), dict[int, int]()
    dead = hand = 0
    for what, where, slot in script:
        piece, bit = piece_of(*where), 1 << slot
        if what == "store" and not bit & dead:
            room = 10**6 if dead else max(0, most - len(naive))
            new = {block: None for block in piece if not naive.get(block, 0) & bit}
            refused = [block for block in new if block not in naive][room:]
            assert holders.store(piece, bit, room) == len(new) - len(refused)
            naive |= {block: naive.get(block, 0) | bit for block in new if block not in refused}
        elif what == "remove" and not bit & dead:
            gone = [block for block in dict.fromkeys(piece) if naive.get(block, 0) & bit]
            assert holders.remove(piece, bit) == len(gone)
            naive |= {block: naive[block] ^ bit for block in gone}
        elif what == "kill" and not hand:
            dead |= bit
            naive = {block: mask & ~bit for block, mask in naive.items()}
        elif what == "sweep" and dead:
            for _ in range(8 * slot + 1):
                holders.sweep(hand, dead)
                hand = (hand + 1) % holders.shards
                dead *= hand > 0
        naive = {block: mask for block, mask in naive.items() if mask}
        asked = piece_of(*where[:2], 0, 73, False)
        assert [mask & ~dead for mask in holders.masks(asked)] == [naive.get(block, 0) for block in asked]
        assert bit & dead or holders.lacking(piece, bit) == [b for b in piece if not naive.get(b, 0) & bit]
        entries = dict(holders.items())
        assert {block: mask & ~dead for block, mask in entries.items() if mask & ~dead} == naive
        assert holders.size == len(entries) and (dead or len(entries) == len(naive))


@given(st.sets(st.integers(0, 600)))
def test_slots_of_a_mask(slots: set[int]) -> None:
    assert slots_of(sum(1 << slot for slot in slots)) == sorted(slots)


# Tables


def test_a_burst_meets_on_the_endpoint_it_was_sent_to() -> None:
    index = fleet("a", "b")
    route(index, "r", "a", keys(1, 2, 3))
    assert held(index, keys(1, 2, 3, 4), "b", "a") == [0, 3]


def test_a_request_that_failed_early_takes_its_claim_back_at_once() -> None:
    index = fleet("a")
    index.stored(EndpointId("a"), keys(1))
    route(index, "r", "a", keys(1, 2, 3))
    end(index, "r", 5, computed=False)
    assert held(index, keys(1, 2, 3), "a") == [1]


def test_a_claim_shared_by_two_requests_outlives_the_first() -> None:
    index = fleet("a")
    route(index, "r1", "a", keys(1, 2))
    route(index, "r2", "a", keys(1, 2))
    end(index, "r1", 0, computed=False)
    assert held(index, keys(1, 2), "a") == [2]
    end(index, "r2", 0, computed=False)
    assert held(index, keys(1, 2), "a") == [0]


def test_unconfirmed_claims_are_withdrawn_in_time() -> None:
    index = fleet("a", speculation_us=100)
    route(index, "r", "a", keys(1, 2, 3))
    index.prefilled(RequestId("r"), Micros(10))
    index.stored(EndpointId("a"), keys(1, 2))
    end(index, "r", 20, computed=True)
    assert index.next_expiry_us() == 110
    index.expire(Micros(109))
    assert held(index, keys(1, 2, 3), "a") == [3]
    index.expire(Micros(110))
    assert held(index, keys(1, 2, 3), "a") == [2]


def test_a_removal_outweighs_a_claim() -> None:
    index = fleet("a")
    route(index, "r", "a", keys(1, 2))
    index.removed(EndpointId("a"), keys(2))
    assert held(index, keys(1, 2), "a") == [1]
    end(index, "r", 0, computed=False)
    assert held(index, keys(1, 2), "a") == [0]


def test_an_assumed_endpoint_evicts_the_oldest_prompt_from_its_tail() -> None:
    index = fleet(assumed=4)
    route(index, "r1", "assumed", keys(1, 2, 3))
    route(index, "r2", "assumed", keys(7, 8, 9))
    assert held(index, keys(1, 2, 3), "assumed") == [1]
    assert held(index, keys(7, 8, 9), "assumed") == [3]


def test_an_assumed_endpoint_counts_in_the_prompts_block_size() -> None:
    index = fleet(assumed=4)
    index.routed(RequestId("r"), EndpointId("assumed"), keys(*range(10)), Micros(0), block_size=8)
    assert held(index, keys(*range(10)), "assumed") == [8]


def test_an_assumed_endpoint_of_unknown_capacity_gets_a_modest_one() -> None:
    index = fleet(assumed=0)
    route(index, "r", "assumed", keys(*range(BLOCKS_UNKNOWN + 5)))
    assert index.stats().endpoints[0].hbm == BLOCKS_UNKNOWN


def test_reports_of_strangers_are_counted_and_ignored() -> None:
    index = fleet("a", assumed=4)
    index.stored(EndpointId("who"), keys(1, 2))
    index.removed(EndpointId("assumed"), keys(1))
    index.cleared(EndpointId("who"))
    assert (index.stats().blocks, index.stats().ignored) == (0, 3)


def test_an_endpoint_that_starts_to_report_is_forgotten_first() -> None:
    index = fleet(assumed=4)
    route(index, "r", "assumed", keys(1, 2))
    index.add(EndpointId("assumed"), exact=True, kv_blocks=4, block_size=16)
    assert held(index, keys(1, 2), "assumed") == [0]
    end(index, "r", 0, computed=True)
    assert index.stats().holders == 0


def test_a_full_index_refuses_and_says_so() -> None:
    index = fleet("a", "b", blocks_max=3)
    index.stored(EndpointId("a"), keys(1, 2, 3, 4))
    index.stored(EndpointId("b"), keys(1, 2, 3, 4))
    assert held(index, keys(1, 2, 3, 4), "a", "b") == [3, 3]
    assert index.stats().refused == 2


def test_clearing_is_at_once_and_sweeping_frees_the_slot_later() -> None:
    index = fleet("a", "b", blocks_max=100_000)
    blocks = keys(*range(30_000))
    index.stored(EndpointId("a"), blocks)
    index.stored(EndpointId("b"), blocks[:10])
    index.cleared(EndpointId("a"))
    assert held(index, blocks, "a", "b") == [0, 10]
    index.stored(EndpointId("a"), blocks[:5])
    for _ in range(100):
        index.expire(Micros(0))
    stats = index.stats()
    assert (stats.blocks, stats.sweeping) == (10, 0)
    assert held(index, blocks, "a", "b") == [5, 10]


def test_an_endpoint_that_clears_all_the_time_uses_few_slots() -> None:
    index = fleet("a")
    for i in range(2000):
        index.stored(EndpointId("a"), keys(i))
        index.cleared(EndpointId("a"))
    assert index._slots.width < 20


def test_lower_tiers_extend_the_prefix() -> None:
    index = fleet("a", "b")
    index.stored(EndpointId("a"), keys(1, 2), Tier.HBM)
    index.stored(EndpointId("a"), keys(3), Tier.DRAM)
    index.stored(EndpointId("b"), keys(1, 2, 3, 4), Tier.DISK)
    found = index.lookup_tiers(keys(1, 2, 3, 4), [At(EndpointId("a")), At(EndpointId("b"))])
    assert (found.hbm, found.lower) == ([2, 0], [(Tier.DRAM, [3, 0]), (Tier.DISK, [3, 4])])
    index.cleared(EndpointId("b"))
    assert index.lookup_tiers(keys(1), [At(EndpointId("b"))]).lower == [(Tier.DRAM, [0]), (Tier.DISK, [0])]


def test_a_lookup_of_an_unknown_endpoint_is_a_bug() -> None:
    with pytest.raises(KeyError):
        held(fleet("a"), keys(1), "b")


def test_the_sweep_gives_memory_back() -> None:
    holders = Holders(1000)
    holders.store(keys(*range(1000)), 1, 1000)
    visited = sum(holders.sweep(i, 1) for i in range(holders.shards))
    assert (visited, holders.size, list(holders.items())) == (1000, 0, [])
