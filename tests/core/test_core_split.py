"""Requests whose prompt somebody else computes: when, by whom, and what becomes of them when that goes wrong."""

import pytest

from pilothouse.core.choosing import Chooser
from pilothouse.core.commands import RejectReason, Route
from pilothouse.core.events import FailureKind
from tests.core.worlds import (
    World,
    abort,
    arrived,
    cancelled,
    failed,
    finished,
    first_token,
    given,
    gone,
    prefill_done,
    probed,
    reject,
    route,
)

ALWAYS = {"like": "marginal_cost", "decider": "always"}
REQUIRED = {"like": "marginal_cost", "decider": {"type": "always", "fallback": "error"}}
PAIR = "p prefill | d decode"
TWICE = "p prefill | q prefill | d decode | e decode"


def prefiller(world: World) -> str | None:
    step = world.last_route().prefill
    return step and step.endpoint


def test_both_ends_are_charged_each_with_its_own_part() -> None:
    world = given(PAIR, ALWAYS).when(arrived("r", 1000)).expect(route("r", "d"))
    assert prefiller(world) == "p"
    world.ledger(p=(1000, 1), d=(0, 1))
    world.after(ms=50).when(prefill_done("r")).ledger(p=(0, 0), d=(0, 1)).contexts(d=(1000, 0))
    world.after(ms=20).when(first_token("r")).contexts(d=(1000, 1))
    world.after(ms=100).when(finished("r")).ledger(p=(0, 0), d=(0, 0)).contexts(d=(0, 0))


def test_the_index_knows_both_caches_afterwards() -> None:
    world = given(PAIR, ALWAYS).when(arrived("r", prompt="x:20"))
    world.when(prefill_done("r"), first_token("r"), finished("r"), arrived("s", prompt="x:20"))
    assert world.last_route().cached_tokens == world.last_route().prefill.cached_tokens == 20 * 16  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "fleet",
    [
        "p prefill exchange=one | d decode exchange=two",
        "p prefill exchange= | d decode exchange=",  # what is not known to be alike is not
        "p prefill ejected | d decode",
        "p prefill models=n | q prefill ejected | d decode",
        "p prefill | d",
    ],
)
def test_who_cannot_exchange_kv_is_no_partner(fleet: str) -> None:
    world = given(fleet, ALWAYS).when(arrived("r", 1000)).expect(route("r", "d", prefill=None))
    assert not world.last_split().split and "no prefill endpoint" in world.last_split().reason
    given(fleet, REQUIRED, wait_us_max=1_000_000).when(arrived("r", 1000)).expect().then_ticks(3).expect(
        reject("r", RejectReason.NO_PREFILL)
    )


def test_nobody_decides_where_nobody_prefills() -> None:
    world = given("a | b", ALWAYS).when(arrived("r", 1000)).expect(route("r", "a", prefill=None))
    assert world.last_route().why.split is None


def test_prefill_endpoints_answer_nobody() -> None:
    world = given("p prefill", ALWAYS, wait_us_max=1_000_000).when(arrived("r", 1000)).expect()
    world.then_ticks(3).expect(reject("r", RejectReason.NO_ENDPOINT))


@pytest.mark.parametrize("how", [{"splittable": False}, {"pinned": "d"}])
def test_some_prompts_cannot_be_computed_elsewhere(how: dict[str, object]) -> None:
    for policy in (ALWAYS, REQUIRED):
        given(PAIR, policy).when(arrived("r", 1000, **how)).expect(route("r", "d", prefill=None))


def test_a_failed_prefill_goes_to_another_and_then_stays_whole() -> None:
    world = given(TWICE, ALWAYS).when(arrived("r", 1000))
    first = prefiller(world)
    world.when(failed("r", FailureKind.CLOSED, prefill=True))
    assert prefiller(world) not in (None, first) and world.last_route().attempt == 2
    world.when(failed("r", FailureKind.ERROR, prefill=True)).expect(
        route("r", world.last_route().endpoint, prefill=None)
    )
    assert world.last_split().reason == "splitting it failed before"
    world.when(finished("r")).ledger(p=(0, 0), q=(0, 0), d=(0, 0), e=(0, 0))


def test_a_failure_is_laid_to_who_failed() -> None:
    world = given(PAIR, ALWAYS).when(arrived("r", 1000), failed("r", FailureKind.ERROR, prefill=True))
    assert (world.endpoint("p").failures, world.endpoint("d").failures) == (1, 0)
    world = given(PAIR, ALWAYS).when(arrived("r", 1000), prefill_done("r"), failed("r", FailureKind.ERROR))
    assert (world.endpoint("p").failures, world.endpoint("d").failures) == (0, 1)


def test_kv_that_came_too_late_is_nobodys_fault_and_another_decodes() -> None:
    world = given(TWICE, ALWAYS).when(arrived("r", 1000), prefill_done("r"))
    first = world.history[-2][1][0]
    assert isinstance(first, Route)
    world.when(failed("r", FailureKind.EXPIRED))
    assert world.last_route().endpoint != first.endpoint
    assert all(world.endpoint(name).failures == 0 for name in "pqde")


def test_a_decode_endpoint_that_dies_costs_one_attempt() -> None:
    world = given(TWICE, ALWAYS).when(arrived("r", 1000), prefill_done("r"), failed("r", FailureKind.CLOSED))
    assert world.last_route().attempt == 2 and world.last_route().prefill is not None
    world.when(cancelled("r")).ledger(p=(0, 0), q=(0, 0), d=(0, 0), e=(0, 0))


@pytest.mark.parametrize("hanging", ["p", "d"])
def test_who_hangs_gives_the_request_back(hanging: str) -> None:
    world = given(PAIR, ALWAYS).when(arrived("r", 1000))
    world.when(probed(hanging, False), probed(hanging, False)).expect(abort("r", hanging))


def test_a_prefill_endpoint_that_leaves_ends_what_it_has() -> None:
    world = given(PAIR, ALWAYS).when(arrived("r", 1000), gone("p"), arrived("s", 1000))
    assert world.last_route().prefill is None
    world.when(prefill_done("r"), first_token("r"), finished("r"))
    assert "p" not in world.dispatcher.fleet.endpoints


def test_how_long_a_handover_takes_is_learned() -> None:
    world = given(PAIR, ALWAYS)
    for i in range(40):
        tokens = 500 + 100 * i
        world.when(arrived(f"r{i}", tokens)).after(ms=50).when(prefill_done(f"r{i}"))
        world.after(ms=5 + tokens * 0.05).when(first_token(f"r{i}"), finished(f"r{i}"))
    handover = world.dispatcher.fleet.handover(world.endpoint("p"), world.endpoint("d"))
    assert handover.expected_us(2000) == pytest.approx(105_000, rel=0.1)
    world.when(arrived("s", 2000))
    assert world.last_split().transfer_us == int(handover.expected_us(2000))


def warm(fleet: str, policy: object = "marginal_cost") -> World:
    """A fleet whose speeds are learned: 20 us a token to compute, 10 ms a step."""
    world = given(fleet, policy)
    speed = world.dispatcher.fleet.speed(world.endpoint(fleet.split(maxsplit=1)[0]))
    speed.theta[:] = [10_000.0, 50.0, 0.01, 20.0, 0.0]
    speed.answers = 1000
    return world


def test_the_default_splits_what_others_would_wait_for() -> None:
    busy = "p prefill | d decode streaming=40 cached=x:60"
    assert prefiller(warm(busy).when(arrived("r", 16_000))) == "p"
    assert prefiller(warm(busy).when(arrived("r", 20))) is None, "a handover costs more"
    assert prefiller(warm(busy).when(arrived("r", prompt="x:60"))) is None, "its KV is there"
    assert prefiller(warm("p prefill | d decode").when(arrived("r", 16_000))) is None, "nobody is disturbed"
    assert prefiller(warm("p prefill | d decode streaming=1").when(arrived("r", 1000))) is None, "one waits, briefly"


def test_the_default_spares_a_busy_prefill_pool() -> None:
    world = warm("p prefill | d decode streaming=10", {"like": "marginal_cost", "queue": None})
    split = [prefiller(world.when(arrived(f"r{i}", 6000))) == "p" for i in range(30)]
    assert split[0] and 5 < sum(split) < 25, "both work, neither takes all"


def test_a_threshold_counts_what_is_not_cached() -> None:
    world = given("p prefill | d decode cached=x:60", {"like": "round_robin", "decider": {"type": "threshold"}})
    assert prefiller(world.when(arrived("r", prompt="x:90"))) is None
    assert prefiller(world.when(arrived("s", prompt="y:40"))) == "p"
    assert prefiller(given(PAIR, {"like": "marginal_cost", "decider": "never"}).when(arrived("r", 9000))) is None


@pytest.mark.parametrize(("decider", "choices"), [("never", 1), ("threshold", 1), ("pays", 3), ("always", 3)])
def test_the_ends_of_a_split_are_chosen_only_where_they_matter(
    decider: str, choices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[str]()
    choose = Chooser.choose
    monkeypatch.setattr(Chooser, "choose", lambda self, *rest: made.append("") or choose(self, *rest))
    given(PAIR, {"like": "marginal_cost", "decider": decider}).when(arrived("r", 100))
    assert len(made) == choices
