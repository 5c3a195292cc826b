"""Where a request goes: each shipped policy, ties, the trade between cache and load, and who may be chosen at all."""

from typing import Any

import pytest

from pilothouse.core.commands import RejectReason, Route
from pilothouse.core.events import FailureKind
from pilothouse.core.units import EndpointId
from pilothouse.policies.profiles import DEFAULT, PROFILES
from tests.core.worlds import (
    arrived,
    cancelled,
    failed,
    finished,
    first_token,
    given,
    gone,
    probed,
    reject,
    reported,
    route,
    seen,
)

WHERE = [
    # policy, fleet, prompt, goes to
    ("cache_and_load", "a busy=1x500 | b", "", "b"),
    ("cache_and_load", "a cached=p:10 | b", "p:20", "a"),
    ("cache_and_load", "a cached=p:10 | b cached=p:15", "p:20", "b"),
    ("cache_and_load", "a streaming=3 | b streaming=2", "", "b"),
    ("cache_and_load", "a running=4 | b", "", "b"),  # requests that are not ours
    ("least_requests", "a streaming=2 | b streaming=1", "", "b"),
    ("least_requests", "a cached=p:50 streaming=1 | b", "p:50", "b"),
    ("least_requests", "a queue=3 | b running=2", "", "b"),
    ("round_robin", "a busy=9x900 | b", "", "a"),
    ("session_affinity", "a busy=1x500 | b", "", "b"),
]


@pytest.mark.parametrize(("policy", "fleet", "prompt", "endpoint"), WHERE)
def test_each_policy(policy: str, fleet: str, prompt: str, endpoint: str) -> None:
    given(fleet, policy).when(arrived("r", prompt=prompt)).expect(route("r", endpoint))


TRADES = [
    # A prompt of 1000 blocks, 16,000 tokens: half of it cached on a, which is busy; b is idle and cold.
    ("a cached=p:500 busy=1x7000 | b", "a"),  # 7,000 + 8,001 + 2,000 < 16,001 + 4,000
    ("a cached=p:500 busy=1x11000 | b", "b"),  # 11,000 + 8,001 + 2,000 > 16,001 + 4,000
    ("a cached=p:999 busy=1x12000 | b", "a"),
    ("a cached=p:999 streaming=200 | b", "a"),  # even a fully loaded engine answers a cached prompt sooner
    ("a cached=p:100 streaming=50 | b", "b"),
    ("a cached=p:500 busy=1x9000 | b busy=1x9000", "a"),
]


@pytest.mark.parametrize(("fleet", "endpoint"), TRADES)
def test_cache_against_load(fleet: str, endpoint: str) -> None:
    given(fleet).when(arrived("r", prompt="p:1000")).expect(route("r", endpoint))


def test_a_route_counts_on_whole_cached_blocks_and_never_on_the_last_token() -> None:
    world = given("a cached=p:10")
    world.when(arrived("r", tokens=160, prompt="p:10")).expect(route("r", "a", cached_tokens=144))
    world.when(arrived("s", tokens=161, prompt="p:10")).expect(route("s", "a", cached_tokens=160))


def test_a_routed_prompt_counts_as_cached_before_the_engine_reports_it() -> None:
    world = given("a exact | b exact | c exact").when(arrived("r1", prompt="p:100")).expect(route("r1", "a"))
    world.when(first_token("r1"), arrived("r2", prompt="p:100")).expect(route("r2", "a", cached_tokens=1600))


def test_a_burst_of_one_prompt_on_an_idle_fleet_is_not_computed_everywhere() -> None:
    world = given(" | ".join(f"e{i}" for i in range(8)))
    for i in range(6):
        world.when(arrived(f"r{i}", prompt="p:500")).expect(route(f"r{i}", "e0"))


def test_two_models_on_the_same_engines_take_turns_each() -> None:
    world = given("a models=m,n | b models=m,n", "round_robin")
    for i in range(4):
        world.when(arrived(f"m{i}", 10)).expect(route(f"m{i}", "ab"[i % 2]))
        world.when(arrived(f"n{i}", 10, model="n")).expect(route(f"n{i}", "ab"[i % 2]))


def test_a_prefix_that_is_being_computed_is_worth_waiting_for_when_the_others_are_busier() -> None:
    world = given("a | b busy=1x400").when(arrived("r1", prompt="p:100")).expect(route("r1", "a", cached_tokens=0))
    world.when(arrived("r2", prompt="p:100")).expect(route("r2", "a", cached_tokens=1600))


@pytest.mark.parametrize("policy", ["cache_and_load", "least_requests", "session_affinity", "round_robin"])
def test_ties_rotate(policy: str) -> None:
    world, endpoints = given("a | b | c", policy), []
    for i in range(6):
        world.when(arrived(f"r{i}", 100)).expect(route(f"r{i}", endpoints_of(world)[i % 3]))
        endpoints.append(world.last_route().endpoint)
        world.when(finished(f"r{i}"))
    assert endpoints == ["a", "b", "c", "a", "b", "c"]


def endpoints_of(world: Any) -> list[str]:
    return list(world.dispatcher.fleet.endpoints)


def test_the_random_policy_uses_every_endpoint_and_the_seed_alone() -> None:
    def routed(seed: int) -> list[str]:
        world = given("a | b | c", "random", seed=seed)
        return [world.when(arrived(f"r{i}", 10)).last_route().endpoint for i in range(60)]

    assert set(routed(1)) == {"a", "b", "c"}
    assert routed(1) == routed(1) != routed(2)


def test_a_conversation_stays_where_it_was_until_it_is_forgotten() -> None:
    world = given("a | b", "session_affinity", sessions_max=2)
    world.when(arrived("r1", 10, session=7)).expect(route("r1", "a"))
    world.when(arrived("r2", 10, session=8)).expect(route("r2", "b"))
    world.when(arrived("r3", 10, session=7)).expect(route("r3", "a"))
    world.when(arrived("r4", 10, session=9)).expect(route("r4", "b"))  # the third conversation: 8 is forgotten
    assert list(world.dispatcher.sessions.last.items()) == [(7, "a"), (9, "b")]


def test_a_conversation_whose_engine_is_ejected_moves_and_stays() -> None:
    world = given("a | b", "session_affinity").when(arrived("r1", 10, session=7)).expect(route("r1", "a"))
    world.when(failed("r1", FailureKind.CONNECT)).expect(route("r1", "b", attempt=2))
    world.when(finished("r1")).after(s=60).when(probed("a", True))
    world.when(arrived("r2", 10, session=7)).expect(route("r2", "b"))


def test_an_old_report_says_nothing() -> None:
    world = given("a running=9 | b", "least_requests").after(s=10)
    world.when(arrived("r1", 10)).expect(route("r1", "b"))
    world.after(ms=1).when(arrived("r2", 10), cancelled("r1")).expect(route("r2", "a"))


@pytest.mark.parametrize("scorer", ["queue_depth", "kv_free"])
def test_an_old_report_says_nothing_to_a_scorer(scorer: str) -> None:
    world = given("a queue=128 kv=1 | b", {"scorers": [scorer]})
    world.when(arrived("r1", 10)).expect(route("r1", "b"))
    world.after(s=11).when(arrived("r2", 10))
    assert [c.scores for c in world.last_route().why.candidates] == [[0.5], [0.5]]


def test_an_old_report_leaves_nobody_out() -> None:
    world = given("a kv=.99 | b busy=2x10", {"filters": ["kv_headroom"], "scorers": ["least_requests"]})
    world.when(arrived("r1", 10)).expect(route("r1", "b"))
    world.after(s=11).when(arrived("r2", 10)).expect(route("r2", "a"))


def test_requests_of_ours_are_not_counted_twice_when_a_report_shows_them() -> None:
    world = given("a streaming=4 | b streaming=5", "least_requests").when(reported("a", running=4))
    world.when(arrived("r", 10)).expect(route("r", "a"))
    world.when(reported("b", running=1, queue=0))
    assert world.endpoint("b").others == 0, "a report that lags behind the ledger is no debt"


WHO = [
    # fleet, model, goes to (None: nobody, it waits)
    ("a models=x | b models=m", "m", "b"),
    ("a models=x,m ejected | b models=m", "m", "b"),
    ("a ejected", "m", None),
    ("", "m", None),
]


@pytest.mark.parametrize(("fleet", "model", "endpoint"), WHO)
def test_who_may_be_chosen(fleet: str, model: str, endpoint: str | None) -> None:
    world = given(fleet).when(arrived("r", 10, model=model))
    world.expect(*([route("r", endpoint)] if endpoint else []))
    assert len(world.dispatcher.waiting.line) == (endpoint is None)


def test_an_unknown_model_is_refused_at_once_if_there_are_engines() -> None:
    given("a | b").when(arrived("r", 10, model="z")).expect(reject("r", RejectReason.UNKNOWN_MODEL))


def test_a_model_that_the_fleet_is_said_to_serve_waits_for_its_first_engine() -> None:
    world = given("a | b", declared=("z",)).when(arrived("r", 10, model="z")).expect()
    world.when(seen("c", models="z")).expect(route("r", "c"))


def test_a_model_is_not_unknown_because_the_engines_that_left_still_work() -> None:
    """Whether the last requests of a departed engine have ended says nothing about the next one."""
    idle = given("a").when(gone("a"))
    idle.when(arrived("r", 10)).expect()
    draining = given("a streaming=1").when(gone("a"))
    draining.when(arrived("r", 10)).expect()
    draining.when(seen("b")).expect(route("r", "b"))


def test_a_pinned_request_goes_there_or_is_refused() -> None:
    world = given("a busy=5x900 | b")
    world.when(arrived("r", 10, pinned=EndpointId("a"))).expect(route("r", "a"))
    world.when(arrived("s", 10, pinned=EndpointId("z"))).expect(reject("s", RejectReason.PINNED_GONE))
    world.when(gone("a"), arrived("t", 10, pinned=EndpointId("a"))).expect(reject("t", RejectReason.PINNED_GONE))


def test_a_pinned_request_waits_for_its_ejected_engine() -> None:
    world = given("a ejected | b").when(arrived("r", 10, pinned=EndpointId("a"))).expect()
    world.after(s=2).when(probed("a", True)).expect(route("r", "a"))


def test_a_pinned_request_is_tried_again_where_it_must_go() -> None:
    world = given("a | b").when(arrived("r", 10, pinned=EndpointId("a"))).expect(route("r", "a"))
    world.when(failed("r", FailureKind.ERROR)).expect(route("r", "a", attempt=2))


def test_a_departed_engine_finishes_what_it_has_and_gets_nothing_new() -> None:
    world = given("a busy=1x100 | b streaming=3", "least_requests").when(gone("a"))
    world.when(arrived("r", 10)).expect(route("r", "b"))
    world.when(first_token("busy-a-0"), finished("busy-a-0")).expect()
    assert list(world.dispatcher.fleet.endpoints) == ["b"]


def test_an_engine_that_comes_back_still_has_what_was_in_flight() -> None:
    world = given("a busy=2x100", "least_requests").when(gone("a"), seen("a")).ledger(a=(200, 2))
    world.when(finished("busy-a-0"), cancelled("busy-a-1")).ledger(a=(0, 0))
    world.when(arrived("r", 10)).expect(route("r", "a"))


def test_an_engine_gone_and_forgotten_comes_back_as_a_new_one() -> None:
    world = given("a cached=p:10 ejected").when(gone("a"), seen("a", exact=True, block_size=16))
    world.when(arrived("r", prompt="p:10")).expect(route("r", "a", cached_tokens=0))


def test_an_engine_that_begins_to_list_a_model_takes_what_waits_for_it() -> None:
    world = given("a models=x").when(seen("b", models="m"), gone("b"))
    world = given("a ejected | b models=x").when(arrived("r", 10)).expect()
    world.when(seen("b", models="x,m")).expect(route("r", "b"))


def test_the_receipt_shows_every_candidate_best_first() -> None:
    world = given("a busy=1x984 | b streaming=1 | c models=x", "cache_and_load").when(arrived("r", 984))
    why = world.last_route().why
    assert [(c.endpoint, c.in_flight, c.prefill_tokens) for c in why.candidates] == [("b", 1, 0), ("a", 1, 984)]
    assert why.candidates[0].scores == [1.0] and why.considered == 2


def test_the_receipt_of_a_large_fleet_is_cut_and_begins_with_the_chosen_one() -> None:
    fleet = " | ".join(f"e{i} streaming={i % 7}" for i in range(40))
    world = given(fleet, "round_robin", why_max=5)
    for i in range(3):
        why = world.when(arrived(f"r{i}", 10)).last_route().why
        assert (len(why.candidates), why.considered, why.candidates[0].endpoint) == (5, 40, f"e{i}")


def test_every_shipped_policy_routes() -> None:
    assert DEFAULT in PROFILES
    for policy in PROFILES:
        world = given("a | b cached=p:3", policy).when(arrived("r", prompt="p:9", session=5))
        assert isinstance(world.commands[0], Route) and world.commands[0].why.profile == policy
