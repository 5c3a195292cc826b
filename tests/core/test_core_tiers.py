"""KV below the GPU: what it is worth, shared stores, and whose the reused tokens are."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from rich.console import Console

from pilothouse.cli import showing
from pilothouse.core.commands import Reuse, Route
from pilothouse.core.events import BlocksCleared, BlocksRemoved, BlocksStored, Tier
from pilothouse.core.handover import TOKEN_BYTES
from pilothouse.core.tiers import LOWER, USUAL_GB_PER_S
from pilothouse.core.units import BlockKey, EndpointId
from tests.core.worlds import BLOCK, NOW, World, arrived, blocks, finished, first_token, given, gone, seen
from tests.sim.simulated import many, small

POLICIES = ["marginal_cost", "cache_and_load"]
COUNT = 12  # blocks of the prompts here


def put(endpoint: str, prompt: str | list[BlockKey], tier: Tier) -> BlocksStored:
    keys = blocks(prompt) if isinstance(prompt, str) else prompt
    return BlocksStored(NOW, EndpointId(endpoint), keys, tier)


def fleet(*names: str, policy: str = "marginal_cost", **more: Any) -> World:
    world = given("", policy)
    return world.when(*(seen(name, exact=True, block_size=BLOCK, **more) for name in names))


def candidates(world: World) -> dict[str, tuple[int, list[int]]]:
    """(cached tokens, of these in lower tiers) of all who were looked at."""
    return {c.endpoint: (c.cached_tokens, c.lower_tokens) for c in world.last_route().why.candidates}


places = st.integers(1, 2 ** len(Tier) - 1).map(lambda bits: {t for i, t in enumerate(Tier) if bits >> i & 1})
placements = st.lists(st.one_of(st.just(set[Tier]()), places), min_size=COUNT, max_size=COUNT)
slower = places.filter(lambda held: Tier.HBM not in held)


@given_any(placements, st.integers(0, COUNT - 1), slower, st.data(), st.sampled_from(POLICIES))
@settings(max_examples=60)
def test_a_block_in_a_faster_tier_never_scores_lower(
    placed: list[set[Tier]], which: int, held: set[Tier], data: st.DataObject, policy: str
) -> None:
    """A copy more, in a faster tier than a block's others: the endpoint does not lose against the same other one."""
    tiers = list(Tier)
    faster = data.draw(st.sampled_from(tiers[: min(map(tiers.index, held))]))
    before = [held if i == which else places for i, places in enumerate(placed)]
    after = [held | {faster} if i == which else places for i, places in enumerate(placed)]
    assert _advantage(after, policy) >= _advantage(before, policy) * (1 - 1e-9)


def _advantage(placed: list[set[Tier]], policy: str) -> float:
    """The score of an endpoint whose blocks lie there, over that of an endpoint with nothing."""
    prompt, world = blocks(f"p:{COUNT}"), fleet("a", "b", policy=policy)
    world.when(arrived("first", 5000, pinned=EndpointId("a"))).after(s=1)  # so that its speed is known
    world.when(first_token("first"), finished("first"))
    for i, places in enumerate(placed):
        world.when(*(put("a", [prompt[i]], tier) for tier in sorted(places)))
    world.when(arrived("r", prompt=f"p:{COUNT}"))
    scores = {c.endpoint: c.total for c in world.last_route().why.candidates}
    return scores[EndpointId("a")] / scores[EndpointId("b")]


@given_any(placements, st.integers(0, COUNT))
@settings(max_examples=60)
def test_tokens_by_tier_add_up_as_an_engine_would_use_them(placed: list[set[Tier]], length: int) -> None:
    """Against block by block: HBM without a gap, then whatever lower tiers have, until neither does."""
    prompt, world = blocks(f"p:{COUNT}"), fleet("a")
    for i, places in enumerate(placed):
        world.when(*(put("a", [prompt[i]], tier) for tier in sorted(places)))
    world.when(arrived("r", prompt=f"p:{length}"))
    hbm = next((i for i, places in enumerate(placed[:length]) if Tier.HBM not in places), length)
    end = next((i for i in range(hbm, length) if not placed[i] - {Tier.HBM}), length)
    cached, lower = candidates(world)["a"]
    assert cached == end * BLOCK and sum(lower) == (end - hbm) * BLOCK
    if lower:
        assert [tier for tier, tokens in zip(LOWER, lower, strict=True) if tokens]
        reach = hbm
        for i, tokens in enumerate(lower):
            reach += tokens // BLOCK  # all that comes from this tier and faster ones is there
            assert all(placed[k] & set(LOWER[: i + 1]) for k in range(hbm, reach))


@given_any(st.integers(1, 5))
@settings(max_examples=3, deadline=None)
def test_tiers_that_hold_nothing_of_it_change_no_decision(seed: int) -> None:
    def routes(told: bool) -> list[tuple[Any, ...]]:
        driver, seen = small(many(60, seed), engines=3)
        if told:
            driver.tell_all(BlocksStored(NOW, EndpointId("e-0"), [BlockKey(1)], Tier.DRAM))
        driver.run()
        return [(r.request, r.endpoint, r.cached_tokens, r.why) for r in seen.commands(Route)]

    assert routes(told=True) == routes(told=False)


# What it is worth


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("gb_per_s", "chosen"), [(30.0, "a"), (0.0001, "b")])
def test_fetching_counts_by_what_it_takes(policy: str, gb_per_s: float, chosen: str) -> None:
    world = fleet("a", "b", policy=policy, tier_gb_per_s={Tier.DRAM: gb_per_s})
    world.when(arrived("first", 5000, pinned=EndpointId("a"))).after(s=1).when(first_token("first"), finished("first"))
    world.when(put("a", "p:100", Tier.DRAM), arrived("r", prompt="p:100"))
    assert candidates(world)["a"] == (1600, [1600, 0, 0])
    assert world.last_route().endpoint == chosen


def test_the_time_is_bytes_through_the_rate_of_each_tier() -> None:
    known = fleet("a", kv_token_bytes=100_000, tier_gb_per_s={Tier.DISK: 2.0})
    plain = fleet("a")
    for world in (known, plain):
        world.when(put("a", "p:10", Tier.DRAM), put("a", "p:40", Tier.DISK))
    usual = USUAL_GB_PER_S
    for world, token_bytes, disk in [(known, 100_000, 2.0), (plain, TOKEN_BYTES, usual[Tier.DISK])]:
        dispatcher = world.dispatcher
        found = dispatcher.chooser.known(arrived("r", prompt="p:40"), [world.endpoint("a")], NOW, 0)
        us = token_bytes / 1e3 * (160 / usual[Tier.DRAM] + 480 / disk)
        assert found.load_us == [pytest.approx(us)] and found.uncached_tokens == [1]


def test_what_is_fetched_teaches_nothing_about_computing() -> None:
    world = fleet("a").when(put("a", "p:100", Tier.DRAM), arrived("r", 1800, "p:100")).after(s=5).when(first_token("r"))
    assert world.endpoint("a").prefill_rate == 0
    world.when(finished("r"), arrived("s", 1800, "q:100")).after(s=1).when(first_token("s"))
    assert world.endpoint("a").prefill_rate == pytest.approx(1800 / 1e6)


def test_filters_keep_it_aligned() -> None:
    world = fleet("a", "b").when(put("b", "p:10", Tier.DRAM))
    known = world.dispatcher.chooser.known(
        arrived("r", prompt="p:10"), [world.endpoint("a"), world.endpoint("b")], NOW, 0
    )
    left = known.only([False, True])
    assert left.lower_tokens == [[160, 0, 0]] and left.load_us == [known.load_us[1]] and left.cached_tokens == [160]


# Stores


def shared(world: World, *names: str, store: str = "s", blocks: int = 0) -> World:
    more = {"store": store, "store_blocks": blocks}
    return world.when(*(seen(name, exact=True, block_size=BLOCK, **more) for name in names))


def test_what_one_puts_into_a_store_all_can_fetch() -> None:
    world = shared(shared(fleet("c"), "a", "b"), "x", store="another")
    world.when(put("a", "p:10", Tier.REMOTE), arrived("r", prompt="p:10"))
    nothing, whole = (0, []), (160, [0, 0, 160])
    assert candidates(world) == {"a": whole, "b": whole, "c": nothing, "x": nothing}


def test_a_store_outlives_its_engines_but_the_last() -> None:
    world = shared(fleet("c"), "a", "b").when(put("a", "p:10", Tier.REMOTE), BlocksCleared(NOW, EndpointId("a")))
    world.when(gone("a"), arrived("r", prompt="p:10"))
    assert candidates(world) == {"c": (0, []), "b": (160, [0, 0, 160])}
    shared(world.when(gone("b")), "a", "b").when(arrived("s", prompt="p:10"))
    assert candidates(world)["b"] == (0, [])


def test_a_store_drops_what_was_not_used_for_longest() -> None:
    world = shared(fleet(), "a", "b", blocks=20).when(
        put("a", "p:10", Tier.REMOTE), put("a", "q:10", Tier.REMOTE), arrived("r", prompt="p:10")
    )
    world.when(put("b", "x:10", Tier.REMOTE))
    held = {p: world.dispatcher.index.lookup_tiers(blocks(p), [world.endpoint("b")]).lower for p in ("p:10", "q:10")}
    assert held == {"p:10": [(Tier.REMOTE, [10])], "q:10": [(Tier.REMOTE, [0])]}


def test_what_a_store_is_said_to_have_dropped_is_gone_for_all() -> None:
    world = shared(fleet(), "a", "b").when(put("a", "p:10", Tier.REMOTE))
    world.when(BlocksRemoved(NOW, EndpointId("b"), blocks("p:10")[5:], Tier.REMOTE), arrived("r", prompt="p:10"))
    assert candidates(world)["a"] == (80, [0, 0, 80])


def test_a_restored_dispatcher_knows_its_stores() -> None:
    world = shared(fleet(), "a", "b", blocks=20).when(put("a", "p:10", Tier.REMOTE), put("b", "q:4", Tier.DRAM))
    again = given("", "marginal_cost")
    again.dispatcher.restore(world.dispatcher.snapshot())
    for each in (world, again):
        each.when(arrived("r", prompt="p:10"))
        assert candidates(each)["b"] == (160, [0, 0, 160])
        each.when(arrived("s", prompt="q:4"))
        assert candidates(each)["b"] == (64, [64, 0, 0])
    assert world.dispatcher.snapshot() == again.dispatcher.snapshot()


# Whose the reused tokens are


def reuse(world: World) -> tuple[Reuse | None, str]:
    route = world.last_route()
    return route.why.reuse, "" if route.why.reuse is None else route.why.reuse.told(route.endpoint)


def test_a_conversation_goes_to_who_holds_it_and_the_receipt_says_so() -> None:
    world = given("a exact cached=p:10 | b exact cached=p:10 | c exact", "marginal_cost")
    world.when(arrived("r", prompt="p:10", session=7))
    first = world.last_route().endpoint
    assert reuse(world) == (Reuse(0, 160, 1, None), "shared prefix: 160 tokens, also on 1 other")
    world.after(s=1).when(first_token("r"), finished("r"), put(first, "p:40", Tier.HBM))
    world.when(arrived("s", prompt="p:50", session=7))
    assert world.last_route().endpoint == first
    told = "holds this conversation: 480 tokens beyond the shared prefix; shared prefix: 160 tokens, also on 1 other"
    assert reuse(world) == (Reuse(480, 160, 1, EndpointId(first)), told)


def test_a_conversation_that_has_to_move_says_where_it_was() -> None:
    world = given("a exact cached=p:10 | b exact cached=p:4", "marginal_cost").when(
        arrived("r", prompt="p:10", session=7)
    )
    assert reuse(world) == (Reuse(96, 64, 1, None), reuse(world)[1])
    world.when(finished("r"), gone("a"), arrived("s", prompt="p:10", session=7))
    assert reuse(world) == (
        Reuse(64, 0, 0, EndpointId("a")),
        "alone holds more of this prompt: 64 tokens; this conversation was on a before",
    )


def test_nothing_reused_nothing_told() -> None:
    assert reuse(given("a exact | b exact").when(arrived("r", prompt="p:10"))) == (None, "")


def test_explain_shows_both(monkeypatch: pytest.MonkeyPatch) -> None:
    world = given("a exact cached=p:10 | b exact cached=p:4", "marginal_cost")
    route = world.when(put("a", "p:30", Tier.DISK), arrived("r", prompt="p:30")).last_route()
    console = Console(record=True, width=240)
    monkeypatch.setattr(showing, "console", console)
    monkeypatch.setattr(showing, "_decided", lambda journal, request: [route])
    showing.explain("r", "", Path("journal"), False)
    said = console.export_text()
    assert "alone holds more of this prompt: 96 tokens beyond the shared prefix; shared prefix: 64 tokens" in said
    assert "480 (160+0+320+0)" in said and "HBM+DRAM+disk+remote" in said
